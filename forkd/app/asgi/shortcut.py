"""The native way of a usual request under ASGI (native/asgi_cycle.c): its head as a scope, the first step of
its application at once, and an answer of plain messages.

A usual request has a body that came with its head, and no field that frames or upgrades it. What is not
usual, also in the middle of an answer, is for the Python in this folder, to which native code gives the
request as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from forkd.app.asgi.extensions import offer
from forkd.app.asgi.scope import HTTP_VERSION, RootPath, quoted
from forkd.app.asgi.steps import line_of
from forkd.app.wsgi.shortcut import native_limits
from forkd.config import Config
from forkd.http.response import date
from forkd.native import pick
from forkd.session.framing import Block, Framing
from forkd.session.http1 import Call, Shortcut
from forkd.session.seam import Host


class NativeCycle(Call, Protocol):
    """A request that native code has begun."""

    path: bytes
    headers: list[tuple[bytes, bytes]]  # those that streams.py looks at
    body: bytes | None  # None: the application has it
    block: Block | None  # status and headers of its answer, once there are some
    media: bytes | None  # its Content-Type, where the answer could be ended as if it were whole
    sent: int  # bytes of body
    unsent: bytes | None  # what the socket did not take of it
    head_sent: bool
    over: bool  # the application has sent all
    left: bool  # by the client
    suspended: bool  # the connection waits for its answer without a session
    waited: float  # seconds before it, where that is told (Server-Timing)
    remaining: float | None  # seconds of --request-timeout, where it has that

    def grown(self) -> Any:
        """The Cycle that goes on with it, which Requests has made."""

    def answered(self, answer: None, /) -> bool:
        """Have a session go on with it, where it is suspended."""


class NativeShortcut(Shortcut, Protocol):
    state: dict[str, Any]  # of the lifespan
    tasks: Any  # native code's RequestTasks; nothing is read before it has one
    by_driver: bool  # it does not send: answers are the driver's, each whole, or a session's

    def suspended(self) -> list[NativeCycle]:
        """The requests that are, and that no Cycle has."""
        ...

    def overdue(self) -> list[NativeCycle]:
        """Those of them whose --request-timeout is over, each once."""
        ...


def native_shortcut(
    app: Any, serving: Any, config: Config, host: Host, framing: Framing, reasons: dict[int, str],
    root: RootPath, offered: Sequence[str], worker: int, counted: set[Any],
) -> NativeShortcut | None:  # fmt: skip
    """None where native code was not built, or is not wanted. `serving`: the Requests that it calls.
    `offered`: extensions, to each of these requests. `counted`: those of --limit-concurrency."""
    extensions: dict[str, Any] = {"forkd": {"worker": worker}}
    offer(extensions, offered)
    template = {
        "type": "http", "asgi": HTTP_VERSION, "http_version": "1.1", "method": None, "scheme": "http",
        "path": None, "raw_path": None, "query_string": None, "root_path": root.path, "headers": None,
        "client": None, "server": None, "extensions": extensions, "state": None,
    }  # fmt: skip
    limits = native_limits(config, template, host.recorder)
    make = pick("AsgiShortcut", None, limits is not None)
    if make is None:
        return None
    lines = None if host.access is None else host.access.lines
    shortcut: NativeShortcut = make(
        app=app, serving=serving, recorder=host.recorder, access=host.access, lines=lines, date_at=date,
        keep_alive=framing.keep_alive, server=framing.server, server_timing=framing.times_queue,
        limits=limits, names=line_of if config.lag_limit else None, reasons=reasons,
        prefix=root.prefix, raw_prefix=quoted(root.prefix),
        most=config.limit_concurrency, counted=counted, seconds=config.request_timeout,
    )  # fmt: skip
    return shortcut
