"""The control channel between the master and one child: a socketpair, one datagram per message.

SOCK_SEQPACKET keeps message boundaries and reports the end of the other side as EOF, which is how
a child learns that the master is gone. Messages are the NamedTuples below, as JSON; a new one is declared
here, sent, and heard.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, get_type_hints

from forkd.system.fd_passing import receive, send
from forkd.system.originals import socket

_MAX_TEXT_BYTES = 60_000  # a longer traceback is cut, in the middle


class Message(Protocol):
    """A NamedTuple that is declared here."""

    def _asdict(self) -> dict[str, Any]: ...


#: By name: what makes it, and the types of its fields.
_KINDS: dict[str, tuple[Callable[..., Message], dict[str, type]]] = {}
T = TypeVar("T", bound=Message)


def _message(kind: type[T]) -> type[T]:
    """Let it pass: by its name, with fields of just the types that it declares."""
    _KINDS[kind.__name__] = kind, get_type_hints(kind)
    return kind


@_message
class Ready(NamedTuple):
    """Child to master: the application is loaded, I serve."""

    interface: str  # the name of its row in app/interfaces.py
    loop: str  # the event loop that it runs in, as in --loop; "" for none
    fallback: str  # why the configured --io cannot be used, and what serves instead; or ""
    tasks: str  # how the tasks of requests are made, where an interface has such; or ""


@_message
class Failed(NamedTuple):
    """Child to master: I could not boot; then it exits."""

    error: str


@_message
class Recycle(NamedTuple):
    """Child to master: replace me."""

    why: str


@_message
class Deaf(NamedTuple):
    """Child to master: a process has shut this listening socket down."""

    number: int  # its descriptor, which is the same one in every process that has it


@_message
class Blocked(NamedTuple):
    """Child to master: my event loop is blocked, and this is what it is at."""

    line: str  # of the request in whose context it is; ""
    task: str  # else, the name of the task; "" for a callback


@_message
class Retire(NamedTuple):
    """Master to child: stop accepting, finish, exit."""

    idle_grace: float  # seconds that connections between requests are kept
    drain_queue: bool  # no child accepts after you: empty the accept queue first
    ends: bool  # the whole service ends, and its listeners with it


@_message
class Quit(NamedTuple):
    """Master to child: exit now."""


@_message
class Relisten(NamedTuple):
    """Master to child: a listening socket lets clients in again."""

    number: int  # its descriptor
    anew: bool  # it is another socket: `fd`, which takes the place of the old one
    fd: int  # passed on; -1 when it is the same socket, or when no descriptor was free in the child


@_message
class Trim(NamedTuple):
    """Master to child: a crowd has left; give the memory back that it needed."""


class Channel:
    """One end. Non-blocking in the master, and in the child after its boot."""

    def __init__(self, sock: socket.socket) -> None:
        self.gone = False  # a message could not be sent, for the other side has closed its end
        self._sock = sock
        sock.setblocking(False)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Message) -> bool:
        """False when the other side is gone, or has not read for so long that nothing fits."""
        fields = {
            name: value if not isinstance(value, str) else _cut(value)
            for name, value in message._asdict().items()
        }
        data = json.dumps([type(message).__name__, fields]).encode()
        fds = [message.fd] if isinstance(message, Relisten) and message.fd >= 0 else []
        try:
            send(self._sock, data, fds)
        except OSError as error:
            self.gone = error.errno in (errno.EPIPE, errno.ECONNRESET)
            return False
        return True

    def receive(self, trusted: bool = False) -> list[Message] | None:
        """What has arrived; None when the other side is gone. Nonsense is skipped: the master must
        not fall over what a child has sent. Nor does it take descriptors; `trusted` is the master."""
        found: list[Message] = []
        while True:
            try:
                data, fds = receive(self._sock, 1 << 17, 1 if trusted else 0)
            except BlockingIOError:
                return found
            except OSError:
                return None
            if not data:
                return found or None
            try:
                message = _decode(data)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if isinstance(message, Relisten):
                message = message._replace(fd=fds[0] if fds else -1)
            found.append(message)

    def close(self) -> None:
        self._sock.close()


def _decode(data: bytes) -> Message:
    """Raises ValueError, KeyError, TypeError or RecursionError for anything but a message."""
    name, fields = json.loads(data)
    make, types = _KINDS[name]
    message = make(**fields)
    for field, kind in types.items():
        if type(getattr(message, field)) is not kind:
            raise TypeError(f"{name}.{field} is no {kind.__name__}")
    return message


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT_BYTES // 4:
        return text
    half = _MAX_TEXT_BYTES // 8
    return f"{text[:half]}\n… cut …\n{text[-half:]}"
