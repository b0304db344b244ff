"""A hijacked socket returns what was unread before what is in the kernel, by each method that receives."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from forkd.engine.hijack import HijackedSocket
from forkd.system.cells import RECEIVED
from forkd.system.scoreboard import scratch_row

PEEK = socket.MSG_PEEK


@pytest.fixture
def pair() -> Iterator[tuple[HijackedSocket, socket.socket]]:
    ours, client = socket.socketpair()
    row = scratch_row()
    with HijackedSocket(ours, row.recorder(False)) as taken, client:
        taken.row = row  # type: ignore[attr-defined]
        yield taken, client


def into(call: Callable[[bytearray], int]) -> bytes:
    buffer = bytearray(4)
    return bytes(buffer[: call(buffer)])


WAYS: dict[str, Callable[[HijackedSocket, int], bytes]] = {
    "recv": lambda sock, flags: sock.recv(4, flags),
    "recv_into": lambda sock, flags: into(lambda buffer: sock.recv_into(buffer, 0, flags)),
    "recv_into, sized": lambda sock, flags: into(lambda buffer: sock.recv_into(buffer, 4, flags=flags)),
    "recvfrom": lambda sock, flags: sock.recvfrom(4, flags)[0],
    "recvfrom_into": lambda sock, flags: into(lambda buffer: sock.recvfrom_into(buffer, 0, flags)[0]),
    "recvmsg": lambda sock, flags: sock.recvmsg(4, 0, flags)[0],
    "recvmsg_into": lambda sock, flags: into(
        lambda buffer: sock.recvmsg_into([bytearray(), buffer], 0, flags)[0]
    ),
}


@pytest.mark.parametrize("receive", WAYS.values(), ids=WAYS)
def test_it_comes_first(
    pair: tuple[HijackedSocket, socket.socket], receive: Callable[[HijackedSocket, int], bytes]
) -> None:
    taken, client = pair
    client.sendall(b"kernel")
    taken.unread(b"ad")
    taken.unread(b"unre")
    assert receive(taken, PEEK) == b"unre"
    assert [receive(taken, 0) for _ in range(2)] == [b"unre", b"ad"]
    assert receive(taken, PEEK) == b"kern"
    assert [receive(taken, 0) for _ in range(2)] == [b"kern", b"el"]
    assert taken.row.cells[RECEIVED] == 6  # type: ignore[attr-defined]


def test_a_file_reads_over_both(pair: tuple[HijackedSocket, socket.socket]) -> None:
    taken, client = pair
    taken.unread(b"one\nt")
    client.sendall(b"wo\n")
    client.shutdown(socket.SHUT_WR)
    with taken.makefile("rb") as file:
        assert file.readlines() == [b"one\n", b"two\n"]
