"""Native code has the requests of ASGI also beside options that say something of each; over real sockets."""

from __future__ import annotations

import http.client
import socket

import pytest

from forkd.native import native as built
from forkd.session.proxy_protocol import compose
from tests.process.conftest import Daemon

from .conftest import dial, read_all

HEADER = compose((("203.0.113.7", 4000), ("198.51.100.1", 443)))
OPTIONS = {
    "limit-concurrency": ["--limit-concurrency", "1"], "request-timeout": ["--request-timeout", "30"],
    "request-ids": ["--request-ids"], "proxy": ["--proxy-protocol"], "server-timing": ["--server-timing"],
}  # fmt: skip
RING = ["-m", "proactor", "--io", "io_uring"]
ALL = [flag for flags in OPTIONS.values() for flag in flags]
HAS = """
import asyncio

async def app(scope, receive, send):
    if scope["path"] == "/waits":
        await asyncio.sleep(0.01)
    body = type(receive.__self__).__name__.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
LIMITED = """
import asyncio

async def app(scope, receive, send):
    await asyncio.sleep(0)
    if "odd" in scope["path"]:  # no message of native code's
        try:
            await send({"type": "odd"})
        except RuntimeError:
            pass
    if "lifts" in scope["path"]:
        scope["extensions"]["forkd"]["lift_request_timeout"]()
    await asyncio.sleep(1.4 if "lifts" in scope["path"] else 3)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"late"})
"""


def ask(client: socket.socket, path: str) -> bytes:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    answer = http.client.HTTPResponse(client)
    answer.begin()
    return answer.read()


@pytest.mark.parametrize("option", [*OPTIONS, "all", "all-twin", "all-io_uring"])
def test_native_code_has_the_request(service: Daemon, option: str) -> None:
    service.write_app(HAS)
    native = built is not None and option != "all-twin"
    more = {"all-twin": ["--no-native"], "all-io_uring": RING}
    flags = [*OPTIONS.get(option, ALL), *more.get(option, []), *(["--native"] if native else [])]
    service.start("-w", "1", "--lifespan", "off", *flags)
    with dial(service) as client:
        if "--proxy-protocol" in flags:
            client.sendall(HEADER)
            ask(client, "/")  # its session has what comes with the header
        for path in ("/", "/waits", "/", "/waits"):
            assert ask(client, path) == (b"AsgiCycle" if native else b"Cycle")


def test_each_request_has_its_own_time(service: Daemon) -> None:
    """Of several that wait at once, also in Python, and of those that have it no more."""
    service.write_app(LIMITED)
    service.expected_errors = ["application failed"]
    service.start("-w", "1", "--lifespan", "off", "--request-timeout", "0.7")
    paths = ["/waits", "/odd-waits", "/lifts", "/odd-lifts", "/waits", "/odd-waits"]
    clients = [dial(service) for _ in paths]
    for client, path in zip(clients, paths, strict=True):
        client.settimeout(30)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        if path == "/odd-lifts":
            with pytest.raises(TimeoutError):
                client.settimeout(0.3)
                client.recv(1)
            client.settimeout(30)
    for client, path in zip(clients, paths, strict=True):
        with client:
            answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 200 " if "lifts" in path else b"HTTP/1.1 504 "), path
    service.settles(4, "forkd_requests_refused_total", reason="request-timeout")
    service.settles(0, "forkd_requests_in_flight")
