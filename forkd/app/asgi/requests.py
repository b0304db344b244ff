"""ASGI's part of an HTTP/1 session (session/http1.py): one request, whose body is read as it is asked for.

The application runs in the loop meanwhile (cycle.py). In a child.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import IO, Any

from forkd.app.asgi import message_flow
from forkd.app.asgi.cycle import Cycle
from forkd.app.asgi.duplex import END, INPUT, NOTHING, Duplex, log_failure
from forkd.app.asgi.extensions import DENIAL, Extensions, offer
from forkd.app.asgi.handshake import origins_of, read_handshake, to_websocket, wants_websocket
from forkd.app.asgi.response import REASONS
from forkd.app.asgi.scope import Interned, Names, RootPath, Scope, scope_of
from forkd.app.asgi.self_test import passes
from forkd.app.asgi.shortcut import NativeCycle, native_shortcut
from forkd.app.asgi.task_kind import LAZY, wanted_tasks
from forkd.app.asgi.tasks import PATCHED, LoopTasks, RequestTasks, make_tasks, why_by_loop
from forkd.app.asgi.websocket import Phase, WebSocket
from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Refusal, Refused
from forkd.native import serves
from forkd.session.ends import Ends
from forkd.session.framing import Framing
from forkd.session.http1 import Ending, Native, Steps, StreamSteps, refusal
from forkd.session.seam import (
    ANY_BYTES_PER_SECOND,
    LINGER,
    SLOWEST_BYTES_PER_SECOND,
    Await,
    Become,
    ClientGone,
    Deadline,
    Host,
    Peer,
    Session,
)

#: For whoever finds --limit-concurrency reached: what is in flight then is soon answered, or it is not.
_RETRY = (("Retry-After", "1"),)
#: For the client's Close frame, and then its connection ends without.
_CLOSE_SECONDS = 2.0

Application = Callable[..., Coroutine[Any, Any, None]]


class Requests:
    """Runs one ASGI application, for session/http1.py. One per child."""

    read = None
    uwsgi = Native(None, None)

    def __init__(self, app: Application, config: Config, host: Host, worker: int) -> None:
        self.app = app
        self.host = host
        self.framing = Framing(config, host)
        self.most_body = config.limit_request_body
        self.most_message = config.ws_max_message
        self.native = config.native
        self.state: dict[str, Any] = {}
        self.ended = False
        self.cycles: set[Cycle] = set()
        self.sockets: set[WebSocket] = set()
        #: What waits, and for which request; it may go on when that is answered. asyncio has weak references.
        self.tasks: dict[asyncio.Task[None], bytes] = {}
        self.loop: asyncio.AbstractEventLoop  # from `enter` on
        self.context: contextvars.Context
        self.runner: RequestTasks
        self.names_contexts = config.lag_limit > 0
        self.interned = Interned()
        self._root = RootPath(config.root_path or "")
        self._names = Names(config.forwarded_fields)
        self._worker = worker
        self._config = config
        self._extensions = Extensions(config.asgi_extensions or "", config.early_hints)
        self._request_timeout = config.request_timeout
        self._most = config.limit_concurrency
        #: In flight, where that is limited: requests, and WebSockets.
        self._requests: set[Duplex] = set()
        self._websockets: set[Duplex] = set()
        self._alarm: asyncio.TimerHandle | None = None  # for those that native code has
        self.shortcut = native_shortcut(
            app, self, config, host, self.framing, REASONS, self._root, self._extensions.usual, worker,
            self._requests,
        )  # fmt: skip
        body = config.body_timeout
        writes = {
            needs: Await(
                "write", config.write_timeout, rate=SLOWEST_BYTES_PER_SECOND, read=needs == INPUT,
                read_end=needs == END, write=True,
            )
            for needs in (NOTHING, END, INPUT)
        }  # fmt: skip
        #: By what is needed: of input; room for output; and bytes that the client owes.
        self._waits = {
            (INPUT, False, True): Await("request body", body, rate=SLOWEST_BYTES_PER_SECOND),
            (INPUT, False, False): Await("answer", 0),
            (END, False, False): Await("answer", 0, read=False, read_end=True),
            (NOTHING, False, False): Await("answer", 0, read=False),
        } | {
            (needs, True, owes): writes[needs] for needs in (NOTHING, END, INPUT) for owes in (True, False)
        }  # fmt: skip

        self._talks = {
            (INPUT, False): Await(
                "WebSocket", config.ws_ping_interval, rate=ANY_BYTES_PER_SECOND,
                shortcut=message_flow.SHORTCUT,
            ),
            (END, False): Await("WebSocket", 0, read=False, read_end=True),
        } | {(needs, True): writes[needs] for needs in (NOTHING, END, INPUT)}
        self._origins = origins_of(config.ws_origins)
        self._deflate = config.ws_deflate
        self._pong = Await("pong", config.ws_ping_timeout)
        self._handshake = Await("WebSocket", 0)
        #: By whether there is room for what else the client sends.
        self._close = {room: Await("close", _CLOSE_SECONDS, read=room) for room in (True, False)}

    def enter(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Before the first request. `context`: each of them has a copy."""
        self.loop, self.context = loop, context
        self._by_loop = LoopTasks(loop, self.host.log.info if serves(self._config.native) else None)
        self.task_kind = wanted_tasks(self._config)
        if self.task_kind == LAZY and why_by_loop(loop) == PATCHED:
            self.task_kind = f"made by the loop: {PATCHED}"  # which is said when that is looked at
        elif self.task_kind == LAZY and not passes(type(loop)):
            self.task_kind = "real, since the self-test of lazy ones has failed"
            self.host.log.warning(f"the tasks of requests are {self.task_kind}")
        self.runner = make_tasks(
            loop, context, self.host.recorder, self.tasks, self._by_loop,
            lazy=self.task_kind == LAZY, native=self._config.native,
        )  # fmt: skip

    def look(self) -> None:
        """What the application has made of the loop until now."""
        why = self._by_loop.look()
        if why and serves(self._config.native):
            self.task_kind = f"made by the loop: {why}"
            self.runner.patched = why == PATCHED

    def started(self, state: dict[str, Any]) -> None:
        """The lifespan has; `state` is its own."""
        self.state = state
        if self.shortcut is not None:
            self.shortcut.state = state
            self.shortcut.tasks = self.runner

    # ---- what HTTP/1 takes ----------------------------------------------------------------

    def note(self, peer: Peer) -> Ends | None:
        """None: there is no native code."""
        if self.shortcut is None:
            return None
        self.shortcut.by_driver = not peer.direct
        return Ends(
            server=peer.server, port=str(peer.server_port), client=peer.client,
            client_port=str(peer.client_port), proxy=peer.proxy,
        )  # fmt: skip

    def exchange(self, request: Any, peer: Peer, body: IO[bytes] | None) -> Steps:
        raise NotImplementedError("each request is a stream")

    def resume(self, call: NativeCycle, peer: Peer) -> StreamSteps:
        """Go on with a request that native code has begun."""
        return (yield from self._attend(call.grown()))

    def grow(self, call: NativeCycle, peer: Peer) -> Cycle:
        """The Cycle that goes on with it: called by native code when something unusual has come."""
        if call.suspended:
            self.loop.call_soon(call.answered, None, context=self.context)
        cycle = Cycle.adopted(self, call, peer)
        cycle.response.extensions = self._extensions.usual
        if self._most:
            self._count(cycle, self._requests)
        left = call.remaining
        if left is not None:
            cycle.timer = self.loop.call_later(left, cycle.expire, context=self.context)
        return cycle

    def wake_in(self, seconds: float) -> None:
        """Look for requests of native code's whose time is over after so long."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self.loop.call_later(seconds, self._strike, context=self.context)

    def _strike(self) -> None:
        assert self.shortcut is not None
        for call in self.shortcut.overdue():
            call.grown().expire()

    def failed(self, line: bytes, failure: BaseException) -> None:
        """The application has failed after its answer."""
        if not (isinstance(failure, asyncio.CancelledError) and self.ended):
            log_failure(self.host, line.decode("latin-1"), failure)

    def stream(self, request: Request, peer: Peer, data: bytes) -> StreamSteps | Become:
        talks = wants_websocket(request)
        if self._most and len(self._websockets if talks else self._requests) >= self._most:
            return self._turn_away(request, peer, data)
        scope = scope_of(request, peer, self._root, self._worker, self._names)
        scope["state"] = self.state.copy()
        if talks:
            return self._talk(request, peer, data, scope)
        cycle = Cycle(self, request, peer, data)
        names = self._extensions.offered(request, scope["headers"])
        cycle.response.extensions = names
        offer(scope["extensions"], names)
        self._limit(cycle, scope)
        if self._most:
            self._count(cycle, self._requests)
        cycle.start(scope)
        return self._attend(cycle)  # of what the others need here, it holds nothing meanwhile

    def _attend(self, cycle: Cycle) -> StreamSteps:
        """Move its bytes until it is over."""
        self.cycles.add(cycle)
        try:
            if not cycle.peer.direct:
                cycle.writable()  # what native code has left to it
            if cycle.broken:  # in its first step; what it has sent before is under way, with io_uring
                yield self._waits[NOTHING, True, False]
                cycle.writable()
            cycle.attended = True
            while not cycle.through:
                if cycle.answered:
                    cycle.account()  # what is left of the body is not its time
                try:
                    wait = self._waits[cycle.needs()]
                    came = yield wait
                    if came is None:
                        cycle.writable()
                    elif came:
                        cycle.feed(came)
                    elif wait.read:
                        cycle.end_of_input()
                    else:
                        cycle.input_ends()
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

    def _turn_away(self, request: Request, peer: Peer, data: bytes) -> StreamSteps:
        """The answer of --limit-concurrency. Its connection ends: the next one may find another worker."""
        refused = Refused(503, f"busy: {self._most} are in flight here already", Refusal.CONCURRENCY)
        yield refusal(
            self.host, peer, refused, request.line, request, _RETRY, int(peer.waited() * 1e9),
            self.framing.server,
        )  # fmt: skip
        return Ending(True, data, bool(request.length or request.chunked))

    @staticmethod
    def _count(request: Duplex, among: set[Duplex]) -> None:
        request.counted = among
        among.add(request)

    def _limit(self, request: Cycle | WebSocket, scope: Scope) -> None:
        """Begin its --request-timeout. What it has waited in queues counts."""
        if not self._request_timeout:
            return
        left = max(0.0, self._request_timeout - request.peer.waited())
        request.timer = self.loop.call_later(left, request.expire, context=self.context)
        scope["extensions"]["forkd"]["lift_request_timeout"] = request.timer.cancel

    def _late(self, cycle: Cycle) -> None:
        """Raises ClientGone where the client does not read."""
        if cycle.needs()[1]:
            raise ClientGone("the client stopped reading")
        cycle.refuse(Refused(408, "the request body did not arrive in time", Refusal.BODY_TIMEOUT))

    # ---- a WebSocket ----------------------------------------------------------------------

    def _talk(self, request: Request, peer: Peer, data: bytes, scope: Scope) -> StreamSteps | Become:
        """From the handshake to the end of its connection, which is HTTP's no more."""
        try:
            handshake = read_handshake(request, self._origins, self._deflate)
        except Refused as refused:
            return self._decline(refused, request, peer, data)
        request.line = self.interned(request.line)
        to_websocket(scope, handshake.subprotocols, self.interned)
        socket = WebSocket(self, request, peer, handshake, data)
        socket.may_deny = self._extensions.denial
        if socket.may_deny:
            scope["extensions"][DENIAL] = {}
        self._limit(socket, scope)
        if self._most:
            self._count(socket, self._websockets)
        socket.start(scope)
        return Become(self._converse(socket))

    def _decline(self, refused: Refused, request: Request, peer: Peer, data: bytes) -> StreamSteps:
        fields = (("Sec-WebSocket-Version", "13"),) if refused.status == 426 else ()
        yield refusal(self.host, peer, refused, request.line, request, fields, server=self.framing.server)
        return Ending(True, data, False)

    def _converse(self, socket: WebSocket) -> Session:
        self.sockets.add(socket)
        asked = False  # a ping, which any byte of the client's answers
        try:
            if socket.broken:  # as for a request
                yield self._talks[NOTHING, True]
                socket.writable()
            socket.attended = True
            while not socket.through:
                needs, writes = socket.needs()
                if socket.phase is Phase.CLOSING and not writes:
                    wait = self._close[needs == INPUT]
                elif writes or needs != INPUT:
                    wait = self._talks[needs, writes]
                elif socket.phase is not Phase.OPEN:
                    wait = self._handshake
                else:
                    wait = self._pong if asked else self._talks[needs, False]
                try:
                    came = yield wait
                    if came is None:
                        socket.writable()
                    elif came:
                        asked = False
                        socket.feed(came)
                    elif wait.read:
                        socket.end_of_input()
                    else:
                        socket.input_ends()
                except Deadline:
                    if wait is self._talks[INPUT, False]:
                        asked = True
                        socket.ping()
                    elif wait is self._pong:
                        socket.unanswered()
                    else:
                        raise ClientGone("the client does not answer, or does not read") from None
            if socket.broken:
                raise ConnectionAbortedError("the response broke off")
        finally:
            self.sockets.discard(socket)
            socket.part()
        return LINGER
