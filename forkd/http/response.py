"""Answers as bytes: the head an app asked for, chunks, and forkd's own small answers.

Called by the WSGI session in a child: `check_headers` when the app names its status and headers
(so that a bad one is the app's exception), `encode` when the first body bytes are there and the
framing is known. The admin endpoint in the master uses `head`. Nothing that an app passes can put
a CR, LF or NUL on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus

from forkd.system.originals import time

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
SERVER = b"Server: forkd\r\n"


class BadResponse(ValueError):
    """The app's status or headers cannot be sent; the text says which and why."""


class Head:
    """A checked status and headers, encoded but for what forkd adds.

    `close`: the app sent `Connection: close`. `length`: its Content-Length, which is not in
    `block`, because the session decides the framing. `dated`, `named`, `identified`: it set Date, Server,
    X-Request-ID.
    """

    __slots__ = ("block", "close", "code", "dated", "identified", "length", "named")

    def __init__(
        self,
        block: bytes,
        code: int,
        length: int | None = None,
        dated: bool = False,
        named: bool = False,
        identified: bool = False,
    ) -> None:
        self.block = block
        self.code = code
        self.length = length
        self.dated = dated
        self.named = named
        self.identified = identified
        self.close = False


_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_VALUE = re.compile("[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 5.5
_STATUS = re.compile("[2-9][0-9]{2} [\t\x20-\x7e\x80-\xff]*")  # 1xx is not an answer (RFC 9110 15.2)
_DIGITS = re.compile("[0-9]{1,19}")
_OWS = " \t"  # around a value it means nothing (RFC 9110 5.5); Django's cookies have it

# PEP 3333, "Other HTTP Features": an app must not say how the connection works.
_HOP_BY_HOP = frozenset(
    (
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    )
)
_PLAIN, _DATE, _SERVER, _REQUEST_ID, _LENGTH, _CONNECTION = range(6)
_KINDS = {
    "date": _DATE, "server": _SERVER, "x-request-id": _REQUEST_ID, "content-length": _LENGTH,
    "connection": _CONNECTION,
}  # fmt: skip


class _Names(dict[str, tuple[str, int]]):
    """Header name -> ("Name: ", kind): a memo of the check, bounded since apps make up names."""

    MAX_NAMES = 512

    def __missing__(self, name: str) -> tuple[str, int]:
        if _TOKEN.fullmatch(name) is None:
            raise BadResponse(f"bad header name {name!r}")
        lower = name.lower()
        if lower in _HOP_BY_HOP:
            raise BadResponse(f"hop-by-hop header {name!r} is not the app's to set (PEP 3333)")
        entry = name + ": ", _KINDS.get(lower, _PLAIN)
        if len(self) < self.MAX_NAMES:
            self[name] = entry
        return entry


_NAMES = _Names()


@lru_cache(maxsize=128)
def _status_line(status: str) -> tuple[int, str]:
    if _STATUS.fullmatch(status) is None:
        raise BadResponse(f"bad status {status!r}: wants three digits, from 200, and a reason")
    return int(status[:3]), f"HTTP/1.1 {status}\r\n"


def check_headers(status: str, headers: Iterable[tuple[str, str]]) -> Head:
    """Check what the app passed to start_response and encode it. Raises BadResponse.

    An instance of a subclass of str (StrEnum) is its content, whatever its methods say: `str.__str__`
    returns that, and raises TypeError for anything else. So no memo here is asked for, or keeps, one.
    """
    try:
        code, line = _status_line(status if type(status) is str else str.__str__(status))
    except TypeError:
        raise BadResponse(f"bad status {status!r}: wants a str") from None
    head = Head(b"", code)
    lines = [line]
    try:
        for name, value in headers:
            if type(name) is not str:
                name = str.__str__(name)
            label, kind = _NAMES[name]
            if type(value) is not str:
                value = str.__str__(value)
            # isprintable is a fast loop in C and right but for tabs and some of Latin-1.
            if not value.isprintable() and _VALUE.fullmatch(value) is None:
                raise BadResponse(f"bad value of header {name!r}: {value!r}")
            if kind > _REQUEST_ID:
                if kind == _LENGTH:
                    _length(head, value)
                else:
                    _connection(head, value)
                continue
            if kind == _DATE:
                head.dated = True
            elif kind == _SERVER:
                head.named = True
            elif kind == _REQUEST_ID:
                head.identified = True
            lines.append(f"{label}{value.strip(_OWS)}\r\n")
        head.block = "".join(lines).encode("latin-1")
    except BadResponse:
        raise
    except UnicodeEncodeError as error:
        what = error.object[error.start : error.end]
        raise BadResponse(f"header not in Latin-1: {what!r}") from None
    except (AttributeError, TypeError, ValueError):
        raise BadResponse("headers must be (name, value) pairs of str") from None
    return head


def early_hints(headers: Iterable[tuple[str, str]]) -> bytes:
    """An interim answer with these headers (RFC 8297), checked like those of an answer; nothing, if there are
    none. Raises BadResponse."""
    head = check_headers("200 OK", headers)
    if head.length is not None or head.close:
        raise BadResponse("an early hint has neither Content-Length nor Connection: it is no answer")
    fields = head.block.partition(b"\r\n")[2]
    return b"HTTP/1.1 103 Early Hints\r\n" + fields + b"\r\n" if fields else b""


#: What a recipient has to have before the body, to read or to keep the answer (RFC 9110, 6.5.1).
_NO_TRAILERS = frozenset((
    "age", "authorization", "cache-control", "content-encoding", "content-length", "content-range",
    "content-type", "date", "expires", "host", "location", "pragma", "retry-after", "set-cookie", "vary",
    "www-authenticate",
))  # fmt: skip


def trailer_section(fields: Iterable[tuple[str, str]]) -> bytes:
    """What follows the last chunk's size: these fields, checked like those of a head, and the end. Raises
    BadResponse."""
    fields = list(fields)
    head = check_headers("200 OK", fields)
    if head.close or any(name.lower() in _NO_TRAILERS for name, _ in fields):
        raise BadResponse("a field that is of no use, or does harm, behind the body (RFC 9110, 6.5.1)")
    return head.block.partition(b"\r\n")[2] + b"\r\n"


def _length(head: Head, value: str) -> None:
    if head.length is not None:
        raise BadResponse("two Content-Length headers")
    if _DIGITS.fullmatch(value) is None:
        raise BadResponse(f"bad Content-Length {value!r}")
    head.length = int(value)


def _connection(head: Head, value: str) -> None:
    """`close` is a wish that the session grants; `keep-alive`, which many say, changes nothing."""
    for token in value.lower().split(","):
        token = token.strip(" \t")
        if token == "close":
            head.close = True
        elif token != "keep-alive":
            raise BadResponse(f"hop-by-hop header 'Connection: {value}' (PEP 3333)")


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    t = time.gmtime(second)  # not strftime: its names follow the locale
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year}"
        f" {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT"
    ).encode()


