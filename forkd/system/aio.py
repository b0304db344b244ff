"""Operations by POSIX aio (aio(7)): aio_read, aio_write, and a real-time signal upon completion.

glibc has a thread do each operation, with blocking I/O; how many is set before the first one. The
signal carries the operation's number (sigev_value), and is read from a signalfd, since a Python
handler is not given it. When the queue of real-time signals is full (RLIMIT_SIGPENDING) glibc cannot
send it, and says EAGAIN in place of the result: all operations are looked at once in a while, and such a
connection is closed rather than left waiting.

Two facts of glibc shape the rest. It does the operations of one descriptor one after the other, so a
write would wait behind a read that waits for the peer: `send` first ends such a read. And an
operation that has begun cannot be cancelled (aio_cancel says AIO_NOTCANCELED): shutdown(2) makes it
return.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

from forkd.errors import SystemCallError
from forkd.native import Resumes
from forkd.system.handles import READ, EpollSet
from forkd.system.operations import Completed, Kind
from forkd.system.originals import monotonic, os, socket
from forkd.system.sigio import signalfd
from forkd.system.signals import NEWS, block

#: Threads of glibc, and so operations under way at once.
MAX_CLIENTS = 256

_RECEIVE_BYTES = 16384
_INFO = struct.Struct("=I44xQ72x")  # signalfd_siginfo: ssi_signo, ssi_ptr
_SIGEV_SIGNAL = 0
_LOOK_SECONDS = 1.0


class _Sigevent(ctypes.Structure):
    """struct sigevent"""

    _fields_ = (
        ("value", ctypes.c_uint64),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("pad", ctypes.c_int * 12),
    )


class _Control(ctypes.Structure):
    """struct aiocb of glibc, on 64-bit machines"""

    _fields_ = (
        ("fildes", ctypes.c_int),
        ("lio_opcode", ctypes.c_int),
        ("reqprio", ctypes.c_int),
        ("buf", ctypes.c_void_p),
        ("nbytes", ctypes.c_size_t),
        ("sigevent", _Sigevent),
        ("internal", ctypes.c_uint8 * 32),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint8 * 32),
    )


class _Operation:
    def __init__(self, handle: _Handle, kind: Kind, number: int, data: bytes) -> None:
        self.handle = handle
        self.kind = kind
        self.buffer = ctypes.create_string_buffer(data, max(len(data), _RECEIVE_BYTES))
        self.control = _Control(
            fildes=handle.fd,
            buf=ctypes.addressof(self.buffer),
            nbytes=len(data) or _RECEIVE_BYTES,
            sigevent=_Sigevent(number, int(NEWS), _SIGEV_SIGNAL),
        )

    def ended(self, libc: ctypes.CDLL) -> bool:
        return bool(libc.aio_error(ctypes.byref(self.control)) != errno.EINPROGRESS)

    def result(self, libc: ctypes.CDLL) -> int | bytes | OSError | None:
        """None while it is under way. To be called once it is not, and only once."""
        number = libc.aio_error(ctypes.byref(self.control))
        if number == errno.EINPROGRESS:
            return None
        count: int = libc.aio_return(ctypes.byref(self.control))
        if number:
            return OSError(number, os.strerror(number))
        return self.buffer.raw[:count] if self.kind is Kind.RECEIVED else count


class _Handle:
    """A connection."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.mask = 0
        self.blocking = False
        self.receive: _Operation | None = None
        self.send: _Operation | None = None
        self.unsent = b""
        self.held: list[bytes | OSError] = []
        self.closing: socket.socket | None = None  # when its operations have ended


