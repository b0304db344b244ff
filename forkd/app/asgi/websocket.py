"""One WebSocket: its messages between the application and the session of its connection.

It ends by a Close frame of both sides, by the end of the connection, or by what is wrong with the client's
frames; the application learns by `websocket.disconnect` how it did. In a child, on the thread of its loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any

from forkd.app.asgi import message_flow
from forkd.app.asgi.duplex import (
    END,
    HIGH_WATER_BYTES,
    INPUT,
    NOTHING,
    Duplex,
    Logged,
    Message,
    Serving,
)
from forkd.app.asgi.handshake import Handshake, accepted
from forkd.app.asgi.response import Response, exact
from forkd.http import frames
from forkd.http.deflate import Agreed
from forkd.http.frames import BadFrame, Frame, close_frame, frame, message_frame
from forkd.http.guard import Request
from forkd.http.limits import Refusal
from forkd.http.response import body_size, error
from forkd.session.request_ids import id_fields
from forkd.session.seam import ClientGone, Peer
from forkd.system.cells import REFUSED, WEBSOCKETS
from forkd.system.forked import in_fork
from forkd.system.originals import monotonic

_NOT_CLOSED = (frames.NOT_CLOSED, "")
#: For which an application is given what its client has sent before it saw the Close of a worker that ends.
_GIVEN_SECONDS = 2.0
_DENIAL = "websocket.http.response."


class ClientDisconnected(OSError):
    """Raised by send() when the WebSocket is over (ASGI's WebSocket 2.4)."""


class Phase(Enum):
    CONNECTING = auto()  # the application has not decided
    DENYING = auto()  # it answers the handshake as a request
    OPEN = auto()
    CLOSING = auto()  # our Close frame is sent; the client's is waited for
    OVER = auto()  # nothing more is sent, and nothing is read


class WebSocket(Duplex):
    __slots__ = (
        "_agreed", "_closed", "_deaf_until", "_denial", "_early", "_flow", "_handshake", "_restarting",
        "_sends_no_more", "_sides", "broken", "code", "may_deny", "phase",
    )  # fmt: skip

    def __init__(
        self, serving: Serving, request: Request, peer: Peer, handshake: Handshake, data: bytes
    ) -> None:
        """`data`: came behind the head."""
        self._flow = message_flow.make(
            peer, self, serving.loop, serving.most_message, handshake.agreed, serving.native and peer.direct
        )
        super().__init__(serving, request, peer)
        self.code = 0
        self.phase = Phase.CONNECTING
        self.broken = False  # a denial has broken off
        self._handshake: Handshake | None = handshake  # until it is accepted
        self._agreed = handshake.agreed
        self._early = data  # frames, before there is an answer
        self._sends_no_more = False  # the client
        self._sides = 2  # the application and the session, of those that have not ended
        self._closed = _NOT_CLOSED  # our Close frame, once it is sent
        self._restarting = False  # that was not the application's
        self._deaf_until = 0.0  # CLOCK_MONOTONIC; until then what it sends behind that is no error
        self.may_deny = True  # the application may answer the handshake as a request
        self._denial: Response | None = None
        peer.note = self._flow

    @property
    def quiet(self) -> bool:
        return self._flow.quiet

    @quiet.setter
    def quiet(self, quiet: bool) -> None:
        self._flow.quiet = quiet

    @property
    def sent(self) -> int:  # type: ignore[override]
        return self._flow.sent

    @property
    def receive(self) -> Callable[[], Awaitable[Message]]:
        return self._flow.receive

    @property
    def send(self) -> Callable[[Message], Awaitable[None]]:
        return self._flow.send

    # ---- the application's task -----------------------------------------------------------

    @property
    def _told(self) -> bool:
        left = self._gone or self._flow.end is not None
        return left or (self._restarting and self.phase is Phase.CLOSING)

    @property
    def _said(self) -> bool:
        return False

    def _finish(self, failed: bool) -> None:
        self._flow.discard()
        self._side_ends()
        match self.phase:
            case Phase.CONNECTING:
                if not failed and not self._told:
                    self._host.log.error(f"{self._line}: the application has neither accepted nor closed")
                self._fail()
            case Phase.DENYING:
                assert self._denial is not None
                if not failed and not self._told:
                    missing = "the application returned without the end of its answer"
                    self._host.log.error(f"{self._line}: {missing}")
                if self._denial.head_sent:
                    self.broken = True
                    self._over()
                else:
                    self._fail()
            case Phase.OPEN:
                self._close(frames.INTERNAL_ERROR if failed else frames.NORMAL)
            case _:
                pass

    # ---- what a flow calls (message_flow.General) ------------------------------------------

    async def say(self, message: Message) -> None:
        if in_fork:
            raise ClientGone("the client is the worker's, not a process's that it has forked")
        kind = message["type"]
        if self._restarting and kind == "websocket.send":
            # An error would end most applications, and what the client has sent would be lost.
            given = self._is_given_more()
            await self._give_way()  # to a task that receives: it is told first
            if given:
                return
        if self._gone or (self._flow.end is not None and self.phase is Phase.OVER):
            raise ClientDisconnected("the WebSocket is over")
        if self._restarting and self.phase is Phase.CLOSING:
            raise ClientDisconnected("the worker ends, and has closed the WebSocket")
        match self.phase, kind:
            case Phase.CONNECTING, "websocket.accept":
                self._accept(message)
            case Phase.CONNECTING, "websocket.close":
                self._refuse(403, "the application has closed the WebSocket", None)
            case (Phase.CONNECTING | Phase.DENYING), _ if self.may_deny and kind.startswith(_DENIAL):
                self._deny({**message, "type": kind.removeprefix("websocket.")})
            case Phase.OPEN, "websocket.send":
                out = _frame_of(message, self._agreed)
                self._flow.sent += len(out)
                self._write(out)
            case Phase.OPEN, "websocket.close":
                code, reason = message.get("code", frames.NORMAL), message.get("reason") or ""
                proper = isinstance(code, int) and frames.may_be_sent(code)
                if not proper or len(reason.encode()) > frames.MAX_REASON_BYTES:
                    raise ValueError(f"no Close frame has code {code!r} and reason {reason!r}")
                self._close(code, reason)
            case _:
                raise RuntimeError(f"{kind!r} has no place while the WebSocket is {self.phase.name.lower()}")
        await self.room()

    def _is_given_more(self) -> bool:
        """After a Close that is not the application's: what the client has sent before it saw that, or the
        disconnect, which a task of its own may wait for."""
        return self.phase is Phase.CLOSING or (self._flow.count > 0 and monotonic() < self._deaf_until)

    async def spill(self, rest: bytes) -> None:
        self._write(rest)
        await self.room()

    def drained(self) -> None:
        self._flow.read(b"")
        if self._gone and not self._flow.full:
            self._over(*self._closed)
        self._wake()

    def wrong(self, bad: BadFrame) -> None:
        last = close_frame(bad.code, bad.reason) if self.phase is Phase.OPEN else b""
        self._host.log.debug(f"{self.client}: WebSocket closed with {bad.code}: {bad.reason}")
        self._over_with(bad.code, bad.reason, last)

    def control(self, frame: Frame) -> None:
        match frame.opcode:
            case frames.PING:
                if self.phase is Phase.OPEN and len(self._backlog) < HIGH_WATER_BYTES:
                    self._write(frames.frame(frames.PONG, exact(frame.data)))
            case frames.CLOSE if self.phase is Phase.OPEN:
                self._over_with(frame.code, str(frame.data), close_frame(frame.code))
            case frames.CLOSE:
                self._over(*self._closed)
            case _:
                pass

    # ---- the handshake --------------------------------------------------------------------

    def _accept(self, message: Message) -> None:
        assert self._handshake is not None
        framing = self._serving.framing
        headers = [*message.get("headers", ())]
        headers += [(name.encode(), value.encode()) for name, value in id_fields(self.request.id)]
        head = accepted(self._handshake, message.get("subprotocol"), headers, framing.server)
        self.phase, self.code = Phase.OPEN, 101
        # Thousands may be idle from here on: what is not needed any more is dropped.
        self._handshake = None
        request, agent = self.request, self.request.agent
        agent = agent and self._serving.interned(agent)
        self.request = Logged(request.line, request.id, request.referer, agent)
        self._host.recorder.add(WEBSOCKETS)
        early, self._early = self._early, b""
        self._write(head)
        self.feed(early)
        self._wake()

    def _deny(self, message: Message) -> None:
        assert isinstance(self.request, Request)
        response = self._denial = self._denial or Response(self._serving.framing, self.request)
        response.close = True
        out = response.add(message)
        self.phase, self.code = Phase.DENYING, response.code
        if out:
            self._write(out)
        if response.over:
            self._flow.sent = response.sent
            self._over()

    def _refuse(self, status: int, reason: str, refusal: Refusal | None) -> None:
        """Answer the handshake in the application's place."""
        if refusal is not None:
            self._host.recorder.add(REFUSED + refusal)
        fields = id_fields(self.request.id)
        answer = error(status, reason, fields=fields, server=self._serving.framing.server)
        self.code, self._flow.sent = status, body_size(answer)
        self._write(answer)
        self._over()

    def _fail(self) -> None:
        self._refuse(500, "the application failed; see the error log", Refusal.APPLICATION_FAILED)

    # ---- the end --------------------------------------------------------------------------

    def _side_ends(self) -> None:
        self._sides -= 1
        if not self._sides:
            self._flow.detach()

    def _over(self, code: int = frames.NOT_CLOSED, reason: str = "") -> None:
        self.phase, flow = Phase.OVER, self._flow
        flow.over = True
        if flow.end is None:
            flow.end = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self._release()

    def _over_with(self, code: int, reason: str, last: bytes) -> None:
        """`last`: sent, if it can be. Where the client has left, it is over with this code all the same."""
        self._over(code, reason)
        if last:
            self._write(last)

    def _close(self, code: int, reason: str = "") -> None:
        """Send our Close frame, and wait for the client's."""
        self.phase, self._closed = Phase.CLOSING, (code, reason)
        self._write(close_frame(code, reason))
        self._wake()

    def restart(self) -> bool:
        """The worker ends: close it for that, unless the client is in the middle of a message. Returns
        whether it is closing, or over."""
        if self.phase is Phase.OPEN and not self._flow.reader.midway:
            self._restarting, self._deaf_until = True, monotonic() + _GIVEN_SECONDS
            self._close(frames.SERVICE_RESTART, "service restart")
        return self.phase in (Phase.CLOSING, Phase.OVER)

    def cut(self) -> None:
        """At the end of the worker's time, in the middle of whatever it is."""
        if self.phase is Phase.CONNECTING:
            self._refuse(503, "the worker ends before its answer", Refusal.APPLICATION_FAILED)
        elif self.phase is Phase.OPEN:
            last = close_frame(frames.SERVICE_RESTART, "service restart")
            self._over_with(frames.SERVICE_RESTART, "", last)
        else:
            self._over(*self._closed)

    def expire(self) -> None:
        """--request-timeout is over, which is for the handshake."""
        if self.phase is not Phase.CONNECTING and self.phase is not Phase.DENYING:
            return
        self._host.log.warning(f"{self._line}: its handshake has taken longer than --request-timeout")
        if self._denial is not None and self._denial.head_sent:
            self._host.recorder.add(REFUSED + Refusal.REQUEST_TIMEOUT)
            self.broken = True
            self._reset()
            self._over()
        else:
            late = "the handshake has taken longer than --request-timeout"
            self._refuse(504, late, Refusal.REQUEST_TIMEOUT)

    def leave(self) -> None:
        """The connection has ended without the client's Close."""
        self.code = self.code or 499
        if not self._flow.full:  # else the application has what was read first
            self._over(*self._closed)
        super().leave()

    def account(self) -> None:
        if self.ticket and self.code == 101:
            self._host.recorder.add(WEBSOCKETS, -1)
        super().account()

    # ---- the session ----------------------------------------------------------------------

    def _wake(self) -> None:
        self._settle()
        super()._wake()

    def _release(self) -> None:
        self._flow.release()
        super()._release()

    def _settle(self) -> None:
        """Whether the flow is plain may have changed."""
        self._flow.plain = (
            self.phase is Phase.OPEN and not self._backlog and not self._gone and self.peer.direct
        )

    def writable(self) -> None:
        super().writable()
        self._settle()

    def part(self) -> None:
        """The session has ended."""
        self.attended = False
        self.leave()
        self.account()
        self.peer.note = None
        self._side_ends()

    @property
    def through(self) -> bool:
        return self._gone or (self.phase is Phase.OVER and not self._backlog)

    def needs(self) -> tuple[int, bool]:
        """Of its input, and room for output."""
        full = not self._sends_no_more and (self._flow.full or len(self._early) >= HIGH_WATER_BYTES)
        if self.phase is Phase.OVER:
            needs = NOTHING if self._sends_no_more else END
        else:
            needs = END if full else INPUT
        return needs, bool(self._backlog)

    def feed(self, data: bytes) -> None:
        """Bytes have come, of frames."""
        if self.phase is Phase.CONNECTING or self.phase is Phase.DENYING:
            self._early += data
        else:
            self._flow.read(data)

    def input_ends(self) -> None:
        """The client sends no more, and what it has sent is not read since the application does not receive:
        from here on it is read all the same, which is as much as the kernel has by now. Then the connection
        ends, and the application has the messages when it asks for them."""
        self._sends_no_more = True

    def end_of_input(self) -> None:
        """The client sends no more, and so no Close either, but for one among what is left to read."""
        self.leave()

    def ping(self) -> None:
        self._write(frame(frames.PING, b""))

    def unanswered(self) -> None:
        """The client has not answered a ping."""
        last = close_frame(frames.INTERNAL_ERROR, "ping timeout")
        self._over_with(frames.INTERNAL_ERROR, "ping timeout", last)


def _frame_of(message: dict[str, Any], agreed: Agreed | None) -> bytes:
    text, data = message.get("text"), message.get("bytes")
    if (text is None) is (data is None):
        raise ValueError("websocket.send has text or bytes, and not both")
    if text is not None:
        return message_frame(frames.TEXT, text.encode(), agreed)
    return message_frame(frames.BINARY, exact(data), agreed)
