"""What waits until the manager's queue has room for it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from forkd.ipc.manager import Manager
from forkd.master.systemd import Notifier
from forkd.system.address import Address
from forkd.system.loop import Loop


class Queue:
    """A manager that does not read yet."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                    sock.setblocking(False)
                    sock.connect(str(path))
                    sock.send(b"X=1")

    def read(self) -> list[str]:
        """What came, but for what `__init__` has put there."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, fds, _, _ = socket.recv_fds(self.sock, 4096, 8)
                for fd in fds:
                    os.close(fd)
                if data != b"X=1":
                    found.append(data.decode())
        return found


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue(tmp_path / "notify")
    yield made
    made.sock.close()


def listeners_of(sockets: list[socket.socket]) -> Any:
    return [
        SimpleNamespace(
            wanted=Address(kind="tcp", host="127.0.0.1", port=number), name=f"127.0.0.1:{number}",
            sockets=[sock],
        )  # fmt: skip
        for number, sock in enumerate(sockets, 1)
    ]


def test_however_much_waits_nothing_is_lost_that_stands(queue: Queue, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop, listeners = Loop(), listeners_of([ours] * 100)
        manager = Manager(str(tmp_path / "notify"))
        notifier = Notifier(loop, cast(Any, None), cast(Any, []), manager, [], {}, {})
        before = len(os.listdir("/proc/self/fd"))
        notifier.ready(1, 2, "", listeners)
        for _ in range(100):
            notifier.reloading()
            notifier.ready(1, 2, "", listeners)
        notifier.main(7)
        assert notifier.waits
        found = queue.read()
        while notifier.waits:
            loop.turn()
            found += queue.read()
        assert len(os.listdir("/proc/self/fd")) == before
        assert sum("FDSTORE=1" in text for text in found) == 100
        ready = "READY=1\nSTATUS=generation 1, 2 workers ready"
        assert [text.partition("=")[0] for text in found[-3:]] == ["RELOADING", "READY", "MAINPID"]
        assert found[-2:] == [ready, "MAINPID=7"]
        assert len(found) < 300
        loop.close()


@pytest.mark.parametrize("error", ["EMFILE", "ENOBUFS", "ETOOMANYREFS"])
def test_what_there_is_no_room_for_is_said_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    import errno

    def fails(*arguments: Any) -> None:
        raise OSError(getattr(errno, error), "on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "send_fds", fails)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with sock:
            sock.bind(str(tmp_path / "notify"))
            assert Manager(str(tmp_path / "notify")).send("READY=1") is False
    (tmp_path / "notify").unlink()
    assert Manager(str(tmp_path / "notify")).send("READY=1") is True  # nobody is there any more
