"""WebSocket's frames (RFC 6455) as bytes: what a client sends, as messages, and what a server sends.

Sans-I/O; used by app/asgi/websocket.py. What is wrong with a client's bytes is an exception that has the code
of the Close frame to answer with. Of extensions there is permessage-deflate, where it was agreed on.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from forkd.http.deflate import Agreed, Inflater, deflated

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FIN, _RESERVED, _OPCODE, _CONTROL, _MASKED, _SIZE = 0x80, 0x70, 0x0F, 0x08, 0x80, 0x7F
_DEFLATED = 0x40  # RSV1 of a message's first frame (RFC 7692 6)
_MAX_CONTROL_BYTES = 125
MAX_REASON_BYTES = 123

NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_CODE, NOT_CLOSED, BAD_PAYLOAD = 1000, 1001, 1002, 1005, 1006, 1007
TOO_BIG, INTERNAL_ERROR, SERVICE_RESTART = 1009, 1011, 1012
#: Codes that are no reasons for an end, and never on the wire (RFC 6455 7.4.1).
_NEVER_SENT = (1004, NO_CODE, NOT_CLOSED, 1015)

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
VERSION = b"13"


class BadFrame(Exception):
    """The client's bytes are no frames, or more than there may be. `code`: of the Close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Frame(NamedTuple):
    """A whole message, or a control frame. Of a Close, `data` is the reason, and `code` the code: NO_CODE
    where the client has sent none."""

    opcode: int
    data: str | bytes
    code: int = 0


