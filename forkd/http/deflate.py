"""WebSocket's permessage-deflate (RFC 7692): what is agreed on in the handshake, and the payload of a message
compressed and decompressed.

Sans-I/O; used by app/asgi/handshake.py and websocket.py, and by http/frames.py. A compressor or decompressor
lives for one message, since one that waits for the next holds 40 KB: a message of the server's refers to none
before it, and of those of the client's that may, the last 4 KiB are kept, as the next one's dictionary.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

_NAME = b"permessage-deflate"
_OURS_AFRESH, _THEIRS_AFRESH = b"server_no_context_takeover", b"client_no_context_takeover"
_OUR_BITS, _THEIR_BITS = b"server_max_window_bits", b"client_max_window_bits"
_BITS = re.compile(rb'("?)([89]|1[0-5])\1')
_MAX_BITS, _CHOSEN_BITS, _MIN_BITS = 15, 12, 9  # zlib compresses with 9 bits and more
_MEMORY_LEVEL = 5
#: Shorter messages hardly become shorter.
_MIN_COMPRESSED_BYTES = 64
#: Ends what a sync flush has made, and is not sent (RFC 7692 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
#: What may follow a final block, with the tail.
_MAX_UNUSED_BYTES = len(b"\x00" + _TAIL)


class Agreed(NamedTuple):
    our_bits: int  # log2 of the window of the server's messages
    their_bits: int
    keeps: bool  # the client's messages may refer to those before
    response: bytes  # the value of Sec-WebSocket-Extensions


def agree(offers: bytes) -> Agreed | None:
    """`offers`: the value of Sec-WebSocket-Extensions. The first one that can be met counts."""
    for offer in offers.split(b","):
        name, *parameters = (part.strip() for part in offer.split(b";"))
        if name == _NAME and (agreed := _agreed(parameters)) is not None:
            return agreed
    return None


def _agreed(parameters: list[bytes]) -> Agreed | None:
    """None: the offer has what is not known, or cannot be met (RFC 7692 7.1)."""
    offered: dict[bytes, int] = {}
    for parameter in parameters:
        name, valued, value = parameter.partition(b"=")
        bits = _BITS.fullmatch(value)
        match name:
            case b"server_no_context_takeover" | b"client_no_context_takeover":
                proper = not valued
            case b"server_max_window_bits":
                proper = bits is not None
            case b"client_max_window_bits":
                proper = bits is not None or not valued
            case _:
                proper = False
        if not proper or name in offered:
            return None
        offered[name] = int(bits[2]) if bits else _MAX_BITS
    ours, theirs = min(offered.get(_OUR_BITS, _CHOSEN_BITS), _CHOSEN_BITS), _MAX_BITS
    if ours < _MIN_BITS:
        return None
    response = [_NAME, _OURS_AFRESH]
    if _OUR_BITS in offered:
        response.append(b"%s=%d" % (_OUR_BITS, ours))
    if _THEIR_BITS in offered:
        theirs = min(offered[_THEIR_BITS], _CHOSEN_BITS)
        response.append(b"%s=%d" % (_THEIR_BITS, theirs))
    keeps = _THEIR_BITS in offered and _THEIRS_AFRESH not in offered
    if not keeps:
        response.append(_THEIRS_AFRESH)
    return Agreed(ours, theirs, keeps, b"; ".join(response))


def deflated(payload: bytes, bits: int) -> bytes | None:
    """A message compressed, with a window of 2**bits bytes; None: that makes it no shorter."""
    if len(payload) < _MIN_COMPRESSED_BYTES:
        return None
    stream = zlib.compressobj(wbits=-bits, memLevel=_MEMORY_LEVEL)
    made = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
    return made[: -len(_TAIL)] if len(made) - len(_TAIL) < len(payload) else None


class Inflater:
    """Decompresses the messages of one client."""

    __slots__ = ("_agreed", "_history", "_stream")

    def __init__(self, agreed: Agreed) -> None:
        self._agreed = agreed
        self._history = b""  # the end of what was inflated, as far as the client may refer to it
        self._stream: zlib._Decompress | None = None  # of the message whose fragments come

    def inflate(self, data: bytes, last: bool, most: int) -> bytes:
        """What the next fragment of a message adds to it: at most `most` bytes and one more, which says that
        it goes on. Raises ValueError for what is no such data; then no more may come."""
        stream = self._stream
        if stream is None:
            bits = max(self._agreed.their_bits, _MIN_BITS)
            self._stream = stream = zlib.decompressobj(-bits, self._history)
        try:
            made = stream.decompress(data + _TAIL if last else data, most + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        if len(stream.unused_data) > _MAX_UNUSED_BYTES:
            raise ValueError("data behind the final block")
        if self._agreed.keeps:
            window = 1 << self._agreed.their_bits
            self._history = made[-window:] if len(made) >= window else (self._history + made)[-window:]
        if last:
            self._stream = None
        return made
