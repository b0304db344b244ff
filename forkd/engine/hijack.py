"""The client's socket as a blocking handler gets it: it keeps its first error, and counts its bytes.

A handler may use sockets of its own, and fail as they do: `ConnectionError` and `TimeoutError` alone
do not say which peer has left. Made by `Connection.hijack`.

What a handler moves past these methods is not counted: by os.read(2) of the descriptor, or by TLS of its own,
which takes the descriptor away from this object. Nor does it find there what was `unread`, since it had
been received before the socket was the handler's: these methods return that first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from forkd.session.seam import Recorder
from forkd.system.cells import RECEIVED, SENT
from forkd.system.forked import in_fork
from forkd.system.originals import socket
from forkd.system.sigpipe import NO_SIGPIPE, without_sigpipe


class HijackedSocket(socket.socket):
    """Takes over the descriptor of `sock`."""

    _failure: OSError | None = None
    _unread = b""

    def __init__(self, sock: socket.socket, recorder: Recorder) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())
        self._recorder = recorder
        self._sent = 0  # by all methods but sendfile

    def caused(self, error: BaseException) -> bool:
        """Whether `error` says that the client has left or was idle."""
        if self.fileno() < 0:  # given away, to TLS for one: then only the kind of error is known
            return isinstance(error, (ConnectionError, TimeoutError))
        return error is self._failure

    def unread(self, data: bytes) -> None:
        """Have this received before all else. It has been counted."""
        self._unread = data + self._unread

    def _receive_again(self, size: int, flags: int) -> bytes:
        data = self._unread[:size]
        if not flags & socket.MSG_PEEK:
            self._unread = self._unread[size:]
        return data

    def count_received(self, count: int, flags: int) -> None:
        if not flags & socket.MSG_PEEK and not in_fork:
            self._recorder.add(RECEIVED, count)

    def count_sent(self, count: int) -> None:
        self._sent += count
        if not in_fork:
            self._recorder.add(SENT, count)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """As socket.sendfile, which calls `send` where sendfile(2) cannot be used."""
        before = self._sent
        try:
            total = without_sigpipe(super().sendfile, file, offset, count)
        except OSError as error:
            self._failure = error
            raise
        if not in_fork:
            self._recorder.add(SENT, total - (self._sent - before))
        return total


#: What stands between the data and the flags, of the methods that send, by default.
_BEFORE_FLAGS: dict[str, tuple[Any, ...]] = {"send": (), "sendall": (), "sendmsg": ((),)}


def _quiet(args: tuple[Any, ...], before_flags: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of such a method, with MSG_NOSIGNAL among the flags."""
    given = [*args, *(*before_flags, 0)[len(args) - 1 :]]
    given[1 + len(before_flags)] |= NO_SIGPIPE
    return tuple(given)


#: What a method that receives does with what was unread: its arguments are those of the method.
_Again = Callable[..., Any]


def _again(self: HijackedSocket, bufsize: int, flags: int = 0) -> bytes:
    return self._receive_again(bufsize, flags)


def _again_into(self: HijackedSocket, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
    view = memoryview(buffer).cast("B")
    data = self._receive_again(nbytes or len(view), flags)
    view[: len(data)] = data
    return len(data)


def _again_message(self: HijackedSocket, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> Any:
    return self._receive_again(bufsize, flags), [], 0, None


def _again_messages(self: HijackedSocket, buffers: Any, ancbufsize: int = 0, flags: int = 0) -> Any:
    first = next(buffer for buffer in buffers if memoryview(buffer).nbytes)
    return _again_into(self, first, 0, flags), [], 0, None


def _from(again: _Again) -> _Again:
    """With the address of a connected socket's peer, which is none."""
    return lambda *args, **options: (again(*args, **options), None)


def _remembering(name: str, counted: Callable[..., None] | None, again: _Again | None) -> Any:
    method = getattr(socket.socket, name)
    before_flags = _BEFORE_FLAGS.get(name)

    @functools.wraps(method)
    def call(self: HijackedSocket, *args: Any, **options: Any) -> Any:
        if again is not None and self._unread:
            return again(self, *args, **options)
        if before_flags is not None and args:
            args = _quiet(args, before_flags)
        try:
            result = method(self, *args, **options)
        except OSError as error:
            self._failure = error
            raise
        if counted is not None:
            counted(self, result, args, options)
        return result

    return call


def _receives(size_of: Callable[[Any], int], place: int) -> Callable[..., None]:
    """`place`: where the flags are among the arguments."""

    def counted(
        self: HijackedSocket, result: Any, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        flags = args[place] if len(args) > place else options.get("flags", 0)
        self.count_received(size_of(result), flags)

    return counted


def _sends(self: HijackedSocket, result: int, args: Any, options: Any) -> None:
    self.count_sent(result)


def _sends_all(self: HijackedSocket, result: None, args: Any, options: Any) -> None:
    self.count_sent(memoryview(args[0]).nbytes)


def _number(result: Any) -> int:
    return int(result)


def _first(result: Any) -> int:
    return int(result[0])


def _length_of_first(result: Any) -> int:
    return len(result[0])


_METHODS: dict[str, tuple[Callable[..., None] | None, _Again | None]] = {
    "recv": (_receives(len, 1), _again),
    "recv_into": (_receives(_number, 2), _again_into),
    "recvfrom": (_receives(_length_of_first, 1), _from(_again)),
    "recvfrom_into": (_receives(_first, 2), _from(_again_into)),
    "recvmsg": (_receives(_length_of_first, 2), _again_message),
    "recvmsg_into": (_receives(_first, 2), _again_messages),
    "send": (_sends, None),
    "sendall": (_sends_all, None),
    "sendmsg": (_sends, None),
    "shutdown": (None, None),
}
for _name, _row in _METHODS.items():
    setattr(HijackedSocket, _name, _remembering(_name, *_row))
