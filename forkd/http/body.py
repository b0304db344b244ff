"""Payload from a stream of bytes: a body of known length, and a chunked one.

Called by the session that reads `wsgi.input`, in a child. Both classes have one interface:
`feed(data)` gives the payload in `data` (it may be empty), `done` says that the message is over,
and `leftover` is what came after it: the beginning of the next request.
"""

from __future__ import annotations

from .grammar import CHUNK, CHUNK_SO_FAR, FIELD, TRAILER_SO_FAR
from .limits import Refused

# Bounds for what is read and thrown away.
_MAX_CHUNK_LINE_BYTES = 1024  # of size and extensions
_MAX_EXTENSION_BYTES = 16384  # of extensions that a body may have beyond the bytes of its payload
_MAX_TRAILER_BYTES = 4096
_MAX_TRAILER_FIELDS = 32

# Fields that decide framing, routing or the connection are worthless in a trailer, and dangerous
# where a recipient merges it into the head (RFC 9110 6.5.1): refused rather than dropped.
_NOT_IN_TRAILER = frozenset(
    b"content-length transfer-encoding host connection te trailer upgrade expect".split()
)


class LengthBody:
    """Exactly `length` bytes."""

    __slots__ = ("done", "left", "leftover")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0
        self.leftover = b""

    def feed(self, data: bytes) -> bytes:
        """The part of `data` that belongs to the body."""
        left = self.left
        if len(data) <= left:
            self.left = left - len(data)
            self.done = not self.left
            return data
        self.left = 0
        self.done = True
        self.leftover += data[left:]
        return data[:left]


class ChunkedBody:
    """A chunked body of at most `limit` bytes of payload (RFC 9112 7.1); trailers are dropped."""

    __slots__ = (
        "_fields",
        "_held",
        "_left",
        "_limit",
        "_spent",
        "_state",
        "_taken",
        "done",
        "leftover",
    )

    def __init__(self, limit: int) -> None:
        self.done = False
        self.leftover = b""
        self._limit = limit
        self._state = _SIZE
        self._left = 0  # bytes of this chunk still to come; in the trailer: bytes it may still have
        self._held = b""  # a line, or the CRLF after a chunk, that is not all here
        self._taken = 0  # payload announced so far
        self._spent = 0  # extension bytes so far
        self._fields = 0  # trailer fields so far

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. Raises Refused: 400 for bad syntax, 413 beyond the limit."""
        if self._state == _DATA and len(data) < self._left:  # the inside of a large chunk
            self._left -= len(data)
            return data
        if self._held:
            data = self._held + data
            self._held = b""
        parts: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            if self._state == _DATA:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._state = _CRLF
                continue
            step = self._STEPS[self._state](self, data, at)
            if step < 0:
                self._held = data[at:]
                break
            at = step
        if self.done:
            self.leftover += data[at:]
        return b"".join(parts)

    # Each step reads one element of the grammar at data[at:] and gives the position after it, or
    # -1 when it is not all here. What is here of it must be sound so far: a client that sends
    # nonsense is refused now and not when its deadline passes.

    def _size(self, data: bytes, at: int) -> int:
        match = CHUNK.match(data, at)
        if match is None:
            if len(data) - at <= _MAX_CHUNK_LINE_BYTES + 1 and CHUNK_SO_FAR.fullmatch(data, at):
                return -1
            raise Refused(400, "malformed chunk size")
        if match.end() - at > _MAX_CHUNK_LINE_BYTES + 2:
            raise Refused(400, "malformed chunk size")
        size = int(match[1], 16)
        if not size:
            self._state = _TRAILERS
            self._left = _MAX_TRAILER_BYTES
            return match.end()
        # One-byte chunks with long extensions make much work of little payload (CVE-2023-39326).
        self._spent += len(match[2])
        if self._spent > _MAX_EXTENSION_BYTES + self._taken:
            raise Refused(400, "too many chunk extensions")
        self._taken += size
        if self._taken > self._limit:
            raise Refused(413, "body too large")
        self._state = _DATA
        self._left = size
        return match.end()

    def _crlf(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self._state = _SIZE
            return at + 2
        if data[at:] == b"\r":
            return -1
        raise Refused(400, "chunk longer than its size")

    def _trailer(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at, at + self._left) + 1
        if not end:
            if TRAILER_SO_FAR.fullmatch(data, at, at + self._left) is None:
                raise Refused(400, "malformed trailer")
            if len(data) - at >= self._left:
                raise Refused(400, "trailers too large")
            return -1
        if end - at == 2 and data[at] == 13:
            self.done = True
            return end
        # FIELD looks back for the end of the line before; in a line of its own that is not here.
        match = FIELD.fullmatch(b"\n" + data[at:end], 1)
        if match is None or match[1].lower() in _NOT_IN_TRAILER:
            raise Refused(400, "malformed trailer")
        self._fields += 1
        if self._fields > _MAX_TRAILER_FIELDS:
            raise Refused(400, "trailers too large")
        self._left -= end - at
        return end

    _STEPS = (_size, _crlf, _trailer)


_SIZE, _CRLF, _TRAILERS, _DATA = range(4)
