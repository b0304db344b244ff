"""Raw HTTP cases of the project's own, by rule of RFC 9110 and 9112: a clone without the corpora has these.

Each is a row as the corpora have them: id, verdict, the number of requests to be served, the bytes.
"""

from __future__ import annotations

import base64
from typing import Any

#: Behind a request that must not be served lies another one, which must not be served either.
CANARY = b"GET /canary HTTP/1.1\r\nHost: a\r\n\r\n"
#: Where the right answer is one request, the next one shows that the end of the first was found.
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
TEN = b"0123456789"
HEX = TEN + b"hello world"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

#: What is served: (rule, bytes, how many requests, the body of the last one).
ACCEPTED: list[tuple[str, bytes, int, bytes]] = [
    # RFC 9112 2.2: an empty line before a request is ignored; a bare LF ends a line.
    ("line/empty-before", b"\r\n" + GET + b"\r\n" + NEXT, 2, b""),
    ("line/empty-between", GET + b"\r\n" + b"\r\n" + NEXT, 2, b""),
    # 3: the request line and the four forms of its target.
    ("target/origin", b"GET /a/b?c=d HTTP/1.1\r\nHost: a\r\n\r\n", 1, b""),
    ("target/absolute", b"GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n" + NEXT, 2, b""),
    ("target/asterisk", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + NEXT, 2, b""),
    ("method/token", b"M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", 1, b""),
    ("version/1.0", b"GET / HTTP/1.0\r\n\r\n", 1, b""),
    ("version/1.0-keep-alive", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + NEXT, 2, b""),
    # 3.2.
    ("host/port", b"GET / HTTP/1.1\r\nHost: a.example:8000\r\n\r\n", 1, b""),
    ("host/ipv6", b"GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", 1, b""),
    # 5: white space around a value, names in any case.
    ("field/no-space", b"GET / HTTP/1.1\r\nHost:a\r\n\r\n", 1, b""),
    ("field/spaces", b"GET / HTTP/1.1\r\nHost: \t a \t \r\nX: \r\n\r\n" + NEXT, 2, b""),
    ("field/case", b"POST / HTTP/1.1\r\nhOST: a\r\ncONTENT-lENGTH: 2\r\n\r\nhi" + NEXT, 2, b""),
    ("field/latin-1", GET + b"X: \xe4\xff\r\n\r\n" + NEXT, 2, b""),
    # 6.2, 6.3: Content-Length; none means no body.
    ("length/none", POST + b"\r\n" + NEXT, 2, b""),
    ("length/zero", POST + b"Content-Length: 0\r\n\r\n" + NEXT, 2, b""),
    ("length/body", POST + b"Content-Length: 5\r\n\r\nhello", 1, b"hello"),
    ("length/leading-zeros", POST + b"Content-Length: 0005\r\n\r\nhello", 1, b"hello"),
    ("length/get", GET + b"Content-Length: 3\r\n\r\nabc", 1, b"abc"),
    ("length/looks-like-a-request", POST + b"Content-Length: 33\r\n\r\n" + CANARY, 1, CANARY[:33]),
    # 7.1: chunks; hexadecimal in any case, extensions, a trailer section.
    ("chunked/one", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", 1, b"hello"),
    ("chunked/two", CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 1, b"hello world"),
    ("chunked/empty", CHUNKED + b"0\r\n\r\n" + NEXT, 2, b""),
    ("chunked/hexadecimal", CHUNKED + b"a\r\n" + TEN + b"\r\nB\r\nhello world\r\n0\r\n\r\n", 1, HEX),
    ("chunked/zeros", CHUNKED + b"0005\r\nhello\r\n000\r\n\r\n", 1, b"hello"),
    ("chunked/extension", CHUNKED + b"5;a=b\r\nhello\r\n0;c\r\n\r\n", 1, b"hello"),
    ("chunked/quoted-extension", CHUNKED + b'5;a="b;c"\r\nhello\r\n0\r\n\r\n', 1, b"hello"),
    ("chunked/trailer", CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", 1, b"hello"),
    ("chunked/trailer-and-next", CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n" + NEXT, 2, b""),
    ("chunked/case", POST + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n" + NEXT, 2, b""),
    # 9.3: a connection goes on unless one side says close.
    ("connection/pipelined", NEXT * 3, 3, b""),
    ("connection/close", GET + b"Connection: close\r\n\r\n", 1, b""),
    # RFC 9110 10.1.1: a client may send its body at once all the same.
    ("expect/continue", POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", 1, b"hi"),
]  # fmt: skip

#: What is refused, and the connection with it: (rule, bytes, how many requests before it are served).
REJECTED: list[tuple[str, bytes, int]] = [
    # RFC 9112 2.2 and 3.
    ("line/no-version", b"GET /\r\nHost: a\r\n\r\n", 0),
    ("line/two-spaces", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("line/tab", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("line/leading-space", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("line/trailing-space", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 0),
    ("line/space-in-target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("line/nul", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("line/bare-cr", b"GET / HTTP/1.1\rHost: a\r\n\r\n", 0),
    ("line/control-in-target", b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("method/empty", b" / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("method/lower", b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("method/no-token", b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("target/empty", b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 0),
    ("version/0.9", b"GET /\r\n\r\n", 0),
    ("version/2", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 0),
    ("version/preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
    ("version/lower", b"GET / http/1.1\r\nHost: a\r\n\r\n", 0),
    ("version/digits", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 0),
    ("version/no-digit", b"GET / HTTP/1.x\r\nHost: a\r\n\r\n", 0),
    ("version/other-protocol", b"GET / ICAP/1.1\r\nHost: a\r\n\r\n", 0),
    # 3.2: exactly one Host; RFC 9110 4.2.1: which is not empty.
    ("host/empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 0),
    ("host/none", b"GET / HTTP/1.1\r\n\r\n", 0),
    ("host/two", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 0),
    ("host/two-equal", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 0),
    ("host/none-in-the-second", GET + b"\r\n" + b"GET / HTTP/1.1\r\n\r\n", 1),
    # 5.1, 5.2 and RFC 9110 5.5, 5.6.2.
    ("field/space-before-colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 0),
    ("field/leading-space", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 0),
    ("field/folded", GET + b"X: a\r\n b\r\n\r\n", 0),
    ("field/no-colon", GET + b"nonsense\r\n\r\n", 0),
    ("field/empty-name", GET + b": x\r\n\r\n", 0),
    ("field/no-token", GET + b"X(y): x\r\n\r\n", 0),
    ("field/name-nul", GET + b"X\0: x\r\n\r\n", 0),
    ("field/value-nul", GET + b"X: a\0b\r\n\r\n", 0),
    ("field/value-cr", GET + b"X: a\rb\r\n\r\n", 0),
    ("field/name-latin-1", GET + b"X\xe4: x\r\n\r\n", 0),
    # 6.1: chunked is the last coding, and the only one that is understood.
    ("coding/unknown", POST + b"Transfer-Encoding: gzip\r\n\r\n", 0),
    ("coding/chunked-not-last", POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 0),
    ("coding/twice", POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 0),
    ("coding/two-fields", POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 0),
    ("coding/xchunked", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0),
    ("coding/empty", POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n", 0),
    ("coding/vertical-tab", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 0),
    ("coding/1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0),
    # 6.3: a length that is not one, or two of them, or one beside chunks.
    ("length/and-chunked", POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0),
    ("length/after-chunked", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 0),
    ("length/two", POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 0),
    ("length/list", POST + b"Content-Length: 5, 6\r\n\r\nhello", 0),
    ("length/sign", POST + b"Content-Length: +5\r\n\r\nhello", 0),
    ("length/negative", POST + b"Content-Length: -5\r\n\r\nhello", 0),
    ("length/hexadecimal", POST + b"Content-Length: 0x5\r\n\r\nhello", 0),
    ("length/empty", POST + b"Content-Length:\r\n\r\nhello", 0),
    ("length/letters", POST + b"Content-Length: five\r\n\r\nhello", 0),
    ("length/underscore", POST + b"Content-Length: 1_0\r\n\r\n0123456789", 0),
    ("length/fraction", POST + b"Content-Length: 5.0\r\n\r\nhello", 0),
    ("length/other-digits", POST + "Content-Length: ٥\r\n\r\nhello".encode(), 0),
    ("length/space-inside", POST + b"Content-Length: 1 0\r\n\r\n0123456789", 0),
    ("length/huge", POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 0),
    # 7.1.
    ("chunked/no-size", CHUNKED + b"\r\nhello\r\n0\r\n\r\n", 0),
    ("chunked/no-number", CHUNKED + b"x\r\nhello\r\n0\r\n\r\n", 0),
    ("chunked/sign", CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n", 0),
    ("chunked/negative", CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 0),
    ("chunked/prefix", CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 0),
    ("chunked/underscore", CHUNKED + b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n", 0),
    ("chunked/space-before-size", CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n", 0),
    ("chunked/huge", CHUNKED + b"f" * 20 + b"\r\nhello", 0),
    ("chunked/short", CHUNKED + b"4\r\nhello\r\n0\r\n\r\n", 0),
    ("chunked/long", CHUNKED + b"6\r\nhello\r\n0\r\n\r\n", 0),
    ("chunked/bare-cr", CHUNKED + b"5\rhello\r\n0\r\n\r\n", 0),
    ("chunked/trailer-no-colon", CHUNKED + b"0\r\nnonsense\r\n\r\n", 0),
    ("chunked/trailer-folded", CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n", 0),
]  # fmt: skip

#: What may still become a request: nothing is served.
INCOMPLETE: list[tuple[str, bytes]] = [
    ("line/half", b"GET / HT"),
    ("field/half", GET + b"X: "),
    ("field/no-end", GET),
    ("length/short-body", POST + b"Content-Length: 6\r\n\r\nhello"),
    ("chunked/half-size", CHUNKED + b"5"),
    ("chunked/half-data", CHUNKED + b"5\r\nhel"),
    ("chunked/no-last", CHUNKED + b"5\r\nhello\r\n"),
    ("chunked/no-end", CHUNKED + b"5\r\nhello\r\n0\r\n"),
    ("chunked/half-trailer", CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n"),
]


def _row(rule: str, verdict: str, raw: bytes, ok: int, **more: Any) -> dict[str, Any]:
    return {"id": f"own/{verdict}/{rule}", "verdict": verdict, "ok": ok, "b64": _b64(raw), **more}


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


OWN = [
    *(_row(rule, "accept", raw, ok, body_hex=body.hex()) for rule, raw, ok, body in ACCEPTED),
    *(_row(rule, "reject", raw + CANARY, ok, canary=True) for rule, raw, ok in REJECTED),
    *(_row(rule, "incomplete", raw, 0) for rule, raw in INCOMPLETE),
]
