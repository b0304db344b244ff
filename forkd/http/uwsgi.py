"""Requests in the uwsgi protocol, as nginx's uwsgi_pass sends them: a block of CGI's variables, and the body.

A packet begins with modifier1 (a byte), the size of the block (two, little-endian) and modifier2. In the
block each name and each value has its size in front. There is one request per connection. Who its client is
the variables say, and no field of proxies. Pure. Called by session/uwsgi.py in a child.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .forwarded import scheme_of
from .grammar import FORWARDED_NAMES, HOST, LENGTH, METHODS, TEXT, TOKEN, X_FORWARDED
from .guard import Fields, Request
from .hops import MAX_PORT, Hop, Origin, Trusted, hop_of
from .limits import Limits, Refused

HEADER_BYTES = 4
#: Values of modifier1: a request for WSGI; the same, and PATH_INFO begins with SCRIPT_NAME, which is cut off.
_WSGI, _CUT_PATH = 0, 30

_NAME = re.compile(TOKEN)
_VALUE = re.compile(TEXT)
#: What the access log and the scoreboard have as the request line.
_LINE = re.compile(rb"[\x20-\x7e\x80-\xff]*+")
_PORT = re.compile(rb"[0-9]{1,5}+")

_HTTP = b"HTTP_"
#: What nginx passes on of the client's fields, though the block has it by another name, or has undone it.
#: And HTTP_PROXY, which is CGI's name for the proxy of an HTTP client: a request must not set it (httpoxy).
_DROPPED = frozenset((b"content-length", b"content-type", b"transfer-encoding", b"proxy"))
#: Variables that are read here; the others, and those of the scheme, go to the application as they are.
_READ = frozenset(
    b"REQUEST_METHOD REQUEST_URI PATH_INFO QUERY_STRING CONTENT_LENGTH CONTENT_TYPE REMOTE_ADDR REMOTE_PORT"
    b" SERVER_NAME SERVER_PORT SCRIPT_NAME".split()
)
#: Names that a server sets (PEP 3333).
_OURS = (b"wsgi.", b"forkd.")

Variables = dict[bytes, bytes]


class UwsgiRequest(Request):
    """As one of HTTP/1.0: its answer has a length, or ends with the connection. nginx reads nothing else."""

    __slots__ = ("doubt", "variables")

    variables: dict[str, str]  # besides those that are read here
    doubt: str  # what was wrong, and was passed over; empty: nothing


class UwsgiParser:
    """The request of one connection, from its bytes in any pieces."""

    def __init__(self, limits: Limits, trusted: Trusted) -> None:
        self.leftover = b""
        self.line = b""
        self._limits = limits
        self._trusted = trusted
        self._packet = bytearray()

    @property
    def started(self) -> bool:
        return bool(self._packet)

    def feed(self, data: bytes) -> Request | None:
        packet = self._packet
        packet += data
        if len(packet) < HEADER_BYTES:
            return None
        end = HEADER_BYTES + int.from_bytes(packet[1:3], "little")
        if packet[0] not in (_WSGI, _CUT_PATH):
            raise Refused(400, "no request of the uwsgi protocol: modifier1 is neither 0 nor 30")
        if end - HEADER_BYTES > self._limits.head:
            raise Refused(431, "the parameters are larger than --limit-request-head")
        if len(packet) < end:
            return None
        fields, variables = _sorted(bytes(packet[HEADER_BYTES:end]))
        self.line = _line_of(variables)
        request = _request(self.line, fields, variables, packet[0] == _CUT_PATH, self._limits, self._trusted)
        if len(packet) - end > (request.length or 0):
            # A front that sends the size of its block modulo 65536 sends the rest of it here.
            raise Refused(400, "more behind the parameters than a body of CONTENT_LENGTH")
        self.leftover = bytes(packet[end:])
        return request


def parameters(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values, in their order. Raises Refused where the block does not end with one."""
    at, end = 0, len(block)
    while at < end:
        pair = []
        for _ in range(2):
            start = at + 2
            at = start + int.from_bytes(block[at:start], "little")
            if start > end or at > end:
                raise Refused(400, "the parameters do not fill their block: it was cut, or its size is wrong")
            pair.append(block[start:at])
        yield pair[0], pair[1]


def _sorted(block: bytes) -> tuple[Fields, Variables]:
    """The fields of the client's request, by names as they may have been, and all other variables: of those
    the last of a name counts, and of Hosts, since nginx passes on one of the client's at most."""
    fields: Fields = []
    variables: Variables = {}
    for name, value in parameters(block):
        if name.startswith(_HTTP):
            field = name[len(_HTTP) :].lower().replace(b"_", b"-")
            if _NAME.fullmatch(field) is None or _VALUE.fullmatch(value) is None:
                raise Refused(400, "malformed header")
            if field == b"host":
                fields = [other for other in fields if other[0] != field]
            if field not in _DROPPED:
                fields.append((field, value.strip(b" \t")))
        elif not name:
            raise Refused(400, "a parameter without a name")
        elif name == b"CONTENT_LENGTH" and variables.get(name, value) != value:
            raise Refused(400, "repeated CONTENT_LENGTH")
        else:
            variables[name] = value
    return fields, variables


