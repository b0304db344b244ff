"""One request under ASGI, with its answer: what the application receives and sends, and what is moved.

The application runs in a task of its own, in a copy of the context that its lifespan began in. It meets the
session of the connection in this object: each side leaves here what the other takes, and wakes it. A call of
receive() or send() does nothing until it is awaited, and a message leaves its queue in the step that returns
it, so that a cancelled wait loses none. The task may go on when the request is over. In a child, on the
thread of its loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any, Protocol

from forkd.app.asgi.response import Response
from forkd.app.asgi.scope import Scope
from forkd.app.asgi.steps import in_steps
from forkd.http.body import ChunkedBody, LengthBody
from forkd.http.guard import Request
from forkd.http.limits import Refusal, Refused
from forkd.http.response import CONTINUE, body_size, error
from forkd.session.framing import Framing, queue_line
from forkd.session.request_ids import id_fields
from forkd.session.seam import ClientGone, Host, Peer
from forkd.system.cells import REFUSED
from forkd.system.forked import in_fork, leave

#: Bytes that are read ahead of the application, and that it may send ahead of the client.
HIGH_WATER_BYTES = 65536
_LOW_WATER_BYTES = HIGH_WATER_BYTES // 4
_PIECE_BYTES = 262144  # bytes of the backlog that are offered to the socket at once
#: Counted and logged when the client left before it was answered; never sent. As in nginx.
_CLIENT_LEFT_STATUS = 499


class Serving(Protocol):
    """What the requests of a child have in common."""

    app: Any
    host: Host
    framing: Framing
    most_body: int
    loop: asyncio.AbstractEventLoop
    context: contextvars.Context  # each request has a copy
    tasks: dict[asyncio.Task[None], bytes]  # asyncio holds them by weak references only
    ended: bool  # the worker ends, and cancels what is left

    def forget(self, task: asyncio.Task[None]) -> None: ...


class Cycle:
    def __init__(self, requests: Serving, request: Request, peer: Peer, data: bytes) -> None:
        """`data`: came behind the head."""
        self._requests = requests
        self._host = requests.host
        self._loop = requests.loop
        self.request = request
        self.peer = peer
        self.response = Response(requests.framing, request)
        self.client = peer.client if request.client is None else request.client
        self.ticket = 0
        self.attended = False  # the session is in this request, and is to be woken
        self.broken = False  # the answer has broken off, and so must the connection
        self.quiet = False  # nothing was sent since this was last looked at
        self._refused = False  # forkd has answered: what the application sends has no reader
        self._gone = False  # the client has left
        self._at_eof = False  # it sends no more
        self._expects = request.expect_continue and not data
        self._decoder = (
            ChunkedBody(requests.most_body) if request.chunked
            else LengthBody(request.length) if request.length else None
        )  # fmt: skip
        self._received: list[bytes] = []
        self._buffered = 0  # bytes of them
        self._discarded = 0  # bytes of body that came when the answer was over
        self._told_end = False  # the application has the end of the body
        self._rest = b""  # came behind the request
        self._backlog = bytearray()  # sent by the application, and not yet by us
        self._receiving: list[asyncio.Future[None]] = []
        self._sending: list[asyncio.Future[None]] = []
        self._waking = False
        if data:
            self.feed(data)

    # ---- the application's task -----------------------------------------------------------

    def start(self, scope: Scope) -> None:
        request, recorder = self.request, self._host.recorder
        self.ticket = recorder.begin(request.line, self.client, self.peer.fd)
        requests = self._requests
        if request.id:
            recorder.identify(self.ticket, request.id)
        if requests.framing.times_queue:
            self.response.more = queue_line(self.peer.waited())
        task = asyncio.Task(self._run(scope), loop=self._loop, context=requests.context.copy())
        requests.tasks[task] = request.line
        task.add_done_callback(requests.forget)

    async def _run(self, scope: Scope) -> None:
        recorder, left = self._host.recorder, False
        try:
            await in_steps(_called(self._requests.app, scope, self.receive, self.send), self, recorder)
            if in_fork:
                leave()
        except BaseException as failure:  # also SystemExit: the request has failed, no more
            if in_fork:
                leave(failure)
            cancelled = isinstance(failure, asyncio.CancelledError)
            left = (self._told and isinstance(failure, OSError)) or (
                cancelled and (self._told or self._requests.ended)
            )
            if not left:
                self._host.log.exception(f"the application failed on {self._line}")
            self._finish(left)
        else:
            if self._missing and not self._told:
                self._host.log.error(f"{self._line}: the application returned without {self._missing}")
            self._finish(self._told)

    @property
    def _line(self) -> str:
        return self.request.line.decode("latin-1")

    @property
    def _told(self) -> bool:
        """Whether receive() says that the client has left."""
        return self._gone or self._at_eof or self._refused

    @property
    def _missing(self) -> str:
        if self.response.over or self._refused:
            return ""
        return "the last http.response.body" if self.response.code else "http.response.start"

    def _finish(self, left: bool) -> None:
        """The application has ended; `left`: since its client had."""
        if self.response.over or self._gone or self._refused:
            return
        if self.response.head_sent:
            self.break_off()
        elif left:
            self.leave()
        else:
            reason = "the application failed; see the error log"
            self._answer(Refused(500, reason, Refusal.APPLICATION_FAILED))

    async def receive(self) -> dict[str, Any]:
        while (message := self._next_message()) is None:
            await self._wait(self._receiving)
        return message

    def _next_message(self) -> dict[str, Any] | None:
        if self._gone or self._refused or self.response.over:
            return {"type": "http.disconnect"}
        whole = self._decoder is None or self._decoder.done
        if not self._told_end and (whole or (self._received and not self._at_eof)):
            body = self._received[0] if len(self._received) == 1 else b"".join(self._received)
            if self._buffered >= HIGH_WATER_BYTES:
                self._wake()
            self._received, self._buffered, self._told_end = [], 0, whole
            return {"type": "http.request", "body": body, "more_body": not whole}
        if self._at_eof:
            return {"type": "http.disconnect"}
        if self._expects:
            self._expects = False
            self._write(CONTINUE)
        return None

    async def send(self, message: dict[str, Any]) -> None:
        if in_fork:
            raise ClientGone("the client is the worker's, not a process's that it has forked")
        if self._gone or self._refused:
            return  # the client is not there to see it (ASGI's HTTP 2.3)
        response = self.response
        if self._expects and not response.code:
            response.close = True  # its body may come or not, and would be taken for the next request
        out = response.add(message)
        if out:
            self.quiet = False
            self._write(out)
        if response.over:
            self._received.clear()
            self._buffered = 0  # what comes of its body is dropped
            _release(self._receiving)
            self._wake()
        elif len(self._backlog) > HIGH_WATER_BYTES:
            await self._wait(self._sending)

    async def _wait(self, waiters: list[asyncio.Future[None]]) -> None:
        waiter = self._loop.create_future()
        waiters.append(waiter)
        try:
            await waiter
        finally:
            waiters.remove(waiter)

    # ---- both sides -----------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        if not self._backlog:
            try:
                sent = self.peer.send(data)
            except ClientGone:
                self.leave()
                return
            if sent == len(data):
                return
            rest = memoryview(data)[sent:]
        self._backlog += rest
        self._wake()

    def _wake(self) -> None:
        """The needs of the session have changed."""
        if self.attended and not self._waking:
            self._waking = True
            self._loop.call_soon(self._resume, context=self._requests.context)

    def _resume(self) -> None:
        self._waking = False
        if self.attended:
            self.peer.wake()

    def _answer(self, refused: Refused) -> None:
        """In place of the application, which has no say any more."""
        response = self.response
        self._host.recorder.add(REFUSED + refused.kind)
        server, method = self._requests.framing.server, self.request.method
        fields = id_fields(self.request.id)
        answer = error(refused.status, refused.reason, method=method, server=server, fields=fields)
        response.code, response.sent = refused.status, body_size(answer)
        response.head_sent = response.over = response.close = self._refused = True
        self._write(answer)
        self._release()

    def _release(self) -> None:
        """Nobody has to wait any more."""
        _release(self._receiving)
        _release(self._sending)
        self._wake()

    def refuse(self, refused: Refused) -> None:
        """The body of the request cannot be read to its end."""
        if self._gone or self._refused or self.response.over:
            self.response.close = True
        elif self.response.head_sent:
            self.break_off()
        else:
            self._host.log.debug(f"{self.client}: refused with {refused.status}: {refused.reason}")
            self._answer(refused)

    def break_off(self) -> None:
        """The client is to see that its answer is not whole."""
        if not (self._gone or self.response.over):
            self._host.recorder.add(REFUSED + Refusal.BROKEN_OFF)
            self.broken = self._refused = self.response.over = self.response.close = True
            self._release()

    def leave(self) -> None:
        """The client has left, or is given up."""
        if not self._gone:
            self._gone = True
            self._backlog.clear()
            self.response.code = self.response.code or _CLIENT_LEFT_STATUS
            self._release()

    def end_stream(self) -> None:
        """It ends for its client as if the application had sent all; for that, the client has left."""
        if not (self._gone or self.response.over):
            self._refused = True
            self._write(self.response.cut())
            self._release()

    # ---- the session ----------------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Whether all of the request was read."""
        return self._decoder is None or self._decoder.done

    @property
    def through(self) -> bool:
        """Whether the session is done with this request: its answer is sent, and its body was read."""
        if self._gone:
            return True
        response = self.response
        if not response.over or self._backlog:
            return False
        if not self.whole and (self._expects or self._at_eof or self._discarded > HIGH_WATER_BYTES):
            response.close = True
        return self.whole or response.close

    @property
    def answered(self) -> bool:
        return self._gone or (self.response.over and not self._backlog)

    @property
    def rest(self) -> bytes:
        """What the client has sent behind this request."""
        return self._rest if self._decoder is None else self._decoder.leftover + self._rest

    def needs(self) -> tuple[bool, bool, bool]:
        """Input; room for output; and whether the client owes bytes of its body."""
        owes = not self.whole
        room = (self._buffered if owes else len(self._rest)) < HIGH_WATER_BYTES
        reads = room and not self._at_eof
        return reads, bool(self._backlog), owes and reads and not self._expects

    def feed(self, data: bytes) -> None:
        decoder = self._decoder
        if decoder is None or decoder.done:
            self._rest += data
            return
        self._expects = False
        try:
            piece = decoder.feed(data)
        except Refused as refused:
            self.refuse(refused)
            return
        if self.response.over:
            self._discarded += len(data)
        elif piece:
            self._received.append(piece)
            self._buffered += len(piece)
        if piece or decoder.done:
            _release(self._receiving)

    def end_of_input(self) -> None:
        self._at_eof = True
        _release(self._receiving)

    def writable(self) -> None:
        """Send what is left. Raises ClientGone."""
        backlog = self._backlog
        while backlog:
            # The view must be gone before the bytearray may shrink.
            with memoryview(backlog) as view, view[:_PIECE_BYTES] as piece:
                sent = self.peer.send(piece)
            if not sent:
                break
            del backlog[:sent]
        if len(backlog) <= _LOW_WATER_BYTES:
            _release(self._sending)

    def account(self) -> None:
        """The request ends, in the counters and in the access log; its application may go on."""
        ticket, self.ticket = self.ticket, 0
        if not ticket:
            return
        host, recorder, response, request = self._host, self._host.recorder, self.response, self.request
        took = recorder.took(ticket)
        if host.access is None:
            recorder.end(ticket, response.code, took)
            return
        referer, agent = ("-" if value is None else value for value in (request.referer, request.agent))
        host.access.end(
            recorder, ticket, self.client, request.line, response.code, response.sent, referer, agent, took,
            request.id, self.peer.client,
        )  # fmt: skip


async def _called(app: Any, *arguments: Any) -> None:
    """What it returns may be any awaitable."""
    await app(*arguments)


def _release(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
