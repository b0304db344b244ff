"""Packets of the uwsgi protocol, as nginx makes them, for the tests of several parts."""

from __future__ import annotations

from collections.abc import Iterable

Pair = tuple[bytes, bytes]


def sized(text: bytes) -> bytes:
    return len(text).to_bytes(2, "little") + text


def block(pairs: Iterable[Pair]) -> bytes:
    return b"".join(sized(name) + sized(value) for name, value in pairs)


def packet(pairs: Iterable[Pair], modifier1: int = 0, modifier2: int = 0) -> bytes:
    parameters = block(pairs)
    size = (len(parameters) % 65536).to_bytes(2, "little")
    return bytes([modifier1]) + size + bytes([modifier2]) + parameters


def params(
    method: str = "GET", uri: str = "/a?b=c", *more: tuple[str, str], body: int | None = None,
    fields: Iterable[tuple[str, str]] = (("HOST", "hello.example"), ("USER_AGENT", "t")),
) -> list[Pair]:  # fmt: skip
    """Debian's uwsgi_params, in its order, then `more`, then the client's fields. What is in `more` replaces
    what is usual."""
    path, _, query = uri.partition("?")
    usual = {
        "QUERY_STRING": query, "REQUEST_METHOD": method, "CONTENT_TYPE": "",
        "CONTENT_LENGTH": "" if body is None else str(body), "REQUEST_URI": uri, "PATH_INFO": path,
        "DOCUMENT_ROOT": "/usr/share/nginx/html", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_SCHEME": "http",
        "REMOTE_ADDR": "203.0.113.7", "REMOTE_PORT": "4000", "SERVER_PORT": "8080",
        "SERVER_NAME": "hello.example",
    }  # fmt: skip
    usual.update(more)
    found = [*usual.items(), *((f"HTTP_{name}", value) for name, value in fields)]
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in found]


def without(pairs: list[Pair], *names: str) -> list[Pair]:
    return [pair for pair in pairs if pair[0].decode() not in names]