def _line_of(variables: Variables) -> bytes:
    method = variables.get(b"REQUEST_METHOD", b"")
    if not method:
        raise Refused(400, "no REQUEST_METHOD")
    if not variables.get(b"REQUEST_URI"):
        path = variables.get(b"SCRIPT_NAME", b"") + variables.get(b"PATH_INFO", b"")
        query = variables.get(b"QUERY_STRING")
        target = quote_from_bytes(path).encode() + (b"?" + query if query else b"")
        if not target:
            raise Refused(400, "neither REQUEST_URI nor PATH_INFO")
        variables[b"REQUEST_URI"] = target
    line = b" ".join((method, variables[b"REQUEST_URI"], variables.get(b"SERVER_PROTOCOL") or b"HTTP/1.0"))
    if _LINE.fullmatch(line) is None:
        raise Refused(400, "control characters in REQUEST_METHOD, REQUEST_URI or SERVER_PROTOCOL")
    return line


def _request(
    line: bytes, fields: Fields, variables: Variables, cut: bool, limits: Limits, trusted: Trusted
) -> UwsgiRequest:
    if len(line) + 2 > limits.line:
        raise Refused(414, "request line too long")
    if len(fields) > limits.fields:
        raise Refused(431, "too many headers")
    if any(len(name) + len(value) + 4 > limits.field for name, value in fields):
        raise Refused(431, "header line too long")
    host = next((value for name, value in fields if name == b"host"), b"")
    if host and HOST.fullmatch(host) is None:
        raise Refused(400, "malformed Host")
    digits = variables.get(b"CONTENT_LENGTH", b"")
    if digits and LENGTH.fullmatch(digits) is None:
        raise Refused(400, "malformed CONTENT_LENGTH")
    method = METHODS.get(variables[b"REQUEST_METHOD"])
    if method is None:
        raise Refused(501, "method not implemented")
    length = int(digits) if digits else None
    for name in (b"CONTENT_LENGTH", b"CONTENT_TYPE"):
        value = variables.get(name, b"")
        if value:
            if _VALUE.fullmatch(value) is None:
                raise Refused(400, "malformed header")
            fields.append((name.lower().replace(b"_", b"-"), value))
    origin, doubt = _origin(variables, trusted)
    target = variables[b"REQUEST_URI"]
    path, query = _path(variables, target, origin.prefix.encode("latin-1") if cut else b"")
    forwarded = bool(doubt) or any(
        name in FORWARDED_NAMES or name.startswith(X_FORWARDED) for name, _ in fields
    )
    request = UwsgiRequest(
        method, target, path, query, "1.0", fields, host, length, False, False, False,
        line, forwarded,
    )  # fmt: skip
    request.origin = origin
    request.client = None if origin.client is None else origin.client.address
    request.doubt = doubt
    request.variables = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in variables.items()
        if name not in _READ and not name.startswith(_OURS)
    }
    if length is not None and length > limits.body:
        raise Refused(413, "body too large", request=request)
    return request


def _path(variables: Variables, target: bytes, prefix: bytes) -> tuple[bytes, bytes]:
    """Path and query, as Request has them. `prefix`: what is cut off. PATH_INFO is decoded, and may be
    another path than that of REQUEST_URI, since a front rewrites it."""
    encoded, _, query = target.partition(b"#")[0].partition(b"?")
    path = variables[b"PATH_INFO"] if b"PATH_INFO" in variables else unquote_to_bytes(encoded)
    if prefix and (path == prefix or path.startswith(prefix + b"/")):
        path = path[len(prefix) :]
    return path.replace(b"%", b"%25"), variables.get(b"QUERY_STRING", query)


def _origin(variables: Variables, trusted: Trusted) -> tuple[Origin, str]:
    """Who the client is, and what it has connected to; and what was wrong with that."""
    address = variables.get(b"REMOTE_ADDR", b"")
    client, doubt = (hop_of(address, trusted) if address else None), ""
    if client is not None:
        client = Hop(client.address, client.port or _port(variables.get(b"REMOTE_PORT", b"")))
    elif address:
        doubt = "REMOTE_ADDR is no address: the client's is that of the peer"
    return Origin(
        client,
        _scheme(variables),
        variables.get(b"SERVER_NAME", b"").decode("latin-1"),
        _port(variables.get(b"SERVER_PORT", b"")),
        variables.get(b"SCRIPT_NAME", b"").rstrip(b"/").decode("latin-1"),
    ), doubt


def _scheme(variables: Variables) -> str:
    """As uWSGI has it, and then nginx's REQUEST_SCHEME. Empty: none is said."""
    said = scheme_of(variables.get(b"UWSGI_SCHEME", b""))
    if said is not None:
        return said
    https = variables.get(b"HTTPS", b"").lower()
    if https:
        return "https" if https.startswith((b"on", b"1")) else "http"
    return scheme_of(variables.get(b"REQUEST_SCHEME", b"")) or ""


def _port(text: bytes) -> int:
    """0: it is none, or not known."""
    number = int(text) if _PORT.fullmatch(text) else 0
    return number if number <= MAX_PORT else 0
