"""The framing of answers over HTTP/1 (RFC 9112, 6): the head, what delimits the body, whether the connection
goes on, and the bytes for each piece.

Used in a child by an interface, which decides what is answered, and yields the bytes made here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from forkd.config import Config
from forkd.http.response import (
    LAST_CHUNK,
    BadResponse,
    Head,
    bodiless,
    check_headers,
    chunk,
    date,
    encode,
    server_line,
)
from forkd.native import pick
from forkd.session.seam import Host
from forkd.system.originals import time

#: What native code makes of a usual status and usual headers: as a response.Head.
Block = Any
MakeBlock = Callable[[str, list[tuple[str, str]]], Block | None]
#: (block, date, server, request id, body, close) -> the answer, if that body is all of it.
MakeAnswer = Callable[[Block, bytes, bytes, str, bytes, bool], bytes | None]


class Asked(Protocol):
    """The request, as far as the framing of its answer depends on it."""

    @property
    def method(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def keep_alive(self) -> bool: ...
    @property
    def id(self) -> str: ...


class Framing:
    """What the answers of a child have in common. One per child."""

    def __init__(self, config: Config, host: Host) -> None:
        self.host = host
        self.keep_alive = config.keep_alive > 0
        self.server = server_line(config.server_header)
        self.times_queue = config.server_timing
        block: MakeBlock | None = pick("block", None, config.native)
        #: Checks the status and headers of an answer. Raises BadResponse.
        self.check: Callable[[str, list[tuple[str, str]]], Head | Block]
        self.check = check_headers if block is None else partial(_check, block)
        self.answer: MakeAnswer | None = pick("answer", None, config.native)


def _check(block: MakeBlock, status: str, headers: list[tuple[str, str]]) -> Head | Block:
    return block(status, headers) or check_headers(status, headers)


def exact(data: object) -> bytes:
    """The bytes of a block. A subclass of bytes may say anything of its own length, which would put the
    framing out of step with what is sent: of it, its content is taken."""
    if type(data) is bytes:
        return data
    if isinstance(data, bytes):
        return bytes.__getitem__(data, slice(None))
    raise TypeError(f"the application gave {type(data).__name__}, not bytes (PEP 3333)")


def queue_line(waited: float) -> bytes:
    """The field Server-Timing of an answer to a request that was begun after so many seconds."""
    return b"Server-Timing: queue;dur=%.1f\r\n" % (waited * 1e3)


class Answer:
    """One answer."""

    #: What is wrong where there is no head yet.
    NO_HEAD = "the application named no status"

    # What most answers leave as it is costs them nothing.
    code = 0  # 0: there is no head yet
    head_sent = False
    overrun = False  # there was more body than its Content-Length
    sent = 0  # bytes of body
    more = b""  # lines of the head that are forkd's
    left: int | None = None  # bytes of the body that its Content-Length promised and that are not here yet
    _head: Head | None = None  # when it is not a block
    _chunked = False
    _bodiless = False

    def __init__(self, framing: Framing, request: Asked, block: Block | None = None) -> None:
        """`block`: status and headers, when these were chosen already, and are usual."""
        self.close = not (request.keep_alive and framing.keep_alive)  # the connection ends after this answer
        self._method = request.method
        self._version = request.version
        self._id = request.id
        self._block = block
        if block is not None:
            self.code = block.code
        self._framing = framing

    def choose(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Set status and headers, in place of earlier ones. Raises BadResponse: then those still hold."""
        head = self._framing.check(status, headers)
        self.code = head.code
        if type(head) is Head:
            self._block, self._head = None, head
            self.close = self.close or head.close
        else:
            self._block = head

    def whole(self, data: bytes) -> bytes:
        """The answer, when its body is this one block. Raises BadResponse."""
        block = self._block
        if block is not None and self._version == "1.1" and self._method != "HEAD" and not self.more:
            if self._framing.host.draining:
                self.close = True
            framing = self._framing
            assert framing.answer is not None
            answer = framing.answer(
                block, date(time.time()), framing.server, self._id, data, self.close
            )
            if answer is not None:
                self.head_sent = True
                self.sent = len(data)
                return answer
        answer = self.piece(data, len(data))
        self.end()
        return answer

    def piece(self, data: bytes, length: int | None) -> bytes:
        """The bytes for one piece of body, with the head before the first. `length`: of the whole
        body, where the caller has it. Raises BadResponse."""
        if self.head_sent:
            return self._frame(data) if data else b""
        return self.head(length) + self._frame(data)

    def head(self, length: int | None) -> bytes:
        """Decide the framing (RFC 9112, 6) and return the head. Raises BadResponse."""
        if not self.code:
            raise BadResponse(self.NO_HEAD)
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
        if self._framing.host.draining:
            self.close = True  # now rather than when the request began: it may have taken long
        self.left = None if self._bodiless else length
        keep_alive = None
        if self.close:
            keep_alive = False
        elif self._version == "1.0":
            keep_alive = True
        self.head_sent = True
        return encode(
            head, time.time(), length=length, chunked=self._chunked, keep_alive=keep_alive,
            server=self._framing.server, request_id=self._id, more=self.more,
        )  # fmt: skip

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
        after `head`, which was told that length."""
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
    def ends_by_close(self) -> bool:
        """Whether its body, of which some was sent, has neither length nor chunks: for its client, a close is
        the end of all of it."""
        return self._version == "1.0" and self.head_sent and self.left is None and not self._bodiless

    @property
    def complete(self) -> bool:
        """No further piece can add to what was sent: there is no body, or too much of it."""
        return self.head_sent and (self._bodiless or self.overrun)
