"""Answers: what an app may send, and the bytes it becomes."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from forkd.http import response
from forkd.http.response import BadResponse, check_headers, encode

NOW = 784111777.9
DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def test_date() -> None:
    assert response.date(NOW) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert response.date(NOW) is response.date(NOW - 0.5)
    for day in range(0, 20000, 17):
        assert response.date(day * 86399).decode() == formatdate(day * 86399, usegmt=True)


@pytest.mark.parametrize(
    ("framing", "end"),
    [
        ({}, b"\r\n"),
        ({"length": 0}, b"Content-Length: 0\r\n\r\n"),
        ({"length": 7, "keep_alive": True}, b"Content-Length: 7\r\nConnection: keep-alive\r\n\r\n"),
        ({"chunked": True}, b"Transfer-Encoding: chunked\r\n\r\n"),
        ({"keep_alive": False}, b"Connection: close\r\n\r\n"),
    ],
)
def test_encode(framing: dict[str, Any], end: bytes) -> None:
    checked = check_headers("200 OK", [("X-Y", "z"), ("Content-Length", "7"), ("x-y", "\xe9\t")])
    assert checked.length == 7 and checked.code == 200 and not checked.close
    head = encode(checked, NOW, **framing)
    start = b"HTTP/1.1 200 OK\r\nX-Y: z\r\nx-y: \xe9\r\n"
    assert head == start + DATE + b"Server: forkd\r\n" + end


def test_the_apps_date_and_server_stay() -> None:
    raw = response.head("404 ", [("DATE", "today"), ("server", "mine")], NOW, length=0)
    assert raw == b"HTTP/1.1 404 \r\nDATE: today\r\nserver: mine\r\nContent-Length: 0\r\n\r\n"


def test_204_has_no_framing() -> None:
    framings: list[Any] = [{"length": 0}, {"chunked": True}]
    for framing in framings:
        raw = response.head("204 No Content", [("Content-Length", "0")], NOW, **framing)
        assert b"Content-Length" not in raw and b"Transfer" not in raw


def test_connection() -> None:
    assert check_headers("200 OK", [("Connection", "close")]).close
    assert check_headers("200 OK", [("connection", "keep-alive, Close")]).close
    checked = check_headers("200 OK", [("Connection", "keep-alive")])
    assert not checked.close and b"onnection" not in encode(checked, NOW)
    raw = response.head("200 OK", [("Connection", "close")], NOW, keep_alive=True)
    assert raw.endswith(b"Connection: close\r\n\r\n") and b"keep-alive" not in raw


@pytest.mark.parametrize(
    "status",
    ["", "200", "2000 OK", "OK", "20 OK", " 200 OK", "200\tOK", "200 O\rK", "200 O\nK", "200 \x00"]
    + ["\u0662\u0660\u0660 OK", "200 \u20ac", "100 Continue", "101 Switching Protocols", "099 X"]
    + [200, b"200 OK", None, ["200 OK"]],
)
def test_bad_status(status: Any) -> None:
    with pytest.raises(BadResponse):
        check_headers(status, [])


@pytest.mark.parametrize(
    "name",
    ["", "X Y", "X:", "X\r\nY", "X\n", "X\x00", "\xc9", "X\u20ac", "(", b"X", None, 1]
    + ["Keep-Alive", "TRANSFER-ENCODING", "te", "Trailer", "Upgrade", "Proxy-Authenticate"]
    + ["Proxy-Connection"],
)
def test_bad_name(name: Any) -> None:
    for _ in range(2):  # the memo of names must not let it in the second time
        with pytest.raises(BadResponse):
            check_headers("200 OK", [("X", "y"), (name, "x")])


@pytest.mark.parametrize(
    "value",
    [
        "\r",
        "\n",
        "a\r\nSet-Cookie: b",
        "\x00",
        "\x0b",
        "\x1f",
        "\x7f",
        "\u20ac",
        "\u010d\u010a",
        "\u2028",
    ]
    + ["\ud800", b"x", None, 1],
)
def test_bad_value(value: Any) -> None:
    with pytest.raises(BadResponse):
        check_headers("200 OK", [("X", value)])


def test_a_subclass_of_str_is_its_content() -> None:
    class Lying(str):
        def isprintable(self) -> bool:
            return True

        def strip(self, chars: str | None = None) -> str:
            return "a\r\nX-Forged: 1"

    assert b"X-A: honest\r\n" in check_headers("200 OK", [("X-A", Lying("honest"))]).block
    with pytest.raises(BadResponse):
        check_headers("200 OK", [("X-A", Lying("a\r\nX-Forged: 1"))])


def test_every_value_character() -> None:
    for code in range(0x250):
        good = code == 9 or 32 <= code < 127 or 128 <= code < 256
        try:
            block = check_headers("200 OK", [("X", "a" + chr(code) + "b")]).block
        except BadResponse:
            assert not good, code
        else:
            assert good, code
            assert block == b"HTTP/1.1 200 OK\r\nX: a" + bytes((code,)) + b"b\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "1"), ("content-length", "1")],
        [("Content-Length", "-1")],
        [("Content-Length", "1, 1")],
        [("Content-Length", "")],
        [("Content-Length", "\u0661")],
        [("Connection", "upgrade")],
        [("Connection", "close, X-Secret")],
        [("X",)],
        ["XY", "XYZ"],
        [None],
        None,
    ],
)
def test_bad_headers(headers: Any) -> None:
    with pytest.raises(BadResponse):
        check_headers("200 OK", headers)


def test_the_memo_of_names_is_bounded() -> None:
    for i in range(2000):
        check_headers("200 OK", [(f"X-{i}", "y")])
    assert len(response._NAMES) <= response._NAMES.MAX_NAMES


def test_error() -> None:
    raw = response.error(431, "head too large", now=NOW)
    assert raw == (
        b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        + DATE
        + b"Server: forkd\r\nContent-Length: 51\r\nConnection: close\r\n\r\n"
        b"431 Request Header Fields Too Large\nhead too large\n"
    )
    assert response.error(404, "no", method="HEAD").endswith(b"\r\n\r\n")
    assert response.error(599, "x").startswith(b"HTTP/1.1 599 Error\r\n")
    assert b"Connection: keep-alive" in response.error(404, "no", True)
    assert time.strftime("%Y", time.gmtime()).encode() in response.error(500, "x")


def test_chunk_and_bodiless() -> None:
    assert response.chunk(b"hello" * 4) == b"14\r\n" + b"hello" * 4 + b"\r\n"
    assert response.chunk(b"") == b""
    wanted = {(200, "GET"): False, (200, "HEAD"): True, (204, "GET"): True, (304, "GET"): True}
    wanted |= {(100, "GET"): True, (404, "GET"): False, (205, "POST"): False}
    for (status, method), bodiless in wanted.items():
        assert response.bodiless(status, method) is bodiless
