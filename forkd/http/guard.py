"""What llhttp lets through and forkd does not: pure checks of a request line and its fields.

Called by `request.RequestParser` once a request line, and once a head, is complete. Each check
raises `Refused`; a head that passes is unambiguous about its target and about where the message ends.
"""

from __future__ import annotations

from typing import NamedTuple

from .grammar import (
    ABSOLUTE,
    AUTHORITY,
    CODINGS,
    FIELD,
    FORWARDED_NAMES,
    HOST,
    LENGTH,
    LINE,
    METHODS,
    X_FORWARDED,
)
from .hops import Origin
from .limits import Limits, Refused

Fields = list[tuple[bytes, bytes]]


class Request:
    """One request head. `headers` are as received, in order, values without outer whitespace.

    `target` is raw; `path` and `query` are its parts, still percent-encoded, without a fragment (`path` is
    empty for CONNECT and for `*`). `authority` is the host that the client asked, from an absolute-form
    target if there is one, else from Host; empty if an HTTP/1.0 client did not say. The body: `chunked`, or
    `length` bytes, or none (`length` None). `line` is the request line for logs.

    `id`: its name, for logs; empty where requests have none.

    `forwarded`: it has fields of proxies that were not judged yet. `origin`: what they say. `client`: the
    address that they name; None where they name none, and it is the peer's.
    """

    __slots__ = (
        "authority",
        "chunked",
        "client",
        "expect_continue",
        "forwarded",
        "headers",
        "id",
        "keep_alive",
        "length",
        "line",
        "method",
        "origin",
        "path",
        "query",
        "target",
        "version",
    )

    ticket = 0  # as Call in session/http1.py has it: native code has not begun it
    variables: dict[str, str] | None = None  # of CGI, which a front has set besides

    def __init__(
        self,
        method: str,
        target: bytes,
        path: bytes,
        query: bytes,
        version: str,
        headers: Fields,
        authority: bytes,
        length: int | None,
        chunked: bool,
        keep_alive: bool,
        expect_continue: bool,
        line: bytes,
        forwarded: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.path = path
        self.query = query
        self.version = version
        self.headers = headers
        self.authority = authority
        self.length = length
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.expect_continue = expect_continue
        self.line = line
        self.forwarded = forwarded
        self.id = ""
        self.origin: Origin | None = None
        self.client: str | None = None

    def __repr__(self) -> str:
        return f"<Request {self.line!r}>"

    @property
    def referer(self) -> str | None:
        """As received, for the access log; None where there is no such field."""
        return self._text(b"referer")

    @property
    def agent(self) -> str | None:
        """User-Agent, likewise."""
        return self._text(b"user-agent")

    def _text(self, name: bytes) -> str | None:
        values = [value for found, value in self.headers if found.lower() == name]
        return b",".join(values).decode("latin-1") if values else None


class Line(NamedTuple):
    """A request line, taken apart. `authority` is None in origin-form and asterisk-form."""

    line: bytes
    method: bytes
    target: bytes
    path: bytes
    query: bytes
    version: str
    authority: bytes | None


def read_line(line: bytes) -> Line:
    """Take `line` (without CRLF) apart; refuses a version or a form of target not served."""
    match = LINE.fullmatch(line)
    if match is None:
        raise Refused(400, "malformed request line")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise Refused(505, "HTTP version not served")
    version = "1.1" if minor == b"1" else "1.0"
    authority: bytes | None = None
    if method == b"CONNECT":
        if AUTHORITY.fullmatch(target) is None:
            raise Refused(400, "CONNECT wants host:port")
        path, query, authority = b"", b"", target
    elif target[0] == 0x2F:  # "/"
        # A fragment is the client's own business (RFC 9110 7.1) and some send it: it is cut off.
        path, _, query = target.partition(b"#")[0].partition(b"?")
    elif target == b"*":
        if method != b"OPTIONS":
            raise Refused(400, "target * is for OPTIONS")
        path, query = b"", b""  # the server as a whole: its target URI has no path (RFC 9112 3.3)
    else:
        absolute = ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refused(400, "malformed request target")
        authority = absolute[1]
        path, query = absolute[2] or b"/", absolute[3] or b""
    return Line(line, method, target, path, query, version, authority)


def read_fields(head: bytes, start: int) -> Fields:
    """The fields of a complete head whose first field line begins at `start`."""
    fields: Fields = FIELD.findall(head, start)
    # The belt to llhttp's braces: as many fields as lines, or a line was something else.
    if len(fields) != head.count(b"\n", start) - 1:
        raise Refused(400, "malformed header")
    return [(name, value.rstrip()) for name, value in fields]


_DECIDING = frozenset(
    b"host content-length transfer-encoding connection expect content-type"
    b" content_length transfer_encoding".split()
)
# Not lists, so two of them are two messages in one (RFC 9110 5.3, 7.2, 8.6); two types of content
# are how a filter and the app are made to read a body differently.
_SINGLE = frozenset((b"host", b"content-length", b"content-type"))
_FORWARDED = b"forwarded"


class _Roles(dict[bytes, bytes | None]):
    """Name of a field -> its lower case, if it decides something here; _FORWARDED for one of proxies; else
    None. A memo, bounded since clients make up names."""

    MAX_NAMES = 1024

    def __missing__(self, name: bytes) -> bytes | None:
        lower = name.lower()
        role = lower if lower in _DECIDING else None
        if lower in FORWARDED_NAMES or lower.startswith(X_FORWARDED):
            role = _FORWARDED
        if len(self) < self.MAX_NAMES:
            self[name] = role
        return role


_ROLES = _Roles()


def read_head(
    line: bytes,
    method: bytes,
    target: bytes,
    path: bytes,
    query: bytes,
    version: str,
    authority: bytes | None,
    fields: Fields,
    limits: Limits,
) -> Request:
    """Judge the fields of a complete head; the arguments before `fields` are those of a `Line`."""
    seen: dict[bytes, bytes] = {}
    forwarded = False
    for name, value in fields:
        role = _ROLES[name]
        if role is None:
            continue
        if role is _FORWARDED:
            forwarded = True
            continue
        if role in seen:
            if role in _SINGLE:
                raise Refused(400, f"repeated {role.decode().title()}")
            value = seen[role] + b"," + value  # a list over several lines (RFC 9110 5.3)
        seen[role] = value

    # RFC 9112 3.2: a missing, repeated or malformed Host is 400, whatever else is wrong.
    host = seen.pop(b"host", None)
    if host is None:
        if version == "1.1":
            raise Refused(400, "no Host")
        host = b""
    elif HOST.fullmatch(host) is None:
        raise Refused(400, "malformed Host")
    if authority is not None:
        # RFC 9112 3.2.2: the target's authority wins, and the application must not see the other.
        fields = [field for field in fields if field[0].lower() != b"host"]
        fields.insert(0, (b"Host", authority))
        host = authority

    known = METHODS.get(method)
    if not seen and known is not None:
        keep = version == "1.1" and known != "CONNECT"
        return Request(
            known, target, path, query, version, fields, host, None, False, keep, False, line, forwarded
        )

    length: int | None = None
    coding = seen.get(b"transfer-encoding")
    if coding is not None:
        _chunked(coding, version, b"content-length" in seen)
    elif b"content-length" in seen:
        digits = seen[b"content-length"]
        if LENGTH.fullmatch(digits) is None:
            raise Refused(400, "malformed Content-Length")
        length = int(digits)
    if known is None:
        raise Refused(501, "method not implemented")
    body = bool(length) or coding is not None
    expect = seen.get(b"expect")
    keep = _persistent(version, seen.get(b"connection", b""))
    # Served, and then closed, so that nothing can hide behind it: a body where a careless gateway
    # expects none (RFC 9110 9.3.1, 9.3.2), a tunnel that is none, and fields that a gateway which
    # maps "-" to "_" for CGI cannot tell from those that frame a message.
    if (
        (body and known in ("GET", "HEAD"))
        or known == "CONNECT"
        or b"content_length" in seen
        or b"transfer_encoding" in seen
    ):
        keep = False
    request = Request(
        known,
        target,
        path,
        query,
        version,
        fields,
        host,
        length,
        coding is not None,
        keep,
        # RFC 9110 10.1.1: an HTTP/1.0 client cannot wait for 100, nor can one that sends no body.
        expect is not None and body and version == "1.1",
        line,
        forwarded,
    )
    if expect is not None and expect.lower() != b"100-continue":
        raise Refused(417, "expectation not met", request=request)
    if length is not None and length > limits.body:
        raise Refused(413, "body too large", request=request)
    return request


def transfer_codings(value: bytes) -> list[bytes]:
    """The codings that a Transfer-Encoding lists, in lower case: their names have none (RFC 9112 7)."""
    return [coding.strip(b" \t") for coding in value.lower().split(b",")]


def _chunked(value: bytes, version: str, length: bool) -> None:
    """Refuse all Transfer-Encodings but one that ends in its only "chunked" (RFC 9112 6.1, 6.3)."""
    if version == "1.0":
        raise Refused(400, "Transfer-Encoding in HTTP/1.0")
    if length:
        raise Refused(400, "Transfer-Encoding with Content-Length")
    codings = transfer_codings(value)
    if b"" in codings:
        raise Refused(400, "malformed Transfer-Encoding")
    if not CODINGS.issuperset(codings):
        raise Refused(501, "transfer coding not implemented")
    if codings.index(b"chunked") != len(codings) - 1 if b"chunked" in codings else True:
        raise Refused(400, "chunked is not the final transfer coding, once")


def _persistent(version: str, connection: bytes) -> bool:
    """RFC 9112 9.3: close wins, HTTP/1.1 stays, HTTP/1.0 stays when it asks to."""
    if not connection:
        return version == "1.1"
    tokens = [token.strip(b" \t") for token in connection.lower().split(b",")]
    if b"close" in tokens:
        return False
    return version == "1.1" or b"keep-alive" in tokens