def date(now: float) -> bytes:
    """`now` (seconds since the epoch) as IMF-fixdate (RFC 9110 5.6.7), cached for its second."""
    return _date(int(now))


def server_line(name: str | None) -> bytes:
    """The field Server of that name; None: there is none."""
    return b"" if name is None else f"Server: {name}\r\n".encode("ascii")


def encode(
    head: Head,
    now: float,
    *,
    length: int | None = None,
    chunked: bool = False,
    keep_alive: bool | None = None,
    server: bytes = SERVER,
    request_id: str = "",
    more: bytes = b"",
) -> bytes:
    """The head for the wire: the app's lines, Date, `server` and `request_id` unless it set them, `more`,
    framing, end.

    `length` gives Content-Length, `chunked` gives Transfer-Encoding, neither gives no framing (the
    answer ends with the connection, or has no body). `keep_alive` True or False names it in
    Connection; None is silent, which means keep-alive in HTTP/1.1 only.
    """
    parts = [head.block]
    if not head.dated:
        parts += b"Date: ", _date(int(now)), b"\r\n"
    if not head.named:
        parts.append(server)
    if request_id and not head.identified:
        parts.append(f"X-Request-ID: {request_id}\r\n".encode())
    parts.append(more)
    # RFC 9110 8.6, 9112 6.1: 204 has neither, whatever the app said.
    if head.code != 204:
        if chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        elif length is not None:
            parts.append(b"Content-Length: %d\r\n" % length)
    if keep_alive is None:
        parts.append(b"\r\n")
    elif keep_alive:
        parts.append(b"Connection: keep-alive\r\n\r\n")
    else:
        parts.append(b"Connection: close\r\n\r\n")
    return b"".join(parts)


def head(
    status: str,
    headers: Iterable[tuple[str, str]],
    now: float,
    *,
    length: int | None = None,
    chunked: bool = False,
    keep_alive: bool | None = None,
    server: bytes = SERVER,
) -> bytes:
    """`check_headers` and `encode` in one, for answers of forkd's own."""
    checked = check_headers(status, headers)
    if checked.close:
        keep_alive = False
    return encode(checked, now, length=length, chunked=chunked, keep_alive=keep_alive, server=server)


def error(
    status: int,
    reason: str,
    keep_alive: bool = False,
    *,
    method: str = "GET",
    now: float | None = None,
    fields: Iterable[tuple[str, str]] = (),
    server: bytes = SERVER,
) -> bytes:
    """A whole small answer in text/plain: `reason` is its body (none for HEAD)."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    body = f"{status} {phrase}\n{reason}\n".encode()
    lines = head(
        f"{status} {phrase}",
        [("Content-Type", "text/plain; charset=utf-8"), *fields],
        time.time() if now is None else now,
        length=len(body),
        keep_alive=keep_alive,
        server=server,
    )
    return lines if bodiless(status, method) else lines + body


def body_size(answer: bytes) -> int:
    """Bytes of body in a whole answer, as access logs have it."""
    return len(answer.partition(b"\r\n\r\n")[2])


def chunk(data: bytes) -> bytes:
    """`data` as one chunk; nothing for no data, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def bodiless(status: int, method: str) -> bool:
    """Whether the answer has no body, whatever its headers say (RFC 9112 6.3, rule 1)."""
    return method == "HEAD" or status in (204, 304) or 100 <= status < 200
