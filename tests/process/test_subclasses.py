"""Subclasses of str and bytes that an application answers with are their content, in any order."""

from __future__ import annotations

import pytest

from .conftest import Daemon

#: Each class says of itself what is not so: what counts is the content.
APP = r"""
    import enum

    class Status(enum.StrEnum):
        OK = "200 OK"
        TEAPOT = "418 I'm a teapot"

    class Lying(str):
        def __str__(self): return "a\r\nX-Forged: 1"
        __repr__ = strip = lower = __add__ = __format__ = lambda self, *_: "a\r\nX-Forged: 1"
        def __eq__(self, other): return True
        def __hash__(self): return hash("X-Name")
        def isprintable(self): return True

    class Unhashable(str):
        __hash__ = None

    class LyingBytes(bytes):
        def __len__(self): return 1
        def __bool__(self): return False
        def __bytes__(self): return b"forged"
        def __getitem__(self, key): return b"forged"
        __iter__ = None

    def app(environ, start):
        kind, _, way = environ["PATH_INFO"][1:].partition("/")
        status, name, value = {
            "plain": ("200 OK", "X-Name", "value"),
            "enum": (Status.OK, "X-Name", "value"),
            "teapot": (Status.TEAPOT, "X-Name", "value"),
            "lying": (Lying("200 OK"), Lying("X-Name"), Lying("value")),
            "unhashable": (Unhashable("200 OK"), Unhashable("X-Name"), Unhashable("value")),
            "bytes": (b"200 OK", "X-Name", "value"),
            "forged": (Lying("200 OK"), Lying("X\r\nX-Forged"), "value"),
        }[kind]
        write = start(status, [(name, value)])
        if way == "write":
            write(LyingBytes(b"body"))
            return []
        return {"list": [LyingBytes(b"body")], "iterator": iter([LyingBytes(b"body")])}[way or "list"]
"""


def head_and_body(service: Daemon, path: str) -> tuple[bytes, bytes, bytes]:
    """The status line, the line of X-Name, and the body, without chunks."""
    with service.connect() as sock, sock.makefile("rb") as answer:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        head, _, body = answer.read().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert not [line for line in lines if line.startswith(b"X-Forged")], head
    if b"Transfer-Encoding: chunked" in lines:
        assert body == b"4\r\nbody\r\n0\r\n\r\n"
        body = b"body"
    return lines[0], next((line for line in lines if line.startswith(b"X-Name")), b""), body


@pytest.mark.parametrize("flags", [[], ["--no-native"]], ids=" ".join)
@pytest.mark.parametrize("first", ["plain", "lying"])
def test_a_subclass_is_taken_by_value_whoever_came_before(
    service: Daemon, flags: list[str], first: str
) -> None:
    service.expected_errors = ["application failed", "Traceback"]
    service.write_app(APP)
    service.start("-w", "1", *flags)
    ok = b"HTTP/1.1 200 OK", b"X-Name: value", b"body"
    for _ in range(2):
        for kind in (first, "plain", "enum", "lying", "unhashable", "enum"):
            for way in ("list", "iterator", "write"):
                assert head_and_body(service, f"/{kind}/{way}") == ok, (kind, way)
        assert head_and_body(service, "/teapot")[0] == b"HTTP/1.1 418 I'm a teapot"
        for kind in ("bytes", "forged"):
            assert head_and_body(service, f"/{kind}")[0] == b"HTTP/1.1 500 Internal Server Error"
