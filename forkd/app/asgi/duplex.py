"""An application's task beside the session of its connection: what both sides of ASGI's requests and of its
WebSockets have in common.

The application runs in a task of its own, in a copy of the context that its lifespan began in. It meets the
session in this object: each side leaves here what the other takes, and wakes it. A call of receive() or
send() does nothing until it is awaited, and a message leaves its queue in the step that returns it, so that a
cancelled wait loses none. In a child, on the thread of its loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple, Protocol

from forkd.app.asgi.scope import Interned, Scope
from forkd.app.asgi.sendfile import File
from forkd.app.asgi.steps import line_of
from forkd.app.asgi.tasks import RequestTasks
from forkd.http.guard import Request
from forkd.session.framing import Framing
from forkd.session.fronts import origin_of
from forkd.session.seam import NO_REQUEST, ClientGone, Host, Peer
from forkd.system.reset import reset

#: Bytes that are read ahead of the application, and that it may send ahead of the client.
HIGH_WATER_BYTES = 65536
_LOW_WATER_BYTES = HIGH_WATER_BYTES // 4
_PIECE_BYTES = 262144  # bytes of the backlog that are offered to the socket at once

#: What a session needs of its client's input: to be told that there will be no more of it, or to read it.
NOTHING, END, INPUT = range(3)

Message = dict[str, Any]
Waiters = list[asyncio.Future[None]]


class Serving(Protocol):
    """What the requests of a child have in common."""

    app: Any
    host: Host
    framing: Framing
    most_body: int
    most_message: int  # bytes of one of a WebSocket's
    native: bool  # where there is native code
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context  # each request has a copy
    names_contexts: bool  # and its line is in that
    runner: RequestTasks
    interned: Interned
    ended: bool  # the worker ends, and cancels what is left


class Logged(NamedTuple):
    """What logs show of a request."""

    line: bytes
    id: str
    referer: str | None
    agent: str | None


class Duplex:
    __slots__ = (
        "_backlog", "_ended", "_gone", "_host", "_scope", "_sending", "_serving", "_waking",
        "attended", "client", "counted", "peer", "quiet", "request", "ticket", "timer",
    )  # fmt: skip

    code: int  # the status, for the access log
    sent: int  # bytes of body, likewise
    _files: Sequence[File] = ()  # sent behind the backlog

    def __init__(self, serving: Serving, request: Request, peer: Peer) -> None:
        self._serving = serving
        self._host = serving.host
        self._scope: Scope | None = None  # until the application begins
        self.request: Request | Logged = request
        self.peer = peer
        self.client = peer.client if request.client is None else request.client
        self.ticket = 0
        self.attended = False  # the session is in this request, and is to be woken
        self.quiet = False  # nothing has moved since this was last looked at
        self.counted: set[Duplex] | None = None  # by --limit-concurrency, if there is one
        self.timer: asyncio.TimerHandle | None = None  # of --request-timeout, if there is one
        self._ended = False  # the application has returned
        self._gone = False  # the client has left
        # Thousands may be idle: what they would have empty, they do not have.
        self._backlog: bytes | bytearray = b""  # sent by the application, and not yet by us
        self._sending: Waiters | None = None
        self._waking = False

    # ---- the application's task -----------------------------------------------------------

    def start(self, scope: Scope) -> None:
        request, serving = self.request, self._serving
        recorder = self._host.recorder
        self.ticket = recorder.begin(request.line, self.client, self.peer.fd)
        if request.id:
            recorder.identify(self.ticket, request.id)
        self._scope = scope
        try:
            serving.runner.start(self, request.line)
        except BaseException as failure:  # of a task factory, it may be
            self.ended(failure)

    def begin(self) -> Awaitable[None]:
        scope, self._scope = self._scope, None
        if self._serving.names_contexts:
            line_of.set(self.request.line)
        awaitable: Awaitable[None] = self._serving.app(scope, self.receive, self.send)
        return awaitable

    def ended(self, failure: BaseException | None) -> None:
        failed = False
        if failure is not None:
            told = isinstance(failure, asyncio.CancelledError) and (self._told or self._serving.ended)
            failed = not told and not (self._told and isinstance(failure, OSError))
            if failed:
                log_failure(self._host, self._line, failure)
        self._ended = True
        self._finish(failed)
        self._uncount()

    @property
    def _line(self) -> str:
        return self.request.line.decode("latin-1")

    @property
    def _told(self) -> bool:
        """Whether receive() says that the client has left."""
        raise NotImplementedError

    @property
    def _said(self) -> bool:
        """Whether the application has sent all of its answer."""
        raise NotImplementedError

    def _finish(self, failed: bool) -> None:
        """The application has ended. Where it failed, that is in the log."""
        raise NotImplementedError

    def receive(self) -> Awaitable[Message]:
        raise NotImplementedError

    def send(self, message: Message) -> Awaitable[None]:
        raise NotImplementedError

    async def _wait(self, waiters: Waiters) -> None:
        waiter = self._serving.loop.create_future()
        waiters.append(waiter)
        try:
            await waiter
        finally:
            waiters.remove(waiter)

    @staticmethod
    async def _give_way() -> None:
        """To whatever else is in the loop, for one turn."""
        await asyncio.sleep(0)

    async def room(self) -> None:
        if len(self._backlog) > HIGH_WATER_BYTES or self._files:
            if self._sending is None:
                self._sending = []
            await self._wait(self._sending)

    # ---- both sides -----------------------------------------------------------------------

    def _write(self, data: bytes, more: bool = False) -> None:
        """`more`: what follows at once may go in the same packet."""
        self.quiet = False
        if self._gone:
            return
        self._host.recorder.answer(self.ticket)
        rest: bytes | memoryview = data
        if self._files:
            self._files[-1].behind += data
            return
        if not self._backlog:
            try:
                sent = self.peer.send(data, more)
            except ClientGone:
                self.leave()
                return
            if sent == len(data):
                return
            rest = memoryview(data)[sent:]
        self._hold(rest)
        self._wake()

    def _hold(self, data: bytes | memoryview) -> None:
        """Until the socket takes it."""
        if not self._backlog:
            self._backlog = bytearray()
        self._backlog += data

    def _wake(self) -> None:
        """The needs of the session have changed."""
        if self.attended and not self._waking:
            self._waking = True
            self._serving.loop.call_soon(self._resume, context=self._serving.context)

    def _resume(self) -> None:
        self._waking = False
        if self.attended:
            self.peer.wake()
            self._host.recorder.resume(NO_REQUEST)  # the next request may have begun

    def _release(self) -> None:
        """Nobody has to wait any more."""
        release(self._sending)
        self._wake()

    def _reset(self) -> None:
        """The client is to see an error, and no end. Nothing more is sent."""
        self._backlog = b""
        reset(self.peer.fd)

    def leave(self) -> None:
        """The client has left, or is given up."""
        if not self._gone:
            self._gone = True
            self._backlog = b""
            self._release()

    def _uncount(self) -> None:
        """It is in flight until it is accounted for; one that the application works on for a client that
        has left, or has had another answer, until that has returned."""
        if self.counted is not None and not self.ticket and (self._ended or self._said):
            self.counted.discard(self)

    # ---- the session ----------------------------------------------------------------------

    def writable(self) -> None:
        """Send what is left. Raises ClientGone."""
        while isinstance(backlog := self._backlog, bytearray):
            # The view must be gone before the bytearray may shrink.
            with memoryview(backlog) as view, view[:_PIECE_BYTES] as piece:
                sent = self.peer.send(piece)
            if not sent:
                break
            if sent == len(backlog):
                self._backlog = b""
            else:
                del backlog[:sent]
        if len(self._backlog) <= _LOW_WATER_BYTES and not self._files:
            release(self._sending)

    def lift(self) -> None:
        """It has no --request-timeout any more."""
        if self.timer is not None:
            self.timer.cancel()

    def account(self) -> None:
        """The request ends, in the counters and in the access log; its application may go on."""
        self.lift()
        ticket, self.ticket = self.ticket, 0
        if not ticket:
            return
        self._uncount()
        host, recorder, request = self._host, self._host.recorder, self.request
        took = recorder.took(ticket)
        if host.access is None:
            recorder.end(ticket, self.code, took)
            return
        referer, agent = ("-" if value is None else value for value in (request.referer, request.agent))
        host.access.end(
            recorder, ticket, self.client, request.line, self.code, self.sent, referer, agent, took,
            request.id, origin_of(self.peer),
        )  # fmt: skip


def log_failure(host: Host, line: str, failure: BaseException) -> None:
    try:
        raise failure
    except BaseException:
        host.log.exception(f"the application failed on {line}")


def release(waiters: Waiters | None) -> None:
    for waiter in waiters or ():
        if not waiter.done():
            waiter.set_result(None)
