"""Native code, in C beside this file: module.c says what it is for. Optional.

Imported by the files that have a twin of it, or call it: app/asgi/message_flow.py, app/asgi/requests.py,
app/asgi/shortcut.py, app/asgi/task_kind.py, app/asgi/tasks.py, app/stream/flow.py, app/wsgi/shortcut.py,
engine/baton.py, engine/driver.py, engine/intake.py, engine/link.py, engine/native_driver.py, log/lines.py,
session/body.py, session/ends.py, session/framing.py, session/proxy_header.py, storage/shm_table.py,
system/aio.py, system/forked.py, system/handles.py, system/in_flight.py, system/lanes.py,
system/log_ring.py, system/operations.py, system/ring.py, system/scoreboard.py, system/shared_memory.py,
system/signals.py, system/turn_times.py, system/uring.py; and by models/registry.py, which says whether it
is there.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol, TypeVar

#: Why there is none; "" where there is.
missing: str

try:
    from forkd import _native
except ImportError as error:
    native: ModuleType | None = None
    missing = str(error)
    if missing.startswith("cannot import name"):
        missing = "it was not compiled when forkd was installed"
else:
    native = _native
    missing = ""


T = TypeVar("T")


def serves(wanted: bool) -> bool:
    """Whether there is native code, and it is `wanted`."""
    return wanted and native is not None


def pick(name: str, twin: T, wanted: bool = True) -> T:
    """What native code has of that name, where there is native code and it is `wanted`; else its twin."""
    found: T = getattr(native, name) if wanted and native is not None else twin
    return found


# ---- what native code calls and reads, by name -------------------------------------------------
# Each name that C looks up is here, and each that is here is in C (tests/native/test_names.py).


class Resumes(Protocol):
    """A loop, for what native code cannot do by itself of a connection that rests."""

    def feed(self, conn: Any, value: Any) -> None:
        """This has arrived for the session: bytes, or a request that was begun."""

    def rests(self, conn: Any, op: Any) -> None:
        """A request is answered, and the connection waits for the next one."""

    def suspended(self, conn: Any) -> None:
        """A request is in the application, which answers later: `conn.call`."""

    def ended(self, conn: Any) -> None:
        """A request is answered, and it was the last one."""


class Receives(Resumes, Protocol):
    """The same, where native code receives, too."""

    def ready(self, conn: Any, mask: int) -> None:
        """A Connection that does not rest is ready."""

    def lost(self, conn: Any) -> None:
        """Receiving has failed: the client has left."""

    def failed(self, conn: Any, failure: BaseException) -> None:
        """The protocol that the session drives has raised this."""


class Accepts(Protocol):
    """The driver of a loop whose connections native code accepts: engine/native_driver.py."""

    def other(self, fd: int) -> bool:
        """What is ready and no connection; True: a listener, whose turn is over."""
        ...

    def grown(self, link: Any) -> Any:
        """The Connection of a bare Link that needs a session."""

    def crowded(self, intake: Any, links: list[Any]) -> None:
        """These were accepted, and more may be waiting."""

    def served(self, count: int, seconds: float) -> None:
        """So many connections have been served within `seconds`."""


class TakesTurns(Protocol):
    """A loop whose threads take turns as the leader."""

    def claims(self, conn: Any, request: Any) -> bool:
        """Whether the loop has taken this request, which may block. Asked while the driver is wary."""
        ...

    def judge(self, line: bytes, took: float) -> None:
        """The application has taken so many seconds for the request with this line."""

    def deposed(self, conn: Any, request: Any) -> None:
        """Another thread leads by now. Does not return."""


class Awaited(Protocol):
    """What a connection waits in: session/seam.py's Await."""

    shortcut: Any
    then: Any
    seconds: float


class Records(Protocol):
    """The recorder of requests."""

    def begin(self, line: bytes, client: str = "", fd: int = -1, /) -> int: ...
    def identify(self, ticket: int, id: str, /) -> None: ...
    def pause(self) -> None: ...
    def took(self, ticket: int, /) -> int: ...
    def end(self, ticket: int, status: int, took: int, /) -> Any: ...


class Logs(Protocol):
    """The access log: `end` of the recorder, with a line."""

    def end(
        self, recorder: Any, ticket: int, host: str, line: bytes, status: int, size: int, referer: str,
        agent: str, took_ns: int, /,
    ) -> Any: ...  # fmt: skip


class Peers(Protocol):
    """The connection as a session has it: session/seam.py's Peer."""

    client: str
    note: Any

    def waited(self) -> float: ...


class Answers(Protocol):
    """One answer of a WSGI application: app/wsgi/start_response.py's Response."""

    over: bool

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any: ...
    def write(self, data: bytes) -> None: ...
    def early_hints(self, headers: list[tuple[str, str]]) -> None: ...


class OwnsTask(Protocol):
    """A request that has a task: app/asgi/duplex.py."""

    ticket: int

    def begin(self) -> Any:
        """What the application returns, which is awaited. Called once, in the context of the task, in its
        first step."""

    def ended(self, failure: BaseException | None) -> None:
        """The application has returned, or raised: whatever that is, SystemExit too, it ends the request,
        and no more."""


class Cycles(Protocol):
    """What goes on with a request under ASGI that native code has begun: app/asgi/cycle.py."""

    def receive(self) -> Any: ...
    def send(self, message: dict[str, Any]) -> Any: ...
    def room(self) -> Any:
        """A coroutine: until there is room for more of the answer."""

    def ended(self, failure: BaseException | None) -> None:
        """The application has returned, or raised."""

    def leave(self) -> None:
        """The client has left."""

    def account(self) -> None: ...
    def lift(self) -> None: ...


class Grows(Protocol):
    """The requests of a child: app/asgi/requests.py."""

    def grow(self, call: Any, peer: Any) -> Any:
        """The Cycle of a request that native code has begun."""

    def wake_in(self, seconds: float) -> None:
        """Call `overdue` of the shortcut after so long."""

    def failed(self, line: bytes, failure: BaseException) -> None:
        """The application has raised after it had sent all."""


class Coroutines(Protocol):
    """A coroutine of Python's."""

    def throw(self, failure: BaseException, /) -> Any: ...
    def close(self) -> None: ...
class Converses(Protocol):
    """A WebSocket, for what is not plain in its flow: app/asgi/websocket.py."""

    def say(self, message: dict[str, Any]) -> Any: ...
    def spill(self, rest: bytes) -> Any: ...
    def control(self, frame: Any) -> None: ...
    def wrong(self, bad: Any) -> None: ...
    def drained(self) -> None: ...


class Inflates(Protocol):
    """Compressed messages of one client: http/deflate.py."""

    def inflate(self, data: bytes, last: bool, most: int) -> bytes: ...


class Frames(Protocol):
    """The module http/frames.py."""

    Frame: Any
    BadFrame: Any


class Handler(Protocol):
    """A protocol of asyncio's, of the application."""

    def data_received(self, data: bytes) -> None: ...


class Registers(Protocol):
    """The operations of a ring: system/uring.py."""

    def modify(self, fd: int, mask: int) -> None: ...


class Leaves(Protocol):
    """The module system/forked.py."""

    def leave(self, error: BaseException | None = None) -> Any:
        """End the process that the application has forked. Does not return."""
