"""One request under ASGI, with its answer: what the application receives and sends, and what is moved.

The task may go on when the request is over. In a child, on the thread of its loop.
"""

from __future__ import annotations

from typing import cast

from forkd.app.asgi.duplex import (
    END,
    HIGH_WATER_BYTES,
    INPUT,
    NOTHING,
    Duplex,
    Message,
    Serving,
    Waiters,
    release,
)
from forkd.app.asgi.response import Response
from forkd.app.asgi.scope import Scope
from forkd.app.asgi.sendfile import File
from forkd.app.asgi.shortcut import NativeCycle
from forkd.http.body import ChunkedBody, LengthBody
from forkd.http.guard import Request
from forkd.http.limits import Refusal, Refused
from forkd.http.response import CONTINUE, body_size, error
from forkd.session.framing import queue_line
from forkd.session.request_ids import id_fields
from forkd.session.seam import ClientGone, FileFailed, Peer
from forkd.system.cells import REFUSED
from forkd.system.forked import in_fork

#: Counted and logged when the client left before it was answered; never sent. As in nginx.
_CLIENT_LEFT_STATUS = 499


class Cycle(Duplex):
    __slots__ = (
        "_at_eof", "_buffered", "_decoder", "_discarded", "_expects", "_files", "_received", "_receiving",
        "_refused", "_rest", "_sends_no_more", "_told_end", "broken", "response",
    )  # fmt: skip

    request: Request

    def __init__(self, serving: Serving, request: Request, peer: Peer, data: bytes) -> None:
        """`data`: came behind the head."""
        super().__init__(serving, request, peer)
        self.response = Response(serving.framing, request)
        self._files: tuple[File, ...] = ()
        self._receiving: Waiters = []
        self.broken = False  # the answer has broken off, and so must the connection
        self._refused = False  # forkd has answered: what the application sends has no reader
        self._sends_no_more = False  # the client
        self._at_eof = False  # and there is nothing left to read for the application
        self._expects = request.expect_continue and not data
        self._decoder = (
            ChunkedBody(serving.most_body) if request.chunked
            else LengthBody(request.length) if request.length else None
        )  # fmt: skip
        self._received: list[bytes] = []
        self._buffered = 0  # bytes of them
        self._discarded = 0  # bytes of body that came when the answer was over
        self._told_end = False  # the application has the end of the body
        self._rest = b""  # came behind the request
        if data:
            self.feed(data)

    @classmethod
    def adopted(cls, serving: Serving, call: NativeCycle, peer: Peer) -> Cycle:
        """Goes on with a request that native code has begun, whose body has come."""
        self = cls(serving, cast(Request, call), peer, b"")
        self.ticket, self._gone = call.ticket, call.left
        if call.body is None:
            self._told_end = True
        else:
            self._received.append(call.body)
        self.response.adopt(call)
        if serving.framing.times_queue:
            self.response.more = queue_line(call.waited)
        left = call.answer  # by an operation of the driver's
        for piece in left if isinstance(left, tuple) else (left, call.unsent):
            if piece:
                self._hold(piece)
        return self

    @property
    def code(self) -> int:  # type: ignore[override]
        return self.response.code

    @property
    def sent(self) -> int:  # type: ignore[override]
        return self.response.sent

    # ---- the application's task -----------------------------------------------------------

    def start(self, scope: Scope) -> None:
        if self._serving.framing.times_queue:
            self.response.more = queue_line(self.peer.waited())
        super().start(scope)

    @property
    def _told(self) -> bool:
        return self._gone or self._at_eof or self._refused

    @property
    def _said(self) -> bool:
        return self.response.over and not self._refused

    @property
    def _missing(self) -> str:
        if self.response.over or self._refused:
            return ""
        return self.response.missing

    def _finish(self, failed: bool) -> None:
        if self._missing and not failed and not self._told:
            self._host.log.error(f"{self._line}: the application returned without {self._missing}")
        if self.response.over or self._gone or self._refused:
            return
        if self.response.head_sent:
            self.break_off()
        elif self._told and not failed:
            self.leave()
        else:
            reason = "the application failed; see the error log"
            self._answer(Refused(500, reason, Refusal.APPLICATION_FAILED))

    async def receive(self) -> Message:
        while (message := self._next_message()) is None:
            await self._wait(self._receiving)
        return message

    def _next_message(self) -> Message | None:
        if self._gone or self._refused or self.response.over:
            if self._files:
                return None  # the answer goes on
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
            if self._gone:  # only now it shows; nobody wakes what begins to wait behind that
                return {"type": "http.disconnect"}
        return None

    async def send(self, message: Message) -> None:
        if in_fork:
            raise ClientGone("the client is the worker's, not a process's that it has forked")
        if self._gone or self._refused:
            return  # the client is not there to see it (ASGI's HTTP 2.3)
        response = self.response
        if self._expects and not response.code:
            response.close = True  # its body may come or not, and would be taken for the next request
        elif response.code and not response.head_sent and self._owes_much and not message.get("more_body"):
            response.close = True
        out = response.add(message)
        if response.file is not None:
            file, response.file = response.file, None
            self._begin_file(file, out)
        elif out:
            self._write(out)
        if response.over:
            self._received.clear()
            self._buffered = 0  # what comes of its body is dropped
            release(self._receiving)
            self._wake()
        if self._files or not response.over:
            await self.room()

    # ---- both sides -----------------------------------------------------------------------

    def _release(self) -> None:
        release(self._receiving)
        super()._release()

    def _begin_file(self, file: File, out: bytes) -> None:
        """Send what is before it, and of it what can be sent now."""
        if out:
            self._write(out, more=True)
        self._files = (*self._files, file)
        if self._gone:
            self._drop_files()
            return
        try:
            self.writable()
        except ClientGone:
            self.leave()
        self._wake()

    def writable(self) -> None:
        super().writable()
        while self._files and not self._backlog and self._send_file():
            super().writable()
            release(self._receiving)

    def _send_file(self) -> bool:
        """Send what can be sent of the first one; whether it is over. Raises ClientGone."""
        self.quiet = False
        file, *others = self._files
        try:
            if not file.give(self.peer):
                return False
        except FileFailed as failure:
            self._host.log.error(f"{self._line}: {failure}")
            self.break_off()
            return False
        self._files = tuple(others)
        file.close()
        if file.behind:
            self._hold(file.behind)
        return True

    def _drop_files(self) -> None:
        """What is left of them is not sent."""
        files, self._files = self._files, ()
        for file in files:
            self.response.sent -= file.count
            file.close()

    def _answer(self, refused: Refused) -> None:
        """In place of the application, which has no say any more."""
        response = self.response
        self._host.recorder.add(REFUSED + refused.kind)
        request = self.request
        answer = error(
            refused.status, refused.reason, method=request.method, fields=id_fields(request.id),
            server=self._serving.framing.server,
        )  # fmt: skip
        response.code, response.sent = refused.status, body_size(answer)
        response.head_sent = response.over = response.close = self._refused = True
        self._write(answer)
        self._release()

    def refuse(self, refused: Refused) -> None:
        """The body of the request cannot be read to its end."""
        if self._gone or self._refused or self.response.over:
            self.response.close = True
        elif self.response.head_sent:
            self.break_off()
        else:
            self._host.log.debug(f"{self.client}: refused with {refused.status}: {refused.reason}")
            self._answer(refused)

    def break_off(self, kind: Refusal = Refusal.BROKEN_OFF, *, reset: bool = False) -> None:
        """The client is to see that its answer is not whole. `reset`: by RST, even where a close would do and
        leave it what is on its way."""
        if self._gone or (self.response.over and not self._backlog and not self._files):
            return
        self._drop_files()
        self._host.recorder.add(REFUSED + kind)
        self.broken = self._refused = self.response.over = self.response.close = True
        if reset or self.response.ends_by_close:
            self._reset()
        self._release()

    def expire(self) -> None:
        """--request-timeout is over."""
        if self.answered:
            return
        self._host.log.warning(f"{self._line}: it has taken longer than --request-timeout")
        if self.response.head_sent:
            self.break_off(Refusal.REQUEST_TIMEOUT, reset=True)
        else:
            late = "the request has taken longer than --request-timeout"
            self.refuse(Refused(504, late, Refusal.REQUEST_TIMEOUT))

    def leave(self) -> None:
        self.response.code = self.response.code or _CLIENT_LEFT_STATUS
        unsent = self._backlog or self.unfinished
        self._drop_files()
        if unsent and not self._gone and self.response.ends_by_close:
            self._reset()  # it may be there, and only slow: a close would be the end of its answer
        super().leave()

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
    def _owes_much(self) -> bool:
        """Whether so much of its body is to come that the connection is not kept for it."""
        return isinstance(self._decoder, LengthBody) and self._decoder.left > HIGH_WATER_BYTES

    @property
    def through(self) -> bool:
        """Whether the session is done with this request: its answer is sent, and its body was read."""
        if self._gone:
            return True
        response = self.response
        if not response.over or self._backlog or self._files:
            return False
        if not self.whole and (self._expects or self._at_eof or self._discarded > HIGH_WATER_BYTES):
            response.close = True
        return self.whole or response.close

    @property
    def answered(self) -> bool:
        return self._gone or not (self._backlog or self.unfinished)

    @property
    def unfinished(self) -> bool:
        """Whether the application has not given all of its answer, or has given it as a file."""
        return not self.response.over or bool(self._files)

    @property
    def rest(self) -> bytes:
        """What the client has sent behind this request."""
        return self._rest if self._decoder is None else self._decoder.leftover + self._rest

    def needs(self) -> tuple[int, bool, bool]:
        """Of its input; room for output; and whether the client owes bytes of its body."""
        owes = not self.whole
        room = (self._buffered if owes else len(self._rest)) < HIGH_WATER_BYTES
        reads = room and not self._at_eof
        needs = INPUT if reads else NOTHING if self._at_eof or self._sends_no_more else END
        return needs, bool(self._backlog or self._files), owes and reads and not self._expects

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
            release(self._receiving)

    def input_ends(self) -> None:
        """The client sends no more; what it has sent may not have been read yet."""
        self._sends_no_more = True
        if self.whole:
            self.end_of_input()

    def end_of_input(self) -> None:
        self._at_eof = True
        release(self._receiving)
