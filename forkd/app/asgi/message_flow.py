"""The messages of one WebSocket on their way: from the frames of its client to the application, and back. Its
twin is native/asgi_message_flow.c.

`plain`: the WebSocket is open, and nothing waits to be sent: then native code may read what arrives, and send
what the application sends, without a call of the session or of app/asgi/websocket.py. `over`: nothing more is
read. `quiet`: nothing has moved since this was last looked at.

A message leaves the queue in the step that returns it, so that a wait that is cancelled loses none. In a
child, on the thread of its loop.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

from forkd.app.asgi.duplex import HIGH_WATER_BYTES, Message, Waiters, release
from forkd.http.deflate import Agreed, Inflater
from forkd.http.frames import BINARY, TEXT, BadFrame, Frame, FrameReader
from forkd.native import pick
from forkd.session.seam import Peer

if TYPE_CHECKING:
    from forkd._native import MessageFlow as NativeMessageFlow

#: Messages that are read ahead of the application, however short.
_MAX_AHEAD = 16

#: As session.Await has it.
SHORTCUT: Any = pick("MESSAGE_SHORTCUT", None)


class Loop(Protocol):
    def create_future(self) -> Any: ...


class General(Protocol):
    """What is done for a flow that is not plain: by app/asgi/websocket.py."""

    def say(self, message: Message) -> Awaitable[None]:
        """The application sends this."""
        ...

    def spill(self, rest: bytes) -> Awaitable[None]:
        """The end of a frame, which the socket did not take."""
        ...

    def control(self, frame: Frame) -> None: ...
    def wrong(self, bad: BadFrame) -> None: ...
    def drained(self) -> None:
        """There is room again for what the client sends."""


class MessageFlow:
    __slots__ = (
        "_buffered", "_discards", "_general", "_loop", "_messages", "_receiving", "_started", "end", "over",
        "plain", "quiet", "reader", "sent",
    )  # fmt: skip

    def __init__(
        self, *, peer: Peer, general: General, loop: Loop, reader: FrameReader,
        compresses: bool,
    ) -> None:  # fmt: skip
        self.reader = reader
        self.plain = self.over = self.quiet = False
        self.sent = 0  # bytes
        self.end: Message | None = None  # what receive() says when there is no message any more
        self._general: General | None = general
        self._loop = loop
        self._discards = False
        self._started = False  # the application has websocket.connect
        self._messages: list[str | bytes] = []
        self._buffered = 0  # their bytes, or characters
        self._receiving: Waiters = []

    @property
    def full(self) -> bool:
        return self._buffered >= HIGH_WATER_BYTES or len(self._messages) >= _MAX_AHEAD

    @property
    def count(self) -> int:
        """Of messages that wait for the application."""
        return len(self._messages)

    # ---- for the session ------------------------------------------------------------------

    def read(self, data: bytes) -> None:
        """Bytes have come, of frames. They are taken as far as there is room: a few may be many messages, and
        long ones. `data` empty: go on with what is left of them."""
        general = self._general
        self.quiet = False
        frames = self.reader.feed(data)
        try:
            while general is not None and not (self.over or self.full):
                each = next(frames, None)
                if each is None:
                    break
                if each.opcode not in (TEXT, BINARY):
                    general.control(each)
                elif not self._discards:
                    self._messages.append(each.data)
                    self._buffered += len(each.data)
        except BadFrame as bad:
            assert general is not None
            general.wrong(bad)
        if self._messages:
            release(self._receiving)

    def release(self) -> None:
        """Nobody has to wait any more."""
        release(self._receiving)

    def discard(self) -> None:
        """Nobody takes what is here, or what comes."""
        self._discards = True
        self._messages.clear()
        self._buffered = 0

    def detach(self) -> None:
        """The WebSocket is over, and its application has returned."""
        self._general = None

    # ---- for the application --------------------------------------------------------------

    async def receive(self) -> Message:
        if not self._started:
            self._started = True
            return {"type": "websocket.connect"}
        while not self._messages:
            if self.end is not None:
                return self.end
            waiter = self._loop.create_future()
            self._receiving.append(waiter)
            try:
                await waiter
            finally:
                self._receiving.remove(waiter)
        full = self.full
        data = self._messages.pop(0)
        self._buffered -= len(data)
        if full and not self.full and self._general is not None:
            self._general.drained()
        return {"type": "websocket.receive", ("text" if isinstance(data, str) else "bytes"): data}

    async def send(self, message: Message) -> None:
        if self._general is None:
            raise ConnectionError("the WebSocket is over")
        await self._general.say(message)


def make(
    peer: Peer, general: General, loop: Loop, most: int, agreed: Agreed | None, native: bool
) -> MessageFlow | NativeMessageFlow:
    """`most`: bytes that a message may have. `agreed`: how messages are compressed, if they may be."""
    inflater = None if agreed is None else Inflater(agreed)
    flow: MessageFlow | NativeMessageFlow = pick("MessageFlow", MessageFlow, native)(
        peer=peer, general=general, loop=loop, compresses=agreed is not None,
        reader=pick("FrameReader", FrameReader, native)(most=most, inflater=inflater),
    )  # fmt: skip
    return flow
