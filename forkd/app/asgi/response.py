"""The answer of an ASGI application: its messages, checked, as bytes for the connection.

Framing is session/framing.py's, as WSGI's. What a message may not say is an exception in the application, and
so is one of an extension that its request was not offered.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from http import HTTPStatus
from typing import Any

from forkd.app.asgi.extensions import EARLY_HINT, PATHSEND, TRAILERS, ZEROCOPYSEND
from forkd.app.asgi.sendfile import File, by_descriptor, by_path
from forkd.app.asgi.shortcut import NativeCycle
from forkd.http.guard import Request
from forkd.http.response import bodiless, check_headers, early_hints, trailer_section
from forkd.session.framing import Answer, Framing

_START, _BODY = "http.response.start", "http.response.body"
#: How the connection works is not the application's to say; what a proxy passes on is dropped.
_HOP_BY_HOP = frozenset((
    "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "trailers", "transfer-encoding", "upgrade",
))  # fmt: skip
REASONS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class Response(Answer):
    NO_HEAD = "the application has sent no http.response.start"

    over = False  # the application has sent all of it
    extensions: Container[str] = ()  # that the request was offered
    file: File | None = None  # a message has given it, to be sent behind the bytes that it adds
    _declared: int | None = None  # its Content-Length
    _offered = 0  # bytes of body that it has sent
    _endable: str | None = None  # its media type, where forkd could end it as the application would
    _trailers: list[tuple[str, str]] | None = None  # that follow the body, where it has said that some do
    _trailing = False  # the body is over, and they are not

    def __init__(self, framing: Framing, request: Request) -> None:
        super().__init__(framing, request)

    def adopt(self, call: NativeCycle) -> None:
        """Go on with an answer that native code has begun."""
        block = call.block
        if block is None:
            return
        self._block, self.code, self._declared = block, block.code, block.length
        self.sent = self._offered = call.sent
        self.over, self.head_sent = call.over, call.head_sent
        if call.media is not None:
            self._endable = _kind(call.media.decode("latin-1"))
        if call.head_sent:
            self.close, self._chunked = call.close, block.length is None
            self.left = None if block.length is None else block.length - call.sent

    def add(self, message: dict[str, Any]) -> bytes:
        """The bytes that a message adds. Raises what the application is to see, and is unchanged then."""
        kind = message["type"]
        if not self.code:
            if kind == _START:
                trailers = bool(message.get("trailers")) and TRAILERS in self.extensions
                self._start(message["status"], message.get("headers", ()), trailers)
                return b""
            if kind != EARLY_HINT or kind not in self.extensions:
                raise RuntimeError(f"{_START} comes first, not {kind!r}")
        elif self.over:
            raise RuntimeError(f"{kind} after the last one, whose more_body was false")
        elif kind == _BODY and not self._trailing:
            data = exact(message.get("body", b""))
            return self._body(data, bool(message.get("more_body", False)))
        return self._extended(kind, message)

    def _start(self, status: Any, headers: Iterable[tuple[bytes, bytes]], trailers: bool) -> None:
        if not isinstance(status, int):
            raise TypeError(f"a status is an int, not {status!r}")
        fields = list(_fields(headers))
        chosen, announced = fields, b""
        if trailers:
            # Only chunks have any (RFC 9112, 7.1.2).
            chosen = [(name, value) for name, value in fields if name.lower() != "content-length"]
            announced = _announced(headers)
        self.choose(REASONS.get(int(status)) or f"{int(status)} ", chosen)
        if trailers:
            self._trailers = []
            self.more += announced
        first = {name.lower(): value for name, value in reversed(fields)}
        length = first.get("content-length")
        self._declared = None if length is None else int(length)
        kind = _kind(first.get("content-type", ""))
        self._endable = kind if length is None and "content-encoding" not in first else None

    def _measure(self, offered: int, more: bool) -> None:
        """Raises RuntimeError where so many bytes are no body, or no beginning of one."""
        if self._declared is not None and offered > self._declared:
            raise RuntimeError(f"more bytes than its Content-Length, which is {self._declared}")
        if self._declared is not None and offered < self._declared and not more:
            raise RuntimeError(f"{offered} bytes, and its Content-Length is {self._declared}")

    def _body(self, data: bytes, more: bool) -> bytes:
        offered = self._offered + len(data)
        if self._declared is not None and not bodiless(self.code, self._method):
            self._measure(offered, more)
        if self.head_sent or more or self._trailers is not None:
            out = self.piece(data, None)
            if not more:
                out += self._last()
        else:
            out = self.whole(data)
            self.over = True
        self._offered = offered
        return out

    def _last(self) -> bytes:
        """What ends the body; where trailers follow, they do."""
        if self._trailers is not None and not self._trailing:
            self._trailing = True
            return b""
        self.over = True
        if self._trailers and self._chunked and not self._bodiless:
            return b"0\r\n" + trailer_section(self._trailers)
        return self.end()

    # ---- extensions -----------------------------------------------------------------------

    def _extended(self, kind: str, message: dict[str, Any]) -> bytes:
        """A message that is neither a start nor a piece of body."""
        if kind in self.extensions:
            if kind == TRAILERS and self._trailing:
                return self._trail(message)
            if kind == EARLY_HINT:
                hints = [("Link", exact(link).decode("latin-1")) for link in message["links"]]
                return b"" if self.head_sent else early_hints(hints)
            if kind == ZEROCOPYSEND and not self._trailing:
                return self._send(by_descriptor(message), bool(message.get("more_body", False)))
            if kind == PATHSEND and not self.head_sent:
                return self._send(by_path(message), False)
        raise RuntimeError(f"{self.missing} comes now, not {kind!r}")

    def _trail(self, message: dict[str, Any]) -> bytes:
        assert self._trailers is not None
        fields = [(exact(n).decode("latin-1"), exact(v).decode("latin-1")) for n, v in message["headers"]]
        trailer_section(fields)
        self._trailers += fields
        return b"" if message.get("more_trailers", False) else self._last()

    def _send(self, file: File, more: bool) -> bytes:
        """The head, where it was not sent, and what frames a piece of body that is a file."""
        try:
            return self._framed(file, more)
        finally:
            if self.file is None:
                file.close()

    def _framed(self, file: File, more: bool) -> bytes:
        count, declared = file.count, self._declared
        if declared is not None and not bodiless(self.code, self._method):
            if file.clipped:
                count = min(count, declared - self._offered)
            self._measure(self._offered + count, more)
        if not count:
            return self._body(b"", more)
        out = b""
        if not self.head_sent:
            length = None if more or self._trailers is not None else count
            out, self._declared = self.head(length), length if declared is None else declared
        self._offered += count
        taken = self.take(count)
        file.take(count)
        if taken:
            self.file = file
            if self._chunked:
                out += b"%x\r\n" % taken
                file.behind = b"\r\n"
        if not more:
            last = self._last()
            if taken:
                file.behind += last
            else:
                out += last
        return out

    # ---- what forkd does with it ----------------------------------------------------------

    @property
    def missing(self) -> str:
        """The message that is to come; where it is not `over`."""
        if not self.code:
            return _START
        return f"the last {TRAILERS if self._trailing else _BODY}"

    @property
    def stream(self) -> str | None:
        """The media type of a stream that is under way, and that could be ended as if it were whole. It may
        have had no event so far, and so no head."""
        return self._endable if self.code and not self.over else None

    def cut(self) -> bytes:
        """End a stream where it stands, as if the application had."""
        self.over = self.close = True
        return (b"" if self.head_sent else self.head(None)) + self.end()


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[str, str]]:
    for name, value in headers:
        label, text = exact(name).decode("latin-1"), exact(value).decode("latin-1")
        lower = label.lower()
        if lower == "connection":
            if "close" in (token.strip() for token in text.lower().split(",")):
                yield label, "close"
        elif lower not in _HOP_BY_HOP:
            yield label, text


def _announced(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The field Trailer, by which an answer says which ones follow its body."""
    values = [exact(value).decode("latin-1") for name, value in headers if name.lower() == b"trailer"]
    names = [each.strip() for each in ",".join(values).split(",") if each.strip()]
    check_headers("200 OK", [(name, "") for name in names])
    return f"Trailer: {', '.join(names)}\r\n".encode("latin-1") if names else b""


def _kind(media: str) -> str:
    return media.partition(";")[0].strip().lower()


def exact(data: object) -> bytes:
    """The bytes of what an application has given. Of a subclass of bytes, its content is taken: it may say
    anything of its own length."""
    if type(data) is bytes:
        return data
    if isinstance(data, bytes):
        return bytes.__getitem__(data, slice(None))
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"the application gave {type(data).__name__}, not bytes (ASGI)")
