"""A socket file at a path that forkd is to have: removed if nobody has it, and never otherwise."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forkd.errors import BindError
from forkd.ipc.control import Command, ControlServer
from forkd.system import sockets
from forkd.system.address import Address
from forkd.system.loop import Loop

NOBODY = pwd.getpwnam("nobody").pw_uid
Bind = Callable[[str], None]


def bind_service(path: str) -> None:
    sockets.listen(Address(kind="unix", path=path), 16).close()


def bind_control(path: str) -> None:
    def handle(request: Command) -> None:
        raise AssertionError("nobody asks")

    loop = Loop()
    try:
        ControlServer.listen(path, loop, handle).close()
    finally:
        loop.close()


@pytest.fixture(params=[bind_service, bind_control], ids=["bind", "control"])
def bind(request: pytest.FixtureRequest) -> Iterator[Bind]:
    yield request.param


def taken(path: Path, kind: socket.SocketKind, backlog: int | None = None) -> socket.socket:
    holder = socket.socket(socket.AF_UNIX, kind)
    holder.bind(str(path))
    if backlog is not None:
        holder.listen(backlog)
    return holder


def refused(bind: Bind, path: Path) -> str:
    """What the error says; the file must be the same afterwards."""
    before = path.stat().st_ino
    with pytest.raises(BindError) as caught:
        bind(str(path))
    assert path.stat().st_ino == before
    text = str(caught.value)
    assert str(path) in text
    assert "remove the file" in text
    return text


@pytest.mark.parametrize(
    ("kind", "backlog"),
    [(socket.SOCK_DGRAM, None), (socket.SOCK_SEQPACKET, 1), (socket.SOCK_SEQPACKET, None)],
)
def test_a_live_socket_of_another_kind_is_kept(
    tmp_path: Path, bind: Bind, kind: socket.SocketKind, backlog: int | None
) -> None:
    with taken(tmp_path / "s", kind, backlog):
        assert "datagram or seqpacket" in refused(bind, tmp_path / "s")


def test_one_whose_queue_is_full_is_kept(tmp_path: Path, bind: Bind) -> None:
    with taken(tmp_path / "s", socket.SOCK_STREAM, 0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(tmp_path / "s"))
        assert "queue is full" in refused(bind, tmp_path / "s")


def test_one_that_answers_is_kept(tmp_path: Path, bind: Bind) -> None:
    with taken(tmp_path / "s", socket.SOCK_STREAM, 5):
        assert f"pid {os.getpid()} " in refused(bind, tmp_path / "s")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("alive", [True, False])
def test_one_that_may_not_be_probed_is_kept(tmp_path: Path, bind: Bind, alive: bool) -> None:
    """Mode 0600 of another user: whether anybody listens cannot be known."""
    path = tmp_path / "s"
    tmp_path.chmod(0o777)  # whoever may write to the directory might unlink it
    for directory in tmp_path.parents:
        if directory.stat().st_mode & 0o055 != 0o055:
            directory.chmod(0o755)
    with taken(path, socket.SOCK_STREAM, 5) as holder:
        path.chmod(0o600)
        if not alive:
            holder.close()
        os.seteuid(NOBODY)
        try:
            assert "another user" in refused(bind, path)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_one_that_has_outlived_its_socket_is_replaced(
    tmp_path: Path, bind: Bind, kind: socket.SocketKind
) -> None:
    taken(tmp_path / "s", kind).close()
    bind(str(tmp_path / "s"))
    assert not (tmp_path / "s").exists()  # bound, and closed again


def test_what_is_no_socket_is_kept(tmp_path: Path, bind: Bind) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(BindError, match="not a socket"):
        bind(str(tmp_path / "s"))
    assert (tmp_path / "s").read_text() == "precious"
