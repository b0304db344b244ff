"""Clients that leave, with bytes before that which are not read: by each io (docs/asgi.md)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.http.test_frames import masked
from tests.process.conftest import Daemon, until

from .conftest import FAILURES, dial, read_all, take
from .test_asgi_websocket import handshake

WAYS = {
    "epoll": [], "epoll, twin": ["--no-native"], "poll": ["--io", "poll"], "sigio": ["--io", "sigio"],
    "select": ["--io", "select"], "io_uring": ["-m", "proactor", "--io", "io_uring"],
    "io_uring, twin": ["-m", "proactor", "--io", "io_uring", "--no-native"],
}  # fmt: skip
RESET = b"\1\0\0\0\0\0\0\0"


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def site(way: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    service = Daemon(tmp_path_factory.mktemp("departures"))
    take(service, "asgi_site")
    service.expected_errors = [*FAILURES]
    service.start("-w", "1", *WAYS[way], app="asgi_site:app")
    yield service
    service.finish()


@contextlib.contextmanager
def unread(service: Daemon, path: str, data: bytes) -> Iterator[socket.socket]:
    """A WebSocket whose application does not receive what its client sends."""
    with dial(service) as client:
        client.sendall(handshake(path))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        client.sendall(data)
        until(lambda: websockets(service) == 1, "it is counted")
        yield client


def websockets(service: Daemon) -> int:
    return sum(worker["websockets"] for worker in service.live()["workers"])


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_websocket_that_is_not_read(site: Daemon, way: str, how: str) -> None:
    path = "sleeps?0.5" if way == "select" else "receives-late"  # which sends then
    with unread(site, path, masked(1, b"1") * 40) as client:
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    until(lambda: websockets(site) == 0, "it is not any more", 10)
    site.get("/release")


@pytest.mark.parametrize("closes", [True, False])
def test_what_it_has_sent_before_is_received(site: Daemon, way: str, closes: bool) -> None:
    numbers = list(range(3000))
    data = b"".join(masked(1, b"%06d" % number) for number in numbers)
    with unread(site, "receives-late", data + (masked(8, b"\x0f\xa1") if closes else b"")):
        pass
    if way != "select":
        until(lambda: websockets(site) == 0, "it has left", 10)
    site.get("/release")
    until(lambda: len(json.loads(site.get("/log"))) == 3001, "the application is told")
    assert json.loads(site.get("/log")) == [*numbers, 4001 if closes else 1006]
    until(lambda: websockets(site) == 0, "it is over")


def test_what_was_read_before_a_reset_is_received(site: Daemon, way: str) -> None:
    frames = b"".join(masked(1, b"%d" % number) for number in range(40)) + masked(8, b"\x0f\xa1")
    with dial(site) as client:
        client.sendall(handshake("receives-late") + frames)
        while not client.recv(1000).endswith(b"\r\n\r\n"):
            pass
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    if way != "select":
        until(lambda: websockets(site) == 0, "it has left", 10)
    site.get("/release")
    until(lambda: len(json.loads(site.get("/log"))) == 41, "the application is told")
    assert json.loads(site.get("/log")) == [*range(40), 4001]
    until(lambda: websockets(site) == 0, "it is over")


def test_one_that_reads_nothing_either(site: Daemon, way: str) -> None:
    """Its application waits for room."""
    if way == "select":
        pytest.skip("select(2) does not tell that")
    with unread(site, "floods", masked(1, b"x") * 40) as client:
        client.shutdown(socket.SHUT_WR)
        until(lambda: websockets(site) == 0, "it has left", 10)


def test_a_request_with_others_behind_it(site: Daemon, way: str) -> None:
    """The application that waits for that is told, and the client, which has only closed its side, has all of
    its answers."""
    if way == "select":
        pytest.skip("select(2) does not tell that")
    behind = b"GET /log HTTP/1.1\r\nHost: a\r\nX-Fill: %b\r\n\r\n" % bytes(4000).replace(b"\0", b"x")
    with dial(site) as client:
        client.settimeout(5)
        client.sendall(b"GET /waits-for-disconnect HTTP/1.1\r\nHost: a\r\n\r\n" + behind * 25)
        client.shutdown(socket.SHUT_WR)
        read = read_all(client)
    assert read.count(b"HTTP/1.1 200 ") == 26 and b"told" in read


def test_an_upload_is_whole_that_was_not_read_when_it_ended(site: Daemon) -> None:
    with dial(site) as client:
        client.settimeout(30)
        client.sendall(b"POST /reads-late HTTP/1.1\r\nHost: a\r\nContent-Length: 150000\r\n\r\n")
        client.sendall(bytes(150000))
        client.shutdown(socket.SHUT_WR)
        site.get("/release")
        assert read_all(client).endswith(b"\r\n\r\n150000")


@pytest.mark.parametrize("body", ["Content-Length: 4", "Transfer-Encoding: chunked"])
def test_a_client_that_had_reset_when_it_was_to_be_told_to_continue(site: Daemon, body: str) -> None:
    """The 100 that cannot be sent may be the first that shows it: receive() waited for ever behind that."""
    before = site.log().count("told of the end")
    (pid,) = site.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        client = dial(site)
        head = ["POST /waits-for-disconnect HTTP/1.1", "Host: a", body, "Expect: 100-continue", "", ""]
        client.sendall("\r\n".join(head).encode())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: site.log().count("told of the end") > before, "the application is told", 10)
