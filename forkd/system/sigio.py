"""Signal-driven I/O on connections: a handle set whose news are real-time signals (fcntl(2), F_SETSIG).

Each connection is told to signal this process when something happens to it (F_SETOWN, O_ASYNC), by a
real-time signal, which queues and carries the descriptor. The signals are blocked and read from a
signalfd(2), since Python's siginfo has no si_fd. Four facts shape the rest:

- A signal reports a change, not a state, so a handle that was just reported stays under
  suspicion (`_hot`) until poll(2) finds it quiet: callers need not read until EAGAIN.
- When the queue of real-time signals is full (RLIMIT_SIGPENDING) the kernel sends a plain SIGIO
  instead: then every handle is looked at once, and nothing is lost.
- They are let through while the application starts a program (programs.py): what comes then goes to a
  handler, which does not know the descriptor, and every handle is looked at, too.
- A unix socket signals that it has room again only if a send failed after O_ASYNC was set: poll(2) does
  not arm that signal, as it does for TCP. So a unix socket is also polled while its mask has POLLOUT.

Listeners are shared with other processes, and their owner is the master; eventfds and pipes of the
loop cannot signal. Both are simply polled, together with the signalfd.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import stat
import struct
from math import ceil
from types import FrameType

from forkd.errors import SystemCallError
from forkd.system.no_memory import wait_for_memory
from forkd.system.originals import os, select, signal, socket
from forkd.system.signals import NEWS, block, handle, noted

_INFO = struct.Struct("=I16xi104x")  # signalfd_siginfo: ssi_signo, ssi_fd
_SIGSET_BYTES = 128
_SFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class SigioSet:
    concurrent = False

    def __init__(self) -> None:
        self._missed = False  # a signal was not blocked, and so is not read
        for number in (NEWS, signal.SIGIO):
            handle(number, self._miss)
        block({NEWS, signal.SIGIO})
        self._news = signalfd({NEWS, signal.SIGIO})
        self._masks: dict[int, int] = {}
        self._driven: set[int] = set()  # they signal
        self._unix: set[int] = set()  # those of them that may not signal room
        self._plain: set[int] = {self._news}  # polled at every wait
        self._hot: set[int] = set()  # signal-driven, and perhaps ready

    def _miss(self, number: int, frame: FrameType | None) -> None:
        self._missed = True
        noted(number, frame)  # so the wait ends

    def add(self, fd: int, mask: int) -> None:
        family = _signalling_family(fd)
        if family is None:
            self._plain.add(fd)
        else:
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, fcntl.F_SETSIG, NEWS)
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
            self._driven.add(fd)
            if family == socket.AF_UNIX:
                self._unix.add(fd)
        self.modify(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        self._masks[fd] = mask
        if fd in self._driven:
            self._hot.add(fd)  # what came before does not signal
        if fd in self._unix:
            if mask & select.POLLOUT:
                self._plain.add(fd)
            else:
                self._plain.discard(fd)

    def remove(self, fd: int) -> None:
        del self._masks[fd]
        for handles in (self._hot, self._plain, self._unix):
            handles.discard(fd)
        if fd in self._driven:
            self._driven.discard(fd)
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_ASYNC)

    def wait(self, timeout: float | None = None) -> list[tuple[int, int]]:
        try:
            ready = self._find(timeout)
        except OSError as error:
            return wait_for_memory(error)  # handles that are hot stay so
        self._hot = {fd for fd, _ in ready if fd in self._driven}
        return ready

    def _find(self, timeout: float | None) -> list[tuple[int, int]]:
        self._hear()
        if self._missed:
            self._missed = False
            self._suspect_all()
        ready = self._look(self._hot | self._plain, 0)
        if not ready and (timeout is None or timeout > 0):
            # Quiet: sleep until a signal, or until something that cannot signal.
            if self._look(self._plain, timeout):
                self._hear()
            ready = self._look(self._hot | self._plain, 0)
        return ready

    def _suspect_all(self) -> None:
        self._hot.update(self._driven)

    def descriptors(self) -> tuple[int, ...]:
        return (self._news,)

    def close(self) -> None:
        os.close(self._news)

    def _look(self, fds: set[int], timeout: float | None) -> list[tuple[int, int]]:
        """poll(2) over `fds`; the signalfd itself is not reported, unless it ends a sleep."""
        poller = select.poll()
        for fd in fds:
            poller.register(fd, self._masks.get(fd, select.POLLIN))
        found = poller.poll(None if timeout is None else ceil(timeout * 1000))
        return found if timeout != 0 else [(fd, mask) for fd, mask in found if fd != self._news]

    def _hear(self) -> None:
        """Take the queued signals; the handles that they name are hot."""
        try:
            data = os.read(self._news, _INFO.size * 256)
        except BlockingIOError:
            return
        for number, fd in _INFO.iter_unpack(data):
            if number == signal.SIGIO:  # the queue was full: it may be about any handle
                self._suspect_all()
            elif fd in self._masks:  # it may have been closed meanwhile
                self._hot.add(fd)


def _signalling_family(fd: int) -> int | None:
    """The family of a connected stream socket, which this process may own, unlike a listener; None for
    anything else. SO_ACCEPTCONN does not say that: a TCP listener that was shut down does not listen, and
    the master owns it all the same."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return None
    sock = socket.socket(fileno=fd)
    try:
        sock.getpeername()
        return sock.family if sock.type == socket.SOCK_STREAM else None
    except OSError:
        return None
    finally:
        sock.detach()


def signalfd(numbers: set[int]) -> int:
    """signalfd(2), which Python 3.11 does not wrap. Raises SystemCallError."""
    libc = ctypes.CDLL(None, use_errno=True)
    bits = sum(1 << (number - 1) for number in numbers)
    mask = ctypes.create_string_buffer(bits.to_bytes(_SIGSET_BYTES, "little"), _SIGSET_BYTES)
    fd: int = libc.signalfd(-1, mask, _SFD_FLAGS)
    if fd < 0:
        number = ctypes.get_errno() or errno.EINVAL
        raise SystemCallError("signalfd", "", OSError(number, os.strerror(number)))
    return fd
