"""One WSGI response: start_response, the framing, and the bytes for each piece (PEP 3333).

Decides nothing about sockets: the session yields what comes back from here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from forkd.app.wsgi.shortcut import Block, Usual, UsualRequest
from forkd.http.guard import Request
from forkd.http.response import (
    LAST_CHUNK,
    BadResponse,
    Head,
    bodiless,
    check_headers,
    chunk,
    date,
    encode,
)
from forkd.session.seam import ClientGone, Host, Peer
from forkd.system.forked import in_fork
from forkd.system.originals import time

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class Response:
    # What most responses leave as it is costs them nothing.
    code = 0
    head_sent = False
    overrun = False  # the application gave more than its Content-Length
    over = False  # what the application has kept of it must not reach the connection any more
    sent = 0  # bytes of body
    left: int | None = None  # bytes of the body that the application promised and has not given yet
    ticket = 0  # of the request in the recorder, once it has begun
    _head: Head | None = None  # what start_response was called with, when it was not usual
    _chunked = False
    _bodiless = False

    def __init__(
        self,
        request: Request | UsualRequest,
        peer: Peer,
        host: Host,
        usual: Usual,
        keep_alive: bool,
        block: Block | None = None,
    ) -> None:
        """`block`: what start_response was called with already, when that was usual."""
        self.close = not keep_alive  # the connection ends after this response
        if request.ticket:
            self.ticket = request.ticket
        self._method = request.method
        self._version = request.version
        self._block = block
        if block is not None:
            self.code = block.code
        self._peer = peer
        self._host = host
        self._usual = usual

    # ---- what the application calls -------------------------------------------------------

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no cycle through this frame
        elif self.code:
            raise RuntimeError("start_response was called twice without exc_info (PEP 3333)")
        block = self._usual.block(status, headers)
        if block is not None:
            self._block, self.code = block, block.code
            return self.write
        head = check_headers(status, headers)  # raises: then what was said before holds
        self._block, self._head, self.code = None, head, head.code
        self.close = self.close or head.close
        return self.write

    def write(self, data: bytes) -> None:
        """The write() callable: sent before it returns, as PEP 3333 wants."""
        if in_fork:
            raise ClientGone("the client is the worker's, not a process's that it has forked")
        if self.over:
            raise RuntimeError("write() was called after its request (PEP 3333)")
        piece = self.piece(exact(data), None)
        if piece:
            self._host.recorder.pause()  # waiting for the client is not the application's time
            try:
                self._peer.push(piece)
            finally:
                self._host.recorder.resume(self.ticket)

    # ---- what the session calls -----------------------------------------------------------

    def whole(self, data: bytes) -> bytes:
        """The answer, when its body is this one block. Raises BadResponse."""
        block = self._block
        if block is not None and self._version == "1.1" and self._method != "HEAD":
            if self._host.draining:
                self.close = True
            answer = self._usual.answer(block, date(time.time()), data, self.close)
            if answer is not None:
                self.head_sent = True
                self.sent = len(data)
                return answer
        answer = self.piece(data, len(data))
        self.end()
        return answer

    def piece(self, data: bytes, length: int | None) -> bytes:
        """The bytes for one piece of body, with the head before the first. `length`: of the whole
        body, where the session knows it. Raises BadResponse."""
        if self.head_sent:
            return self._frame(data) if data else b""
        return self.head(length) + self._frame(data)

    def head(self, length: int | None) -> bytes:
        """Decide the framing (RFC 9112, 6) and return the head."""
        if not self.code:
            raise BadResponse("the application did not call start_response")
        head = self._head if self._block is None else self._block
        assert head is not None
        self._bodiless = bodiless(head.code, self._method)
        if head.length is not None:
            length = head.length
        elif self._bodiless and not length:
            length = None  # what a GET would have had is not known
        elif length is None:
            if self._version == "1.1":
                self._chunked = True
            else:
                self.close = True
        if self._host.draining:
            self.close = True  # now rather than when the request began: it may have taken long
        self.left = None if self._bodiless else length
        keep_alive = None
        if self.close:
            keep_alive = False
        elif self._version == "1.0":
            keep_alive = True
        self.head_sent = True
        return encode(
            head, time.time(), length=length, chunked=self._chunked, keep_alive=keep_alive
        )

    def _frame(self, data: bytes) -> bytes:
        if self._bodiless or not data:
            return b""
        if self._chunked:
            self.sent += len(data)
            return chunk(data)
        if self.left is not None:
            if len(data) > self.left:
                self.overrun = True
                data = data[: self.left]
            self.left -= len(data)
        self.sent += len(data)
        return data

    def take(self, available: int) -> int:
        """How many of the `available` bytes of a body that is sent in one go belong to it; call
        after `head`, which knew that length."""
        if self._bodiless:
            return 0
        count = available if self.left is None else min(available, self.left)
        if self.left is not None:
            self.left -= count
        self.sent += count
        return count

    def end(self) -> bytes:
        """The bytes that end the body. A body that fell short of its Content-Length cannot be ended: the
        connection must close, so that the client sees that something is missing."""
        if self._chunked and not self._bodiless:
            return LAST_CHUNK
        if self.left:
            self.close = True
        return b""

    @property
    def complete(self) -> bool:
        """No further piece can add to what was sent: there is no body, or too much of it."""
        return self.head_sent and (self._bodiless or self.overrun)


def exact(data: object) -> bytes:
    """The bytes of a block. A subclass of bytes may say anything of its own length, which would put the
    framing out of step with what is sent: of it, its content is taken."""
    if type(data) is bytes:
        return data
    if isinstance(data, bytes):
        return bytes.__getitem__(data, slice(None))
    raise TypeError(f"the application gave {type(data).__name__}, not bytes (PEP 3333)")


def declared(value: Any) -> int | None:
    """`len(value)` where an iterable has one (PEP 3333: a single block needs no chunking)."""
    try:
        return len(value)
    except TypeError:
        return None
