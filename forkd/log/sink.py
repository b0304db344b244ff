"""Sinks for the lines of a log: a descriptor that is written to without waiting.

The reader of a pipe may have stopped. What cannot be written waits in memory and goes out first when it
can; what there is no room for is lost, and counted. Used by lines.py, in the master and in its children, by
any thread, for pipes, sockets and terminals. A write to a file on a disk can hang in the kernel: the
logger does that (forkd/logger), and `RingSink` in system/log_ring.py is what a log has in place of this.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from forkd.system.originals import Lock, os, select, socket
from forkd.system.sigpipe import NO_SIGPIPE, without_sigpipe

_MAX_WAITING_BYTES = 1 << 18  # in each process


def _ignore(*_: Any) -> bytes:
    return b""


class LineSink(Protocol):
    """The sink of a log: this module's `Sink`, or system/log_ring.py's `RingSink`."""

    lost: Callable[[int], object]
    gap: Callable[[int], bytes]

    @property
    def waiting(self) -> object: ...

    @property
    def unheard(self) -> object:
        """Whether the reader is to be woken, by `retry`, for what was written."""

    def write(self, data: bytes, at_once: bool = True) -> None:
        """Write whole lines. Not `at_once`: the reader need not be woken before there are many, or `retry` is
        called."""

    def retry(self) -> None: ...

    def forked(self, lane: int, lost: Callable[[int], object]) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None: ...


class RequestSink(LineSink, Protocol):
    """The sink of an access log: system/log_ring.py's `RingSink`."""

    ring: Any  # where native code puts lines itself
    log: int
    heard: int  # of the ring's head: the reader was woken for all before
    many_bytes: int  # for which the reader is woken at once

    def end_request(self, recorder: Any, ticket: int, status: int, took: int, line: bytes, /) -> None:
        """A request ends that has this line: it is counted in the recorder, and there is its line."""

    def head_of(self, lane: int) -> int:
        """The position that a lane's lines have reached, for `Row.complete`."""


class Sink:
    """All lines that are given to it, whole and in order, with gaps where some were lost."""

    def __init__(self, fd: int) -> None:
        #: Called with the error of a write, except where the reader does not read.
        self.failed: Callable[[OSError], object] = _ignore
        #: Called with the number of lines that have just been lost.
        self.lost: Callable[[int], object] = _ignore
        #: Asked, when all is well again, for what to write in the place of so many lines.
        self.gap: Callable[[int], bytes] = _ignore
        self.waiting: deque[bytes] = deque()
        self.unheard = False
        self._size = 0
        self._missing = 0  # lines lost since the last gap
        self._lock = Lock()
        self._write, self._piece, self._close = writer(fd)

    def write(self, data: bytes, at_once: bool = True) -> None:
        with self._lock:
            if self._drain():
                self._append(data)
                self._drain()
            elif self._size + len(data) <= _MAX_WAITING_BYTES:
                self._append(data)
            else:
                self._lose(data.count(b"\n"))

    def retry(self) -> None:
        """Write what waits."""
        with self._lock:
            self._drain()

    def forked(self, lane: int, lost: Callable[[int], object]) -> None:
        """In a process forked from the one that wrote so far, which keeps what waits."""
        self.lost = lost
        self.waiting.clear()
        self._size = self._missing = 0

    def end(self) -> None:
        """The process ends: what cannot be written now is lost."""
        with self._lock:
            if not self._drain():
                self._lose(sum(data.count(b"\n") for data in self.waiting))
                self.gap(self._missing)

    def close(self) -> None:
        """In a child, of the master's: what waits is written by the master."""
        self._close()

    def _append(self, data: bytes) -> None:
        self._size += len(data)
        while len(data) > self._piece:
            end = data.rfind(b"\n", 0, self._piece) + 1 or data.find(b"\n") + 1
            self.waiting.append(data[:end])
            data = data[end:]
        if data:
            self.waiting.append(data)

    def _drain(self) -> bool:
        """Write what waits; False when some of it has to go on waiting."""
        waiting = self.waiting
        while waiting:
            data = waiting[0]
            try:
                done = self._write(data)
            except BlockingIOError:
                return False
            except OSError as error:
                self.failed(error)
                return False
            self._size -= done
            if done < len(data):  # the next try says why
                waiting[0] = data[done:]
                continue
            waiting.popleft()
            if not waiting and self._missing:
                missing, self._missing = self._missing, 0
                self._append(self.gap(missing))
        return True

    def _lose(self, lines: int) -> None:
        if lines:
            self._missing += lines
            self.lost(lines)


def writer(fd: int) -> tuple[Callable[[bytes], int], int, Callable[[], object]]:
    """A function that writes to `fd` without waiting, how much it may be given at once, and what ends it.

    O_NONBLOCK on `fd` itself would be set for all that share it: the application, the shell. To open
    it anew gives an open file of our own (proc(5), /proc/pid/fd), but not for sockets; send(2) has a
    flag instead. A file on a disk is written to as it is (only the logger does): O_NONBLOCK means nothing
    there, and a second open file would not share the position of one without O_APPEND.
    """
    try:
        mode = os.fstat(fd).st_mode
    except OSError:  # it is closed: each write will say so
        mode = stat.S_IFREG
    if stat.S_ISREG(mode):
        return lambda data: os.write(fd, data), 1 << 30, _ignore
    if stat.S_ISSOCK(mode):
        sock = socket.socket(fileno=os.dup(fd))
        flags = socket.MSG_DONTWAIT | NO_SIGPIPE
        return lambda data: sock.send(data, flags), 1 << 30, sock.close
    how = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    # A pipe takes up to PIPE_BUF bytes whole or not at all (pipe(7)).
    try:
        own = os.open(f"/proc/self/fd/{fd}", how)
    except OSError:  # another user's pipe
        return lambda data: _polled(fd, data), select.PIPE_BUF, _ignore
    return lambda data: without_sigpipe(os.write, own, data), select.PIPE_BUF, lambda: os.close(own)


def _polled(fd: int, data: bytes) -> int:
    """The next best: another process may fill the pipe in between."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return without_sigpipe(os.write, fd, data[: select.PIPE_BUF])
