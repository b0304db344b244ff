"""The answer of an ASGI application: its messages, checked, as bytes for the connection.

Framing is session/framing.py's, as WSGI's. What a message may not say is an exception in the application.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from forkd.http.guard import Request
from forkd.http.response import bodiless, early_hints
from forkd.session.framing import Answer, Framing

_START, _BODY = "http.response.start", "http.response.body"
#: In scope["extensions"] of requests that may have it, too.
EARLY_HINT = "http.response.early_hint"
#: How the connection works is not the application's to say; what a proxy passes on is dropped.
_HOP_BY_HOP = frozenset((
    "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "trailers", "transfer-encoding", "upgrade",
))  # fmt: skip
_REASONS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class Response(Answer):
    NO_HEAD = "the application has sent no http.response.start"

    over = False  # the application has sent all of it
    hints = False  # it may send 103 before
    _declared: int | None = None  # its Content-Length
    _offered = 0  # bytes of body that it has sent
    _endable: str | None = None  # its media type, where forkd could end it as the application would

    def __init__(self, framing: Framing, request: Request) -> None:
        super().__init__(framing, request)

    def add(self, message: dict[str, Any]) -> bytes:
        """The bytes that a message adds. Raises what the application is to see, and is unchanged then."""
        kind = message["type"]
        if not self.code:
            if kind == EARLY_HINT and self.hints:
                return early_hints([("Link", exact(link).decode("latin-1")) for link in message["links"]])
            if kind != _START:
                raise RuntimeError(f"{_START} comes first, not {kind!r}")
            self._start(message["status"], message.get("headers", ()))
            return b""
        if kind != _BODY:
            raise RuntimeError(f"{_BODY} comes after {_START}, not {kind!r}")
        if self.over:
            raise RuntimeError(f"{kind} after the last one, whose more_body was false")
        data = exact(message.get("body", b""))
        return self._body(data, bool(message.get("more_body", False)))

    def _start(self, status: Any, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if not isinstance(status, int):
            raise TypeError(f"a status is an int, not {status!r}")
        fields = list(_fields(headers))
        self.choose(_REASONS.get(int(status)) or f"{int(status)} ", fields)
        first = {name.lower(): value for name, value in reversed(fields)}
        length = first.get("content-length")
        self._declared = None if length is None else int(length)
        kind = first.get("content-type", "").partition(";")[0].strip().lower()
        self._endable = kind if length is None and "content-encoding" not in first else None

    def _body(self, data: bytes, more: bool) -> bytes:
        offered = self._offered + len(data)
        if self._declared is not None and not bodiless(self.code, self._method):
            if offered > self._declared:
                raise RuntimeError(f"more bytes than its Content-Length, which is {self._declared}")
            if offered < self._declared and not more:
                raise RuntimeError(f"{offered} bytes, and its Content-Length is {self._declared}")
        if self.head_sent or more:
            out = self.piece(data, None)
            if not more:
                out += self.end()
        else:
            out = self.whole(data)
        self._offered, self.over = offered, not more
        return out

    @property
    def stream(self) -> str | None:
        """The media type of a stream that is under way, and that could be ended as if it were whole."""
        return self._endable if self.head_sent and not self.over else None

    @property
    def ends_by_close(self) -> bool:
        """Whether it has neither length nor chunks, so that a close is the end of all of it."""
        return not self._chunked and self._declared is None

    def cut(self) -> bytes:
        """End a stream where it stands, as if the application had."""
        self.over = self.close = True
        return self.end()


def _fields(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[str, str]]:
    for name, value in headers:
        label, text = exact(name).decode("latin-1"), exact(value).decode("latin-1")
        lower = label.lower()
        if lower == "connection":
            if "close" in (token.strip() for token in text.lower().split(",")):
                yield label, "close"
        elif lower not in _HOP_BY_HOP:
            yield label, text


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
