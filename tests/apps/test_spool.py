"""Where request bodies are kept: in memory while there is room for all of them, else on disk."""

from __future__ import annotations

import gc
import socket
import sys

from forkd.session.spool import Room, Spool
from tests.process.conftest import Daemon, until

#: What a piece takes of the room besides its bytes.
PIECE = 64


def in_memory(spool: Spool) -> bool:
    return spool._file is None


def test_a_body_above_the_limit_goes_to_disk() -> None:
    spool = Spool(10, Room(1000))
    spool.write(b"0123456789")
    assert in_memory(spool)
    spool.write(b"abc")
    assert not in_memory(spool)
    assert (spool.rewind().read(), spool.size) == (b"0123456789abc", 13)


def test_bodies_share_the_room_and_give_it_back() -> None:
    room = Room(100 + 2 * PIECE)
    one, two = Spool(80, room), Spool(80, room)
    one.write(b"x" * 60)
    two.write(b"y" * 40)
    two.write(b"z")  # is one too many, and so goes to disk with what was there
    assert (in_memory(one), in_memory(two)) == (True, False)
    assert two.rewind().read() == b"y" * 40 + b"z"
    three = Spool(80, room)
    three.write(b"x" * 40)
    assert in_memory(three)
    one.rewind().close()
    four = Spool(80, room)
    four.write(b"x" * 60)
    assert in_memory(four)
    del three, four
    gc.collect()
    last = [Spool(80, room), Spool(80, room)]
    for spool in last:
        spool.write(b"x" * 50)
    assert all(map(in_memory, last))


def test_a_body_of_known_length_is_received_where_it_will_be_read() -> None:
    room = Room(200)
    spool = Spool(100, room)
    space = spool.reserve(100, bytes)
    assert space is not None
    spool.write(b"a" * 40)
    space[40:90] = b"b" * 50
    spool.write(space[40:90])
    spool.write(b"c" * 10)  # a driver comes with bytes of its own
    del space
    body = spool.rewind()
    assert (body.read(), spool.size) == (b"a" * 40 + b"b" * 50 + b"c" * 10, 100)
    assert not room.take(101)
    body.close()
    assert room.take(200)


def test_a_body_that_is_collected_while_it_is_received_gives_its_room_back() -> None:
    room = Room(200)
    spool = Spool(100, room)
    circle: list[object] = [spool, spool.reserve(100, bytes)]
    circle.append(circle)
    failed: list[object] = []
    before, sys.unraisablehook = sys.unraisablehook, failed.append
    try:
        del spool, circle
        gc.collect()
    finally:
        sys.unraisablehook = before
    assert (failed, room.take(200)) == ([], True)


def test_half_of_the_room_is_kept_from_bodies_that_were_only_announced() -> None:
    room = Room(200)
    spools = [Spool(100, room) for _ in range(4)]
    assert spools[0].reserve(101, bytes) is None  # above its limit
    assert [spool.reserve(60, bytes) is not None for spool in spools] == [True, False, False, False]
    assert spools[1].reserve(40, bytes) is not None
    spools[2].write(b"x" * 36)
    assert in_memory(spools[2])
    assert spools[2].rewind().read() == b"x" * 36
    del spools[:]
    gc.collect()
    assert room.take(200)


def test_uploads_that_never_end_do_not_fill_the_memory(service: Daemon) -> None:
    size, count = 4 << 20, 60
    service.start("-w", "1", "--body-buffer", "8M", "--body-timeout", "60")
    before = service.workers()[0]["rss_bytes"]
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (size + 1)
    clients: list[socket.socket] = []
    for _ in range(count):
        client = service.connect()
        client.sendall(head + bytes(size))
        clients.append(client)
    # It serves others, and by then has taken nearly all that was sent.
    assert service.get() == "v1"
    grown = service.workers()[0]["rss_bytes"] - before
    assert grown < 160 << 20, grown  # of 240 MB; 64 MiB are in memory, and what malloc keeps
    for client in clients:
        client.sendall(b"x")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
        client.close()
    until(lambda: service.metric("forkd_connections") == 0, "all gone")
