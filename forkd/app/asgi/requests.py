"""ASGI's part of an HTTP/1 session (session/http1.py): one request, whose body is read as it is asked for.

The application runs in the loop meanwhile (cycle.py). In a child.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import IO, Any

from forkd.app.asgi.cycle import Cycle
from forkd.app.asgi.scope import RootPath, scope_of
from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Refusal, Refused
from forkd.session.framing import Framing
from forkd.session.http1 import Ending, Native, Steps, StreamSteps
from forkd.session.seam import SLOWEST_BYTES_PER_SECOND, Await, ClientGone, Deadline, Host, Peer

Application = Callable[..., Coroutine[Any, Any, None]]


class Requests:
    """Runs one ASGI application, for session/http1.py. One per child."""

    shortcut = None
    read = None
    uwsgi = Native(None, None)

    def __init__(self, app: Application, config: Config, host: Host, worker: int) -> None:
        self.app = app
        self.host = host
        self.framing = Framing(config, host)
        self.most_body = config.limit_request_body
        self.state: dict[str, Any] = {}
        self.ended = False
        self.cycles: set[Cycle] = set()
        #: What runs, and for which request; it may go on when that is answered.
        self.tasks: dict[asyncio.Task[None], bytes] = {}
        self.loop: asyncio.AbstractEventLoop  # from `enter` on
        self.context: contextvars.Context
        self._root = RootPath(config.root_path or "")
        self._worker = worker
        body, write = config.body_timeout, config.write_timeout
        #: By what is needed: input, room for output, and bytes that the client owes.
        self._waits = {
            (True, False, True): Await("request body", body, rate=SLOWEST_BYTES_PER_SECOND),
            (True, False, False): Await("answer", 0),
            (False, False, False): Await("answer", 0, read=False),
        } | {
            (read, True, owes): Await("write", write, rate=SLOWEST_BYTES_PER_SECOND, read=read, write=True)
            for read in (True, False)
            for owes in (True, False)
        }  # fmt: skip

    def enter(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Before the first request. `context`: each of them has a copy."""
        self.loop, self.context = loop, context

    def forget(self, task: asyncio.Task[None]) -> None:
        self.tasks.pop(task, None)

    # ---- what HTTP/1 takes ----------------------------------------------------------------

    def note(self, peer: Peer) -> None:
        return None

    def exchange(self, request: Any, peer: Peer, body: IO[bytes] | None) -> Steps:
        raise NotImplementedError("each request is a stream")

    def resume(self, call: Any, peer: Peer) -> Steps:
        raise NotImplementedError("there is no shortcut")

    def stream(self, request: Request, peer: Peer, data: bytes) -> StreamSteps:
        cycle = Cycle(self, request, peer, data)
        scope = scope_of(request, peer, self._root, self._worker)
        scope["state"] = self.state.copy()
        cycle.start(scope)
        cycle.attended = True
        self.cycles.add(cycle)
        try:
            while not cycle.through:
                if cycle.answered:
                    cycle.account()  # what is left of the body is not its time
                try:
                    came = yield self._waits[cycle.needs()]
                    if came is None:
                        cycle.writable()
                    elif came:
                        cycle.feed(came)
                    else:
                        cycle.end_of_input()
                except Deadline:
                    self._late(cycle)
            if cycle.broken:
                raise ConnectionAbortedError("the response broke off")
        except ClientGone:
            cycle.leave()
            raise
        finally:
            cycle.attended = False
            self.cycles.discard(cycle)
            if not cycle.through:
                cycle.leave()
            cycle.account()
        return Ending(cycle.response.close, cycle.rest, not cycle.whole)

    def _late(self, cycle: Cycle) -> None:
        """Raises ClientGone where the client does not read."""
        if cycle.needs()[1]:
            raise ClientGone("the client stopped reading")
        cycle.refuse(Refused(408, "the request body did not arrive in time", Refusal.BODY_TIMEOUT))
