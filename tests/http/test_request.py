"""Request heads as scripted bytes: whole, byte by byte, with trailing data, in random pieces."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from forkd.http import grammar
from forkd.http.request import Limits, Refused, Request, RequestParser

SEED = random.randrange(1 << 32)
H = b"Host: a\r\n"


def facts(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in Request.__slots__}


def talk(pieces: list[bytes], limits: Limits | None = None) -> list[Any]:
    """All that comes of body-less requests in `pieces`: facts, or the refusal, and the rest."""
    parser = RequestParser(limits or Limits())
    seen: list[Any] = []
    try:
        for piece in pieces:
            request = parser.feed(piece)
            while request is not None:
                seen.append(facts(request))
                request = parser.feed(parser.leftover) if parser.leftover else None
    except Refused as refused:
        seen.append((refused.status, refused.reason))
        for more in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
            with pytest.raises(Refused) as again:
                parser.feed(more)
            assert again.value.status == refused.status
        assert not parser.started
    return seen


def bytewise(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def pieces(raw: bytes, dice: random.Random) -> list[bytes]:
    out = []
    while raw:
        size = dice.randint(1, len(raw))
        out.append(raw[:size])
        raw = raw[size:]
    return out


def one(raw: bytes) -> Request:
    request = RequestParser().feed(raw)
    assert request is not None
    return request


def refusal(raw: bytes, limits: Limits | None = None) -> int:
    whole = talk([raw], limits)
    assert whole and isinstance(whole[-1], tuple), whole
    assert talk(bytewise(raw), limits) == whole
    dice = random.Random(SEED)
    for _ in range(10):
        assert talk(pieces(raw, dice), limits) == whole, f"seed {SEED}"
    status: int = whole[-1][0]
    return status


# --- what is taken


def test_request() -> None:
    raw = b"GET /a%20b?x=1&y HTTP/1.1\r\nHost: example.com:80\r\nX_y:\t z \t\r\nX_y:\r\n\r\n"
    assert facts(one(raw)) == {
        "method": "GET",
        "target": b"/a%20b?x=1&y",
        "path": b"/a%20b",
        "query": b"x=1&y",
        "version": "1.1",
        "headers": [(b"Host", b"example.com:80"), (b"X_y", b"z"), (b"X_y", b"")],
        "authority": b"example.com:80",
        "length": None,
        "chunked": False,
        "keep_alive": True,
        "expect_continue": False,
        "line": b"GET /a%20b?x=1&y HTTP/1.1",
        "forwarded": False,
        "id": "",
        "origin": None,
        "client": None,
    }


TAKEN = [
    b"GET / HTTP/1.1\r\n" + H + b"\r\n",
    b"\r\n\r\nGET / HTTP/1.1\r\n" + H + b"\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /?a?b/c#d?e HTTP/1.1\r\n" + H + b"\r\n",
    b'GET /"{}|\\^`<> HTTP/1.1\r\n' + H + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n",
    b"GET hTTp://u:p@b.c:80/d?e HTTP/1.1\r\n" + H + b"\r\n",
    b"CONNECT b.c:443 HTTP/1.1\r\n" + H + b"\r\n",
    b"M-SEARCH / HTTP/1.1\r\nX: \xff\tz  \r\nhOST: [::1]:80\r\n\r\n",
    b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + H + b"\r\n",
    b"GET / HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("raw", TAKEN)
def test_any_split_is_the_same_request(raw: bytes) -> None:
    whole = talk([raw])
    assert len(whole) == 1 and isinstance(whole[0], dict)
    parser = RequestParser()
    for byte in bytewise(raw[:-1]):
        assert parser.feed(byte) is None
    assert parser.started
    last = parser.feed(raw[-1:])
    assert last is not None and [facts(last)] == whole and parser.leftover == b""
    assert not parser.started
    for cut in range(1, len(raw)):
        assert talk([raw[:cut], raw[cut:]]) == whole
        parser = RequestParser()
        assert parser.feed(raw[:cut]) is None
        request = parser.feed(raw[cut:] + b"body\r\n\r\nbytes")
        assert request is not None and facts(request) == whole[0]
        assert parser.leftover == b"body\r\n\r\nbytes"
    parser = RequestParser()
    assert parser.feed(raw + b"\r\n\r\nXX") is not None
    assert parser.leftover == b"\r\n\r\nXX"


def test_pipelining() -> None:
    raw = b"".join(b"GET /%d HTTP/1.1\r\n%b\r\n" % (i, H) for i in range(20))
    expected = [b"/%d" % i for i in range(20)]
    dice = random.Random(SEED)
    for split in ([raw], bytewise(raw), pieces(raw, dice), pieces(raw, dice)):
        assert [request["path"] for request in talk(split)] == expected, f"seed {SEED}"


def test_heads_after_bodies_upgrades_and_closes_are_read_afresh() -> None:
    parser = RequestParser()
    heads = [*TAKEN[2:], b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 999\r\n\r\n"]
    heads.append(b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n")
    for first in heads:
        for second in heads:
            for raw in (first, second):
                request = parser.feed(raw)
                assert request is not None and facts(request) == facts(one(raw))


def test_started() -> None:
    parser = RequestParser()
    assert not parser.started
    assert parser.feed(b"") is None and not parser.started
    assert parser.feed(b"\r\n") is None and not parser.started
    assert parser.feed(b"G") is None and parser.started


@pytest.mark.parametrize(
    ("target", "path", "query", "authority"),
    [
        (b"/", b"/", b"", b"a"),
        (b"//x//?", b"//x//", b"", b"a"),
        (b"/x?y?z", b"/x", b"y?z", b"a"),
        (b"/x?y#z?q", b"/x", b"y", b"a"),
        (b"/x#y?z", b"/x", b"", b"a"),
        (b"http://b", b"/", b"", b"b"),
        (b"http://b?c", b"/", b"c", b"b"),
        (b"HTTPS://b:1/c?d#e", b"/c", b"d", b"b:1"),
        (b"http://u:p@b/c", b"/c", b"", b"b"),
        (b"http://[::1]:8080/", b"/", b"", b"[::1]:8080"),
    ],
)
def test_targets(target: bytes, path: bytes, query: bytes, authority: bytes) -> None:
    raw = b"GET " + target + b" HTTP/1.1\r\nX: 1\r\nHOST: a\r\n\r\n"
    request = one(raw)
    assert (request.target, request.path, request.query) == (target, path, query)
    assert request.authority == authority
    hosts = [value for name, value in request.headers if name.lower() == b"host"]
    assert hosts == [authority]


def test_connect_and_asterisk() -> None:
    request = one(b"CONNECT b.c:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (request.path, request.authority, request.keep_alive) == (b"", b"b.c:443", False)
    assert request.headers == [(b"Host", b"b.c:443")]
    assert one(b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n").path == b""


@pytest.mark.parametrize(
    ("version", "fields", "keep"),
    [
        (b"1.1", b"", True),
        (b"1.0", b"", False),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: Keep-Alive, CLOSE\t\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.1", b"Connection: upgrade\r\nUpgrade: h2c\r\n", True),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Connection:\r\n", False),
        (b"1.1", b"Content-Length: 5\r\n", False),  # GET with a body
        (b"1.1", b"Content-Length: 0\r\n", True),
        (b"1.1", b"Content_Length: 5\r\n", False),
        (b"1.1", b"transfer_Encoding: chunked\r\n", False),
    ],
)
def test_keep_alive(version: bytes, fields: bytes, keep: bool) -> None:
    raw = b"GET / HTTP/" + version + b"\r\n" + H + fields + b"\r\n"
    assert one(raw).keep_alive is keep
    assert talk(bytewise(raw)) == talk([raw])


@pytest.mark.parametrize(
    ("fields", "length", "chunked", "expect"),
    [
        (b"Content-Length: 0\r\nExpect: 100-continue\r\n", 0, False, False),
        (b"Content-Length:  007 \r\nExpect: 100-Continue\r\n", 7, False, True),
        (b"Transfer-Encoding: Chunked\r\nexpect: 100-continue\r\n", None, True, True),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", None, True, False),
        (b"Transfer-Encoding: gzip ,\tx-gzip\t, chunked\r\n", None, True, False),
        # White space around a value is no part of it (RFC 9110 5.5).
        (b"Transfer-Encoding: \t chunked \t\r\n", None, True, False),
        (b"Transfer-Encoding:\tchunked\t\r\n", None, True, False),
        (b"Transfer-Encoding: gzip\t\r\nTransfer-Encoding:\t\tchunked\t\t\r\n", None, True, False),
        (b"Content-Length: \t 12 \t\r\n", 12, False, False),
        (b"Content-Length: 1073741824\r\n", 1 << 30, False, False),
    ],
)
def test_framing(fields: bytes, length: int | None, chunked: bool, expect: bool) -> None:
    raw = b"POST / HTTP/1.1\r\n" + H + fields + b"\r\n"
    request = one(raw)
    assert (request.length, request.chunked, request.expect_continue) == (length, chunked, expect)
    assert request.keep_alive
    assert talk(bytewise(raw)) == talk([raw])


def test_http10_does_not_wait_for_100() -> None:
    raw = b"POST / HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
    assert not one(raw).expect_continue


def test_method_table_is_what_llhttp_takes() -> None:
    for method in grammar.METHODS:
        target = b"a:1" if method == b"CONNECT" else b"/"
        parser = HttpRequestParser(object())
        try:
            parser.feed_data(method + b" " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        except HttpParserUpgrade:
            assert method == b"CONNECT"
        assert parser.get_method() == method


# --- what is refused

REFUSED = [
    (b"GET /\r\n\r\n", 400),  # HTTP/0.9
    (b"GET / HTTP/0.9\r\n" + H + b"\r\n", 505),
    (b"GET / HTTP/1.2\r\n" + H + b"\r\n", 505),
    (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    (b"GET / HTTP/1.10\r\n" + H + b"\r\n", 400),
    (b"GET / http/1.1\r\n" + H + b"\r\n", 400),
    (b"GET / ICE/1.0\r\n" + H + b"\r\n", 400),
    (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET / HTTP/1.1 \r\n" + H + b"\r\n", 400),
    (b" GET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET / HTTP/1.1\n" + H + b"\r\n", 400),
    (b"\nGET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"\rGET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"\r\n" * 9 + b"GET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01", 400),  # TLS to a plain port: told at once
    (b"G\xc3\x89T / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"BREW / HTTP/1.1\r\n" + H + b"\r\n", 501),
    (b"get / HTTP/1.1\r\n" + H + b"\r\n", 501),
    (b"GETX / HTTP/1.1\r\n" + H + b"\r\n", 501),
    (b"BREW / HTTP/1.1\r\n\r\n", 400),  # no Host comes first
    (b"BREW / HTTP/1.1\r\n" + H + b"X:\x00\r\n\r\n", 400),
    (b"G(T / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET * HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET foo HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET a:80 HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET ftp://a/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET http:// HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET http:///x HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET http://a@b@c/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET http://a\\@b/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET http://a:x/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET http://b/ HTTP/1.1\r\n\r\n", 400),  # absolute-form still wants Host
    (b"CONNECT / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"CONNECT a HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET /\x7f HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET /\xc3\xa9 HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + H + b"\r\n", 400),
    (b"GET / HTTP/1.0\r\n" + H + b"host: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a%2\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b": x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n\t\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: a\nY: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: a\rY: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: a\r\n\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"\rX\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: \x00\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"Content-Type: a\r\ncontent-type: a\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1, 1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length:\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1_0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1 0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: \xb2\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 18446744073709551615\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1073741825\r\n\r\n", 413),
    (b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: ,chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: \t\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\x0b\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding\t: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n\tchunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\t\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\t2\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chun\tked\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: pigeons, chunked\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked;q=1\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + H + b'Transfer-Encoding: "chunked"\r\n\r\n', 501),
    (b"GET / HTTP/1.1\r\n" + H + b"Expect: tea\r\n\r\n", 417),
    (b"GET / HTTP/1.1\r\n" + H + b"Expect: 100-continue, tea\r\n\r\n", 417),
]


@pytest.mark.parametrize(("raw", "status"), REFUSED)
def test_refused(raw: bytes, status: int) -> None:
    assert refusal(raw) == status
    assert refusal(raw + b"GET /canary HTTP/1.1\r\nHost: a\r\n\r\n") == status
    # Also as the second request of a connection, with a parser that is in use.
    assert refusal(b"GET / HTTP/1.1\r\n" + H + b"\r\n" + raw) == status


def test_errors_are_found_before_the_head_ends() -> None:
    for start in (
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nX Y",
        b"GET / HTTP/1.1\r\nX: \x00",
        b"\n",
    ):
        with pytest.raises(Refused):
            RequestParser().feed(start)


# --- limits

TIGHT = Limits(line=30, field=20, fields=3, head=80, body=10)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /" + b"a" * 14 + b" HTTP/1.1\r\n" + H + b"\r\n", None),  # 30 with CRLF
        (b"GET /" + b"a" * 15 + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
        (b"G" * 40, 414),
        (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 15 + b"\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 16 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + H + b"X:" * 20, 431),
        (b"GET / HTTP/1.1\r\n" + H + b"A: 1\r\nB: 2\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\n" + H + b"A: 1\r\nB: 2\r\nC: 3\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + H + b"A: 1\r\nB: 2\r\nC", 431),
        (
            b"GET /aaaaaaaaaaaaaa HTTP/1.1\r\n" + H + (b"X: " + b"a" * 15 + b"\r\n") * 2 + b"\r\n",
            431,
        ),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 10\r\n\r\n", None),
        (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 11\r\n\r\n", 413),
        (b"GET /" + b"a" * 60 + b" HTTP/1.1\r\n" + H + b"\r\n", 414),
        # The first thing wrong in the stream decides.
        (b"GET /\x00" + b"a" * 40, 400),
        (b"GET /" + b"a" * 40 + b"\x00", 414),
        (b"GET / HTTP/1.1\r\n" + H + b"X: \x00" + b"a" * 20, 400),
        (b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 20 + b"\x00", 431),
    ],
)
def test_limits(raw: bytes, status: int | None) -> None:
    if status is None:
        whole = talk([raw], TIGHT)
        assert isinstance(whole[0], dict)
        assert talk(bytewise(raw), TIGHT) == whole
    else:
        assert refusal(raw, TIGHT) == status


def test_default_limits() -> None:
    line = b"GET /" + b"a" * 8174 + b" HTTP/1.1\r\n"
    assert len(line) == 8190
    assert isinstance(talk([line + H + b"\r\n"])[0], dict)
    assert refusal(line.replace(b"/a", b"/aa") + H + b"\r\n") == 414
    field = b"X: " + b"y" * 8185 + b"\r\n"
    assert len(field) == 8190
    assert len(one(line + H + field + b"\r\n").headers) == 2
    assert refusal(line + H + b"Y" + field + b"\r\n") == 431
    fields = b"".join(b"X%d: y\r\n" % i for i in range(99))
    assert len(one(b"GET / HTTP/1.1\r\n" + H + fields + b"\r\n").headers) == 100
    assert refusal(b"GET / HTTP/1.1\r\n" + H + fields + b"X: y\r\n\r\n") == 431
    big = b"X: " + b"y" * 8000 + b"\r\n"
    assert len(one(b"GET / HTTP/1.1\r\n" + H + big * 8 + b"\r\n").headers) == 9
    assert refusal(b"GET / HTTP/1.1\r\n" + H + big * 9 + b"\r\n") == 431


# --- properties

REFERENCE = re.compile(
    rb"(?:\r\n){0,8}[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e]+ HTTP/1\.[01]\r\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)


def test_every_one_byte_change() -> None:
    """Whatever is taken has the grammar of RFC 9112, and the two ways agree on it."""
    base = b"POST /a?b HTTP/1.1\r\nHost: a\r\nX-y: z\r\nContent-Length: 3\r\n\r\n"
    mutants = {
        base[:at] + bytes((byte,)) + base[at:] for at in range(len(base)) for byte in range(256)
    }
    mutants |= {
        base[:at] + bytes((byte,)) + base[at + 1 :]
        for at in range(len(base))
        for byte in range(256)
    }
    mutants |= {base[:at] + base[at + 1 :] for at in range(len(base))}
    taken = 0
    for raw in mutants:
        parser = RequestParser()
        try:
            request = parser.feed(raw)
        except Refused as refused:
            outcome: Any = refused.status, refused.reason
        else:
            outcome = request and facts(request)
            if request is not None:
                taken += 1
                assert REFERENCE.fullmatch(raw[: len(raw) - len(parser.leftover)]), raw
        slow = RequestParser()
        try:
            request = None
            for byte in bytewise(raw):
                request = slow.feed(byte)
                if request is not None:
                    break
        except Refused as refused:
            assert outcome == (refused.status, refused.reason), raw
        else:
            assert outcome == (request and facts(request)), raw
    assert taken > 4000


def test_random_heads_in_random_pieces() -> None:
    dice = random.Random(SEED)
    words = [
        b"GET ",
        b"/",
        b"a",
        b" HTTP/1.1\r\n",
        H,
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b"\t",
        b":",
        b"\x00",
    ]
    words += [
        b"Content-Length: 1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X: y\r\n",
        b"Y: " + b"z" * 30,
    ]
    words += [
        b"Connection: upgrade\r\nUpgrade: a\r\n",
        b"CONNECT a:1",
        b"POST /",
        b"X_Y:\r\n",
        b"\xff",
    ]
    usual = [b"GET /", b" HTTP/1.1\r\n", H]
    for turn in range(4000):
        raw = b"".join(usual[: dice.randint(0, 3)] + dice.choices(words, k=dice.randint(1, 12)))
        limits = TIGHT if turn % 2 else Limits()
        whole = talk([raw], limits)
        assert talk(bytewise(raw), limits) == whole, (SEED, raw)
        assert talk(pieces(raw, dice), limits) == whole, (SEED, raw)


def test_no_quadratic_time() -> None:
    """A head of 64 KiB that comes byte by byte is looked at once."""
    raw = b"GET / HTTP/1.1\r\n" + H + (b"X: " + b"y" * 8000 + b"\r\n") * 8 + b"\r\n"
    parser = RequestParser()
    calls = 0
    look = RequestParser._look

    class Counting(RequestParser):
        def _look(self, head: bytearray, upto: int) -> None:
            nonlocal calls
            calls += max(0, upto - self._fed)
            look(self, head, upto)

    parser = Counting()
    request = None
    for byte in bytewise(raw):
        request = parser.feed(byte)
    assert request is not None
    assert calls < len(raw)


def test_llhttp_is_as_strict_as_the_guard_counts_on() -> None:
    """If a new llhttp takes one of these, the guard has to learn it."""
    for raw in (b"GET / HTTP/1.1\r\nX : y\r\n\r\n", b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n"):
        with pytest.raises(HttpParserError):
            HttpRequestParser(object()).feed_data(raw)