class AioOperations:
    concurrent = False

    def __init__(self) -> None:
        block({NEWS})
        self._news = signalfd({NEWS})
        self._libc = ctypes.CDLL(None, use_errno=True)
        # struct aioinit: threads, and requests to expect.
        self._libc.aio_init((ctypes.c_int * 8)(MAX_CLIENTS, MAX_CLIENTS, 0, 0, 0, 0, 1, 0))
        self._libc.aio_return.restype = ctypes.c_ssize_t
        self._epoll = EpollSet()  # listeners, and the plain handles
        self._epoll.add(self._news, READ)
        self._handles: dict[int, _Handle] = {}
        self._under_way: dict[int, _Operation] = {}
        self._finished: list[int] = []
        self._due: deque[_Handle] = deque()  # wanted, and something is held for them
        self._number = 0
        self._looked = monotonic()

    # ---- HandleSet ------------------------------------------------------------------------

    def add(self, fd: int, mask: int) -> None:
        if fd in self._handles:
            self.modify(fd, mask)
        else:
            self._epoll.add(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        handle = self._handles[fd]
        handle.mask = mask
        if handle.held:
            self._due.append(handle)
        elif mask & READ and handle.receive is None:
            self._start(handle, Kind.RECEIVED, b"")

    def remove(self, fd: int) -> None:
        if fd in self._handles:
            self._handles[fd].mask = 0
        else:
            self._epoll.remove(fd)

    def wait(self, timeout: float | None = None) -> list[tuple[int, int]]:
        if self._due:
            timeout = 0.0
        elif self._under_way:
            timeout = _LOOK_SECONDS if timeout is None else min(timeout, _LOOK_SECONDS)
        ready = self._epoll.wait(timeout)
        now = monotonic()
        if (self._news, READ) in ready:
            ready.remove((self._news, READ))
            with contextlib.suppress(BlockingIOError):
                news = os.read(self._news, _INFO.size * 256)
                self._finished += [number for _, number in _INFO.iter_unpack(news)]
        if now - self._looked >= _LOOK_SECONDS:  # however many signals came: one may not have
            self._looked = now
            self._finished += self._under_way
        return ready

    def descriptors(self) -> tuple[int, ...]:
        return (*self._epoll.descriptors(), self._news)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._news)

    # ---- Operations -----------------------------------------------------------------------

    def adopt(self, fd: int) -> None:
        self._handles[fd] = _Handle(fd)

    def send(self, fd: int, data: bytes) -> None:
        handle = self._handles[fd]
        if handle.receive is not None:
            self._end_receive(handle)
        handle.unsent = data
        self._start(handle, Kind.SENT, data)

    def sending(self, fd: int) -> bool:
        return bool(self._handles[fd].unsent)

    def answering(self, fd: int) -> bool:
        return False

    def holds(self, fd: int) -> bool:
        return bool(self._handles[fd].held)

    def put_back(self, fd: int, data: bytes) -> None:
        handle = self._handles[fd]
        handle.mask = 0
        handle.held.insert(0, data)

    def has_come(self, fd: int) -> bool:
        receive = self._handles[fd].receive
        # The kernel fills the buffer before the socket is empty, and glibc's thread may say only long after
        # both that the operation has ended. No request begins with NUL.
        taken = receive is not None and (receive.buffer[0] != b"\0" or receive.ended(self._libc))
        return self.holds(fd) or taken

    def sends_itself(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._handles[fd].blocking = False

    def receives_itself(self, fd: int) -> bytes:
        self._handles[fd].mask = 0  # no receive is under way while one is handled
        return b""

    def release(self, sock: socket.socket) -> None:
        handle = self._handles.pop(sock.fileno())
        handle.mask = 0
        if handle.receive is None and handle.send is None:
            sock.close()
            return
        handle.closing = sock
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    def serve(self, loop: Resumes, connections: dict[int, Any]) -> None:
        pass  # it cannot

    def completed(self) -> Iterator[Completed]:
        finished, self._finished = self._finished, []
        for number in finished:
            operation = self._under_way.get(number)
            result = operation.result(self._libc) if operation is not None else None
            if operation is None or result is None:
                continue  # told already; or under way, and only looked at
            del self._under_way[number]
            handle = operation.handle
            if operation.kind is Kind.RECEIVED:
                handle.receive = None
                assert not isinstance(result, int)
                handle.held.append(result)
                self._due.append(handle)
            else:
                handle.send = None
                if handle.closing is None:
                    yield Kind.SENT, handle.fd, self._sent(handle, result)
            if handle.closing is not None and handle.receive is None and handle.send is None:
                handle.closing.close()
        for _ in range(len(self._due)):
            handle = self._due.popleft()
            if handle.held and handle.mask & READ:
                yield Kind.RECEIVED, handle.fd, handle.held.pop(0)
                if handle.mask & READ:
                    self.modify(handle.fd, handle.mask)

    # ---- operations -----------------------------------------------------------------------

    def _start(self, handle: _Handle, kind: Kind, data: bytes) -> None:
        if not handle.blocking:
            os.set_blocking(handle.fd, True)
            handle.blocking = True
        self._number += 1
        operation = _Operation(handle, kind, self._number, data)
        if kind is Kind.RECEIVED:
            handle.receive = operation
            call = self._libc.aio_read
        else:
            handle.send = operation
            call = self._libc.aio_write
        self._under_way[self._number] = operation
        if call(ctypes.byref(operation.control)) != 0:
            number = ctypes.get_errno()
            raise SystemCallError(call.__name__, "", OSError(number, os.strerror(number)))

    def _sent(self, handle: _Handle, result: int | bytes | OSError) -> int | bytes | OSError:
        if isinstance(result, int):
            handle.unsent = handle.unsent[result:]
            if handle.unsent:
                self._start(handle, Kind.SENT, handle.unsent)
        else:
            handle.unsent = b""
        return result

    def _end_receive(self, handle: _Handle) -> None:
        """Make a receive that is under way return, with nothing."""
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=os.dup(handle.fd))
            with sock:
                sock.shutdown(socket.SHUT_RD)
