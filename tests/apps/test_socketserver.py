"""Handlers of socketserver, and what the standard library builds on them, served as they are."""

from __future__ import annotations

import hashlib
import socket

import httpx
import pytest

from tests.process.conftest import Daemon, until

from .conftest import FAILURES, dial, read_all, take

MODELS = [("leader-followers", "epoll"), ("half-sync-half-reactive", "epoll")]


@pytest.fixture(params=MODELS, ids="/".join)
def handlers(request: pytest.FixtureRequest, service: Daemon) -> Daemon:
    take(service, "socketserver_handlers")
    model, io = request.param
    service.environ |= {"FORKD_MODEL": model, "FORKD_IO": io}
    return service


def serve(service: Daemon, name: str, *flags: str) -> None:
    service.start(*flags, app=f"socketserver_handlers:{name}")


def test_the_server_speaks_first_then_lines(handlers: Daemon) -> None:
    serve(handlers, "Lines")
    with dial(handlers) as client, client.makefile("rb") as lines:
        assert lines.readline() == b"220 ready for 127.0.0.1\n"
        client.sendall(b"nonsense\nserver\n")
        assert lines.readline() == b"500 what is nonsense?\n"
        assert lines.readline().split() == [x.encode() for x in map(str, client.getpeername())]
        client.sendall(b"send 5000000\n")
        assert len(lines.read(5_000_000)) == 5_000_000
        client.sendall(b"pid\nquit\n")
        assert int(lines.readline()) in handlers.worker_pids()
        assert lines.read() == b"221 bye\n"


def test_bytes_until_the_clients_end(handlers: Daemon) -> None:
    serve(handlers, "Lines")
    data = bytes(range(256)) * 20_000
    with dial(handlers) as client, client.makefile("rb") as lines:
        lines.readline()
        client.sendall(b"data\n" + data)
        client.shutdown(socket.SHUT_WR)
        assert lines.read().split() == [
            b"250",
            str(len(data)).encode(),
            hashlib.sha256(data).hexdigest().encode(),
        ]


def test_a_base_request_handler(handlers: Daemon) -> None:
    serve(handlers, "Raw")
    with dial(handlers) as client:
        assert client.recv(100) == b"<"
        client.sendall(b"abc")
        assert client.recv(100) == b"ABC"
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b">"


def test_two_workers_serve_two_clients_at_once(handlers: Daemon) -> None:
    serve(handlers, "Lines")
    pids = set()
    with dial(handlers) as one, dial(handlers) as two:
        for client in (one, two):
            with client.makefile("rb") as lines:
                assert lines.readline().startswith(b"220")
                client.sendall(b"pid\n")
                pids.add(int(lines.readline()))
    assert pids <= set(handlers.worker_pids())
    if handlers.environ["FORKD_MODEL"] == "leader-followers":
        assert len(pids) == 2  # each has one thread, which one client holds


def test_a_handler_that_fails_costs_its_own_client_only(handlers: Daemon) -> None:
    handlers.expected_errors = FAILURES
    serve(handlers, "Lines", "-w", "1")
    pids = handlers.worker_pids()
    with dial(handlers) as client:
        client.sendall(b"fail\n")
        assert read_all(client).startswith(b"220")
    until(lambda: "RuntimeError: failed on purpose" in handlers.log(), "the traceback")
    with dial(handlers) as client:
        assert client.recv(100).startswith(b"220")
    assert handlers.worker_pids() == pids


def test_an_idle_stream_is_closed_and_logged(handlers: Daemon) -> None:
    serve(handlers, "Lines", "--idle-timeout", "300ms")
    with dial(handlers) as client:
        assert read_all(client).startswith(b"220")
    until(lambda: "idle for 0.3 s; closed" in handlers.log(), "a line in the log")
    until(lambda: handlers.metric("forkd_connections") == 0, "no connection")


@pytest.mark.parametrize("limit", ["5m", "0"])
def test_the_handlers_own_timeout_closes_too(handlers: Daemon, limit: str) -> None:
    """Whatever --idle-timeout is, which is another one."""
    handlers.expected_errors = ["Traceback", "is closed"]
    serve(handlers, "Impatient", "--idle-timeout", limit)
    with dial(handlers) as client:
        assert read_all(client).startswith(b"220")
    until(lambda: handlers.metric("forkd_connections") == 0, "no connection")
    assert "TypeError" not in handlers.log()
    assert "idle for 300 s" not in handlers.log()


@pytest.mark.parametrize(
    ("how", "error"),
    [("refused", "ConnectionRefusedError"), ("reset", "ConnectionResetError"),
     ("late", "TimeoutError")],
)  # fmt: skip
def test_a_failure_of_the_handlers_own_is_logged(handlers: Daemon, how: str, error: str) -> None:
    """Although a client that left or was idle raises the same."""
    handlers.expected_errors = ["Traceback", "is closed", error]
    serve(handlers, "Fails")
    with dial(handlers) as client:
        client.sendall(how.encode())
        assert read_all(client) == b""
    until(lambda: f"{error}: " in handlers.log(), "the traceback")


def test_a_client_that_leaves_is_not_logged(handlers: Daemon) -> None:
    serve(handlers, "Lines", "-w", "1")
    for _ in range(5):
        with dial(handlers) as client:
            client.sendall(b"send 5000000\n")
            assert client.recv(100)
            # Unread input at the close: the handler's next write meets a reset.
    until(lambda: handlers.metric("forkd_connections") == 0, "no connection")
    assert "failed" not in handlers.log()


def test_http_server_of_the_standard_library(handlers: Daemon) -> None:
    (handlers.dir / "page.txt").write_bytes(b"a page " * 50_000)
    handlers.start(app="http.server:SimpleHTTPRequestHandler")
    host, port = dial(handlers).getpeername()
    for _ in range(4):
        answer = httpx.get(f"http://{host}:{port}/page.txt", timeout=10)
        assert answer.content == b"a page " * 50_000
        assert answer.headers["server"].startswith("SimpleHTTP")
    assert httpx.get(f"http://{host}:{port}/none", timeout=10).status_code == 404
