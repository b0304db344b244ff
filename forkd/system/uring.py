"""Operations on io_uring: the kernel accepts, receives and sends, into and out of our buffers.

- Accept and receive are *multishot*: started once, they complete again and again. Where a promotion
  has to follow each accept, or a pool may take the connection away, they complete once.
- A receive has no buffer until there is something to receive (ring.ProvidedBuffers).
- Plain handles (bells, channels, pidfds) are polled once, and again after each report, which is what
  level-triggered means.
- A connection is closed by two linked operations: all that is under way on it is cancelled, then its
  descriptor is closed.

A completion names its operation by a serial number, which no two handles share: what was started for
a closed connection is told apart from what was started for the next one with the same descriptor.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from forkd.errors import SystemCallError
from forkd.native import Resumes, pick
from forkd.system import ring as abi
from forkd.system.handles import HANGUP, READ, READ_END, only_ends
from forkd.system.operations import Completed, Kind
from forkd.system.originals import socket
from forkd.system.ring import ProvidedBuffers, Ring, address_of

if TYPE_CHECKING:
    from forkd._native import Completions

#: Pieces of input that are held for a connection before its receive is cancelled.
_MAX_HELD_PIECES = 16

_POLL, _ACCEPT, _RECV, _SEND, _OTHER = range(5)
_KIND_BITS = 3
#: Of a receive that is armed anew when it is wanted.
_NO_FAILURES = -errno.ECANCELED, -errno.ENOBUFS


class _PythonHandle:
    __slots__ = ("armed", "conn", "data", "fd", "held", "kind", "mask", "offset", "serial")

    call = None


if TYPE_CHECKING:
    _Base = _PythonHandle
else:
    _Base = pick("Handle", _PythonHandle)


class _Handle(_Base):
    __slots__ = ("polled",)

    fd: int
    serial: int
    kind: int
    mask: int
    armed: bool
    held: deque[bytes | OSError]
    data: bytes
    conn: Any  # native code's; and a call whose answer that sends
    call: Any
    offset: int
    polled: bool

    def __init__(self, fd: int, serial: int, kind: int) -> None:
        self.fd = fd
        self.serial = serial
        self.kind = kind  # of its standing operation: _POLL, _ACCEPT or _RECV
        self.mask = 0
        self.armed = False  # the standing operation is under way
        self.held = deque()
        self.data = b""  # being sent, from `offset`; kept alive here for the kernel
        self.offset = 0
        self.polled = False  # of a connection: its end is waited for

    def name(self, kind: int) -> int:
        return self.serial << _KIND_BITS | kind


class PythonCompletions:
    """The completions of a ring, none of which is served here. The twin of native/system_uring.c, which
    serves connections that rest."""

    def __init__(self, *, queues: Any, **_: Any) -> None:
        #: Those of plain handles that have come, and maybe others, which `next` does not return then.
        self.plain: Callable[[], list[abi.Completion]] = queues.completions
        #: All that were not returned yet.
        self.remainder: Callable[[], list[abi.Completion]] = queues.completions

    def serve(self, loop: Resumes, connections: dict[int, Any]) -> None:
        """Serve those of `connections` that rest, and call `loop` for what is not usual."""

    def sent(self, name: int, result: int, flags: int) -> bool:
        """Whether that completion is of a send that was begun here, and is served."""
        return False

    def next(self) -> abi.Completion | None:
        """The next one that is not served here."""
        return None


class UringOperations:
    concurrent = False

    def __init__(
        self, listeners: set[int], *, shared: bool, pooled: bool, paced: bool = False, native: bool = True
    ) -> None:
        """`shared`: a promotion follows each accept. `pooled`: connections are lent to threads. `paced`: no
        more than one piece is received ahead. Raises SystemCallError when io_uring cannot be used."""
        self._ring = Ring(native=native)
        self._buffers = ProvidedBuffers(self._ring, native)
        self._listeners = listeners
        self._accept = 0 if shared else abi.ACCEPT_MULTISHOT
        self._recv = 0 if pooled or paced else abi.RECV_MULTISHOT
        self._by_fd: dict[int, _Handle] = {}
        # By serial number; also what was released and still sends.
        self._handles: dict[int, _Handle] = {}
        self._serial = 0
        self._disarmed: list[_Handle] = []  # to be armed before the next wait, if wanted
        self._due: deque[_Handle] = deque()  # wanted, and something is held for them
        self._found: deque[abi.Completion] = deque()  # of operations, not returned yet
        self._ready: list[tuple[int, int]] = []  # plain handles, not returned yet
        self._ended: deque[tuple[_Handle, int]] = deque()  # connections, with masks, likewise
        make: Any = pick("Completions", PythonCompletions, native)
        self._completions: Completions | PythonCompletions = make(
            queues=self._ring.queues, buffers=self._buffers.buffers, operations=self, handles=self._handles,
            disarmed=self._disarmed,
        )  # fmt: skip
        self.serve = self._completions.serve
        self._rest = self._completions.remainder

    # ---- HandleSet ------------------------------------------------------------------------

    def add(self, fd: int, mask: int) -> None:
        if fd not in self._by_fd:
            self._new(fd, _ACCEPT if fd in self._listeners else _POLL)
        self.modify(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        handle = self._by_fd[fd]
        handle.mask = mask
        if handle.held and mask & READ:
            self._due.append(handle)
        elif not handle.armed:
            self._disarmed.append(handle)

    def remove(self, fd: int) -> None:
        handle = self._by_fd[fd]
        handle.mask = 0
        if handle.kind == _ACCEPT and handle.armed:
            self._cancel(handle)
        elif handle.kind == _POLL:
            self._put_cancel(handle)
            del self._by_fd[fd], self._handles[handle.serial]
        # A connection goes on receiving, within limits.

    def wait(self, timeout: float | None = None) -> list[tuple[int, int]]:
        for handle in self._disarmed:
            if handle.mask & READ and not handle.armed and not handle.held:
                self._arm(handle)
            elif handle.mask & READ_END and not handle.armed and not handle.polled:
                handle.polled = True
                self._poll(handle, READ_END)
        self._disarmed.clear()
        if self._due or self._found or self._ready or self._ended:
            timeout = 0.0
        self._ring.enter(0 if timeout == 0 else 1, timeout)
        self._sort(self._completions.plain())
        ready, self._ready = self._ready, []
        return ready

    def descriptors(self) -> tuple[int, ...]:
        """In a process that the application has forked, which has the memory of the ring no more."""
        self._ring.let_go()
        return tuple(self._ring.copies())

    def close(self) -> None:
        self._ring.close()

    # ---- Operations -----------------------------------------------------------------------

    def adopt(self, fd: int) -> None:
        self._new(fd, _RECV)

    def send(self, fd: int, data: bytes) -> None:
        handle = self._by_fd[fd]
        handle.data = data
        handle.offset = 0
        self._send(handle)

    def sending(self, fd: int) -> bool:
        return bool(self._by_fd[fd].data)

    def answering(self, fd: int) -> bool:
        return self._by_fd[fd].call is not None

    def holds(self, fd: int) -> bool:
        return bool(self._by_fd[fd].held)

    def put_back(self, fd: int, data: bytes) -> None:
        handle = self._by_fd[fd]
        handle.mask = HANGUP
        handle.held.appendleft(data)

    def has_come(self, fd: int) -> bool:
        self._ring.enter(0, 0.0)
        self._sort(self._rest())
        name = self._by_fd[fd].name(_RECV)
        return self.holds(fd) or any(c[0] == name and c[1] >= 0 for c in self._found)

    def sends_itself(self, fd: int) -> None:
        pass  # a receive may stay under way

    def receives_itself(self, fd: int) -> bytes:
        handle = self._by_fd[fd]
        handle.mask = 0
        if handle.armed:
            self._cancel(handle)
            found, self._found = self._found, deque()
            for name, result, flags in found:
                if name != handle.name(_RECV):
                    self._found.append((name, result, flags))
                else:
                    self._hold(handle, result, self._received(result, flags))
            handle.armed = False
        held = [piece for piece in handle.held if isinstance(piece, bytes)]  # recv(2) will see an error, too
        handle.held.clear()
        return b"".join(held)

    def release(self, sock: socket.socket) -> None:
        fd = sock.detach()
        handle = self._by_fd.pop(fd)
        if not handle.data:  # otherwise the kernel may still read it: see _sent
            del self._handles[handle.serial]
        handle.mask, handle.fd, handle.conn = 0, -1, None
        put = self._ring.put
        put(
            abi.ASYNC_CANCEL, abi.HARDLINK | abi.SKIP_SUCCESS, 0, fd, 0, 0, 0,
            abi.CANCEL_ALL | abi.CANCEL_FD, _OTHER,
        )  # fmt: skip
        put(abi.CLOSE, abi.SKIP_SUCCESS, 0, fd, 0, 0, 0, 0, _OTHER)

    def completed(self) -> Iterator[Completed]:
        handles = self._handles
        while completion := self._next():
            name, result, flags = completion
            kind = name & 7
            handle = handles.get(name >> _KIND_BITS)
            if kind == _POLL:
                self._sort([completion])  # it has come since `wait`
            elif kind == _RECV:
                data = self._received(result, flags)
                if handle is None:
                    continue  # released meanwhile
                if not flags & abi.MORE:
                    self._disarm(handle)
                if handle.mask & READ and not handle.held and result >= 0:
                    yield Kind.RECEIVED, handle.fd, data
                elif handle.mask & READ_END and not result:
                    self._hold(handle, result, data)  # for the next time that it reads
                    yield Kind.RECEIVED, handle.fd, data
                elif handle.mask & (HANGUP | READ_END) and result < 0 and result not in _NO_FAILURES:
                    yield Kind.RECEIVED, handle.fd, _error(result)
                else:
                    self._hold(handle, result, data)
            elif handle is None:
                continue
            elif kind == _SEND:
                if (done := self._sent(handle, result)) is not None:
                    yield Kind.SENT, handle.fd, done
            elif kind == _ACCEPT:
                if not flags & abi.MORE:
                    self._disarm(handle)
                if result != -errno.ECANCELED:
                    yield Kind.ACCEPTED, handle.fd, result if result >= 0 else _error(result)
        for _ in range(len(self._due)):
            handle = self._due.popleft()
            if handle.held and handle.mask & READ:
                yield Kind.RECEIVED, handle.fd, handle.held.popleft()
                if handle.mask & READ:
                    self.modify(handle.fd, handle.mask)
        while self._ended:
            handle, found = self._ended.popleft()
            if handle.mask & READ_END:
                yield Kind.RECEIVED, handle.fd, b"" if only_ends(found) else _error(-errno.ECONNRESET)

    # ---- operations -----------------------------------------------------------------------

    def _new(self, fd: int, kind: int) -> None:
        self._serial += 1
        self._by_fd[fd] = self._handles[self._serial] = _Handle(fd, self._serial, kind)

    def _next(self) -> abi.Completion | None:
        """The next completion that is to be returned."""
        while self._found:
            completion = self._found.popleft()
            if completion[0] & 7 != _SEND or not self._completions.sent(*completion):
                return completion
        following: abi.Completion | None = self._completions.next()
        return following

    def _sort(self, completions: list[abi.Completion]) -> None:
        """Sort out plain handles, which are ready; the rest is returned later."""
        for completion in completions:
            name, result, _ = completion
            if name & 7 != _POLL:
                self._found.append(completion)
            elif (handle := self._handles.get(name >> _KIND_BITS)) is None:
                pass
            elif handle.kind == _RECV:
                handle.polled = False
                if result > 0:
                    self._ended.append((handle, result))
            else:
                self._disarm(handle)
                self._ready.append((handle.fd, result if result > 0 else HANGUP))

    def _disarm(self, handle: _Handle) -> None:
        """Note that its standing operation has ended: start it anew before the next wait, if it is wanted."""
        handle.armed = False
        self._disarmed.append(handle)

    def _received(self, result: int, flags: int) -> bytes:
        return self._buffers.take(flags, result) if result > 0 else b""

    def _arm(self, handle: _Handle) -> None:
        """Start the standing operation of a handle."""
        handle.armed = True
        name = handle.name(handle.kind)
        if handle.kind == _RECV:
            self._ring.put(
                abi.RECV, abi.BUFFER_SELECT, self._recv, handle.fd, 0, 0, 0, 0, name,
                ProvidedBuffers.GROUP,
            )  # fmt: skip
        elif handle.kind == _ACCEPT:
            flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._ring.put(abi.ACCEPT, 0, self._accept, handle.fd, 0, 0, 0, flags, name)
        else:
            self._poll(handle, READ)

    def _poll(self, handle: _Handle, mask: int) -> None:
        self._ring.put(abi.POLL_ADD, 0, 0, handle.fd, 0, 0, 0, mask, handle.name(_POLL))

    def _send(self, handle: _Handle) -> None:
        self._ring.put(
            abi.SEND, 0, 0, handle.fd, 0, address_of(handle.data) + handle.offset,
            len(handle.data) - handle.offset, socket.MSG_NOSIGNAL, handle.name(_SEND),
        )  # fmt: skip

    def _sent(self, handle: _Handle, result: int) -> int | OSError | None:
        """A part was sent. Returns what is to be reported; None when the connection was released."""
        handle.offset += max(result, 0)
        if handle.fd < 0:  # released meanwhile
            del self._handles[handle.serial]
            return None
        if result < 0 or handle.offset == len(handle.data):
            handle.data = b""
        else:
            self._send(handle)
        return result if result >= 0 else _error(result)

    def _hold(self, handle: _Handle, result: int, data: bytes) -> None:
        """Keep what was received until the connection wants it."""
        if result in _NO_FAILURES:
            return  # it is armed anew when it is wanted; by then there are buffers again
        handle.held.append(_error(result) if result < 0 else data)
        if handle.mask & READ:
            self._due.append(handle)
        elif handle.armed and len(handle.held) == _MAX_HELD_PIECES:
            self._put_cancel(handle)

    def _put_cancel(self, handle: _Handle) -> None:
        """The standing operation will complete with ECANCELED, unless it is complete already."""
        name = handle.name(handle.kind)
        self._ring.put(abi.ASYNC_CANCEL, 0, 0, -1, 0, name, 0, 0, _OTHER)

    def _cancel(self, handle: _Handle) -> None:
        """Cancel the standing operation, and wait for its last completion. What it has completed
        before is returned as usual."""
        name = handle.name(handle.kind)
        self._put_cancel(handle)
        self._sort(self._rest())
        while not any(c[0] == name and not c[2] & abi.MORE for c in self._found):
            self._ring.enter(1, None)
            self._sort(self._rest())


def _error(result: int) -> OSError:
    return OSError(-result, os.strerror(-result))


def usable() -> str:
    """Why io_uring cannot be used here, or "". Opens a ring and closes it."""
    try:
        ring = Ring(8)
        try:
            ProvidedBuffers(ring)
        finally:
            ring.close()
    except SystemCallError as error:
        return str(error)
    return ""
