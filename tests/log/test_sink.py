"""What a log does when its file, pipe or socket does not take a line."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forkd.log.sink import Sink

COUNT = 5000
LINES = [b"%06d %s\n" % (n, b"x" * 100) for n in range(COUNT)]  # more than a pipe and the sink hold


class Watched(Sink):
    """Counts what it is told, and writes its gaps."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.errors: list[int | None] = []
        self.gone = 0
        self.failed = lambda error: self.errors.append(error.errno)
        self.lost = self._count
        self.gap = lambda lines: b"gap %d\n" % lines

    def _count(self, lines: int) -> None:
        self.gone += lines


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """write(2) is short there, and then fails with EFBIG, as on a full disk with ENOSPC."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def pipe() -> tuple[int, int]:
    return os.pipe()


def stream() -> tuple[int, int]:
    ends = socket.socketpair()
    return ends[0].detach(), ends[1].detach()


def read_all(sink: Sink, fd: int) -> list[bytes]:
    """Read what there is, until nothing waits any more."""
    os.set_blocking(fd, False)
    data = b""
    while True:
        try:
            data += os.read(fd, 1 << 20)
        except BlockingIOError:
            if not sink.waiting:
                return data.splitlines(keepends=True)
        sink.retry()


@pytest.mark.parametrize("kind", [pipe, stream, "not ours"])
def test_nobody_reads(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "not ours":
        monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError()))
    read, write = stream() if kind is stream else pipe()
    sink = Watched(write)
    for line in LINES:
        sink.write(line)
    assert sink.gone
    assert os.get_blocking(write)  # others write there, too
    *kept, gap = read_all(sink, read)
    assert kept == LINES[: len(kept)]
    assert gap == b"gap %d\n" % sink.gone
    assert len(kept) + sink.gone == COUNT
    sink.write(b"again\n")
    assert os.read(read, 100) == b"again\n"
    assert sink.errors == []
    os.close(read)
    os.close(write)


def test_a_reader_that_has_gone_is_no_reader() -> None:
    read, write = pipe()
    sink = Watched(write)
    os.close(read)
    sink.write(b"a\n")
    sink.end()
    assert sink.gone == 1
    os.close(write)


def test_a_line_that_the_disk_took_half_of_is_ended_later(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sink = Watched(fd)
    with file_limit(1000):
        for line in LINES[:100]:
            sink.write(line)
    assert path.stat().st_size == 1000
    assert sink.errors
    sink.write(LINES[100])
    assert path.read_bytes() == b"".join(LINES[:101])
    assert sink.gone == 0
    os.close(fd)


def test_what_waits_is_left_to_the_process_that_wrote_it() -> None:
    read, write = pipe()
    sink = Watched(write)
    for line in LINES[:1000]:
        sink.write(line)
    assert sink.waiting
    sink.forked(0, lambda _: None)
    os.read(read, 1 << 16)
    sink.write(b"mine\n")
    assert os.read(read, 1 << 16) == b"mine\n"
    os.close(read)
    os.close(write)