class FrameReader:
    """The messages of one client, from its bytes in any pieces. Its twin is native/http_frames.c."""

    __slots__ = (
        "_bytes", "_came", "_decoder", "_deflated", "_fragments", "_inflater", "_most", "_opcode", "_size"
    )  # fmt: skip

    def __init__(self, most: int, inflater: Inflater | None = None) -> None:
        """`most`: bytes that a message may have. `inflater`: where compressed ones may come."""
        self._most = most
        self._inflater = inflater
        self._deflated = False  # the message whose fragments come is compressed
        self._came = 0  # bytes of it, as they came
        self._bytes = bytearray()
        self._opcode = 0  # of the message whose fragments come
        self._fragments = bytearray()
        self._size = 0  # bytes of a compressed one, as they are
        self._decoder: codecs.IncrementalDecoder | None = None  # of fragments of text

    @property
    def midway(self) -> bool:
        """Whether a part of a message is here, or of a frame."""
        return bool(self._opcode or self._bytes)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Returns itself: going through it takes the frames that are complete. That raises BadFrame; then
        nothing more may be fed."""
        self._bytes += data
        return self

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        held = self._bytes
        while (found := self._frame(held)) is not None:
            start, end, first = found
            opcode, mask = first & _OPCODE, held[start - 4 : start]
            payload = _unmask(bytes(held[start:end]), bytes(mask))
            del held[:end]
            if opcode & _CONTROL:
                return self._control(opcode, payload)
            if (whole := self._data(first, payload)) is not None:
                return whole
        raise StopIteration

    def _frame(self, held: bytearray) -> tuple[int, int, int] | None:
        """Where the payload of the first frame begins and ends, and its first byte; None: it is not all here.
        What its head says is judged before the payload comes."""
        if len(held) < 2:
            return None
        first, second = held[0], held[1]
        opcode, size, at = first & _OPCODE, second & _SIZE, 2
        deflated = self._inflater is not None and first & _RESERVED == _DEFLATED and opcode in (TEXT, BINARY)
        if first & _RESERVED and not deflated:
            raise BadFrame(PROTOCOL_ERROR, "a reserved bit is set")
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise BadFrame(PROTOCOL_ERROR, "unknown opcode")
        if not second & _MASKED:
            raise BadFrame(PROTOCOL_ERROR, "a client's frame without a mask")
        if opcode & _CONTROL and (size > _MAX_CONTROL_BYTES or not first & _FIN):
            raise BadFrame(PROTOCOL_ERROR, "a control frame that is fragmented, or too long")
        if not opcode & _CONTROL and (opcode == CONTINUATION) is not bool(self._opcode):
            raise BadFrame(PROTOCOL_ERROR, "a fragment out of place")
        if size > _MAX_CONTROL_BYTES:
            at = 4 if size == 126 else 10
            if len(held) < at:
                return None
            shortest, size = (126 if size == 126 else 1 << 16), int.from_bytes(held[2:at], "big")
            if size < shortest or size >> 63:
                raise BadFrame(PROTOCOL_ERROR, "a length in more bytes than it needs")
        if not opcode & _CONTROL:
            most = self._most
            if deflated or self._deflated:
                most += most // 4 + 1024  # data that does not become shorter becomes longer
            if self._came + size > most:
                raise self._too_big
        start = at + 4
        return (start, start + size, first) if len(held) >= start + size else None

    @property
    def _too_big(self) -> BadFrame:
        return BadFrame(TOO_BIG, f"a message of more than {self._most} bytes")

    def _data(self, first: int, payload: bytes) -> Frame | None:
        last = bool(first & _FIN)
        self._opcode = self._opcode or first & _OPCODE
        self._deflated = self._deflated or bool(first & _DEFLATED)
        self._came += len(payload)
        if self._deflated and self._inflater is not None:
            payload = self._inflated(self._inflater, payload, last)
        text = self._opcode == TEXT
        try:
            if not last:
                if text:  # what is wrong is so at once
                    self._decoder = self._decoder or codecs.getincrementaldecoder("utf-8")()
                    self._decoder.decode(payload)
                self._fragments += payload
                return None
            whole = bytes(self._fragments + payload) if self._fragments else payload
            found = Frame(self._opcode, whole.decode() if text else whole)
        except UnicodeDecodeError:
            raise BadFrame(BAD_PAYLOAD, "text that is not UTF-8") from None
        self._opcode = self._came = self._size = 0
        self._deflated, self._decoder, self._fragments = False, None, bytearray()
        return found

    def _inflated(self, inflater: Inflater, payload: bytes, last: bool) -> bytes:
        try:
            made = inflater.inflate(payload, last, self._most - self._size)
        except ValueError as error:
            raise BadFrame(BAD_PAYLOAD, f"a message that is not compressed as it says: {error}") from None
        self._size += len(made)
        if self._size > self._most:
            raise self._too_big
        return made

    def _control(self, opcode: int, payload: bytes) -> Frame:
        if opcode != CLOSE:
            return Frame(opcode, payload)
        if not payload:
            return Frame(CLOSE, "", NO_CODE)
        code = int.from_bytes(payload[:2], "big")
        if len(payload) == 1 or not may_be_sent(code):
            raise BadFrame(PROTOCOL_ERROR, "a Close frame without a proper code")
        try:
            return Frame(CLOSE, payload[2:].decode(), code)
        except UnicodeDecodeError:
            raise BadFrame(BAD_PAYLOAD, "a reason that is not UTF-8") from None


def may_be_sent(code: int) -> bool:
    """Whether a Close frame may have that code (RFC 6455 7.4; those up to 1014 are registered)."""
    return (1000 <= code <= 1014 and code not in _NEVER_SENT) or 3000 <= code <= 4999


def frame(opcode: int, payload: bytes, compressed: bool = False) -> bytes:
    """A server's whole frame, which has no mask."""
    size, first = len(payload), _FIN | opcode | (_DEFLATED if compressed else 0)
    if size <= _MAX_CONTROL_BYTES:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def message_frame(opcode: int, payload: bytes, agreed: Agreed | None) -> bytes:
    """A whole message of a server's, compressed where that was agreed on and makes it shorter."""
    shorter = None if agreed is None else deflated(payload, agreed.our_bits)
    return frame(opcode, payload) if shorter is None else frame(opcode, shorter, True)


def close_frame(code: int, reason: str = "") -> bytes:
    """`code`: NO_CODE for none. A reason that is too long is cut between characters."""
    if code == NO_CODE:
        return frame(CLOSE, b"")
    text = reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore").encode()
    return frame(CLOSE, code.to_bytes(2, "big") + text)


def accept_of(key: bytes) -> bytes | None:
    """Sec-WebSocket-Accept for a client's key; None for one that is not 16 bytes in base64."""
    try:
        if _KEY.fullmatch(key) is None or len(base64.b64decode(key, validate=True)) != 16:
            return None
    except binascii.Error:
        return None
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())


def _unmask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    if not size:
        return b""
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")
