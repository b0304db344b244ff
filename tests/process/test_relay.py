"""The relay that comes with forkd, between real clients and real upstreams."""

from __future__ import annotations

import ast
import hashlib
import http.client
import http.server
import json
import random
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from forkd.session.proxy_protocol import compose, parse

from .conftest import Daemon, until

NOISE = random.Random(1).randbytes(20_000_000)


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Digest(socketserver.StreamRequestHandler):
    """Answers only when it has seen the client's end."""

    def handle(self) -> None:
        data = self.rfile.read()
        self.wfile.write(f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode())


class Greeting(socketserver.BaseRequestHandler):
    """Speaks first, and closes."""

    def handle(self) -> None:
        self.request.sendall(b"220 hello\n")


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes

    def do_GET(self) -> None:
        body = f"page {self.path}".encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 100


class _Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 100


@contextmanager
def upstream(
    handler: type[socketserver.BaseRequestHandler], path: Path | None = None
) -> Iterator[str]:
    """A threaded server in this process; its address as forkd writes it."""
    with _Unix(str(path), handler) if path else _Tcp(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"unix:{path}" if path else f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def full(kind: str, path: Path) -> Iterator[str]:
    """A listener whose queue is full, so that connect(2) gets no answer."""
    with ExitStack() as stack:
        listener = stack.enter_context(
            socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        )
        listener.bind(str(path) if kind == "unix" else ("127.0.0.1", 0))
        listener.listen(0)
        while True:
            client = stack.enter_context(socket.socket(listener.family))
            client.settimeout(0.2)
            try:
                client.connect(listener.getsockname())
            except (TimeoutError, BlockingIOError):
                break
        yield f"unix:{path}" if kind == "unix" else f"127.0.0.1:{listener.getsockname()[1]}"


def refusing() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def start(service: Daemon, to: str, *flags: str, more: str = "") -> None:
    service.start(*flags, app=f"forkd.app.relay:to({to!r}{more})")


def dial(service: Daemon) -> socket.socket:
    host, _, port = service.live()["listeners"][0]["address"].rpartition(":")
    return socket.create_connection((host, int(port)), 10)


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(partial(client.recv, 1 << 20), b""))


def settled(service: Daemon) -> None:
    until(lambda: service.metric("forkd_connections") == 0, "no connection is left")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_bytes_pass_both_ways(service: Daemon, kind: str) -> None:
    with upstream(Echo, service.dir / "up.sock" if kind == "unix" else None) as address:
        start(service, address)
        clients = [dial(service) for _ in range(8)]
        for number, client in enumerate(clients):
            client.sendall(b"%d\n" % number)
        for number, client in enumerate(clients):
            assert client.makefile("rb").readline() == b"%d\n" % number
            client.close()
        settled(service)


def test_an_upstream_that_speaks_first_and_closes(service: Daemon) -> None:
    with upstream(Greeting) as address:
        start(service, address)
        with dial(service) as client:
            assert read_all(client) == b"220 hello\n"
        settled(service)


def test_http_through_it(service: Daemon) -> None:
    with upstream(Page) as address:
        start(service, address)
        with dial(service) as first:
            where = first.getpeername()
        client = http.client.HTTPConnection(*where, timeout=10)
        for number in range(20):
            client.request("GET", f"/{number}")
            assert client.getresponse().read() == f"page /{number}".encode() * 1000
        client.close()
        settled(service)


def test_a_half_close_is_passed_on(service: Daemon) -> None:
    with upstream(Digest) as address:
        start(service, address)
        with dial(service) as client:
            client.sendall(NOISE)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == f"20000000 {hashlib.sha256(NOISE).hexdigest()}".encode()
        settled(service)


def test_much_both_ways_at_once(service: Daemon) -> None:
    with upstream(Echo) as address:
        start(service, address)
        with dial(service) as client:

            def send() -> None:
                client.sendall(NOISE)
                client.shutdown(socket.SHUT_WR)

            thread = threading.Thread(target=send)
            thread.start()
            assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(NOISE).digest()
            thread.join()
        settled(service)


def test_a_client_that_does_not_read_slows_the_upstream(service: Daemon) -> None:
    with upstream(Echo) as address:
        start(service, address, "-w", "1")
        before = service.workers()[0]["rss_bytes"]
        with dial(service) as client:
            client.settimeout(0.3)
            sent = 0
            with pytest.raises(TimeoutError):
                while sent < len(NOISE) * 20:
                    sent += client.send(NOISE[:1_000_000])
            assert service.workers()[0]["rss_bytes"] < before + (32 << 20)
            with dial(service) as other:  # is served meanwhile
                other.sendall(b"x")
                assert other.recv(10) == b"x"
        settled(service)


def test_a_client_that_leaves_takes_its_upstream_along(service: Daemon) -> None:
    ended = threading.Semaphore(0)

    class Ends(Echo):
        def finish(self) -> None:
            ended.release()

    with upstream(Ends) as address:
        start(service, address)
        for _ in range(5):
            with dial(service) as client:
                client.sendall(b"x")
                assert client.recv(10) == b"x"
            assert ended.acquire(timeout=5)
        settled(service)


# ---- upstreams that are not there ---------------------------------------------------------


def closed_with(service: Daemon, line: str) -> None:
    """A client is closed, with this in the log; the worker goes on."""
    service.expected_errors = ["upstream .*; client closed"]
    pids = service.worker_pids()
    with dial(service) as client:
        client.sendall(b"x")
        try:
            assert read_all(client) == b""
        except ConnectionResetError:
            pass  # what it had sent was not read
    until(lambda: line in service.log(), f"{line!r} in the log: {service.log()}", 1.5)
    settled(service)
    assert service.worker_pids() == pids


def test_an_upstream_that_refuses(service: Daemon) -> None:
    address = refusing()
    start(service, address)
    closed_with(service, f"upstream {address}: Connection refused; client closed")


def test_an_upstream_whose_socket_file_is_missing(service: Daemon) -> None:
    path = service.dir / "none.sock"
    start(service, f"unix:{path}")
    closed_with(service, f"upstream unix:{path}: No such file or directory; client closed")


def test_an_upstream_whose_name_is_unknown(service: Daemon) -> None:
    start(service, "upstream.invalid:80")
    closed_with(service, "upstream upstream.invalid:80: ")
    assert "Unknown error" not in service.log()


def test_an_upstream_whose_name_cannot_be_one(service: Daemon) -> None:
    service.expected_errors = [""]
    start(service, "a..b:80", "--graceful-timeout", "500ms")
    with dial(service) as client:
        client.settimeout(1)
        assert client.recv(10) == b""
    until(lambda: "upstream a..b:80: " in service.log(), "the line in the log")


@pytest.mark.parametrize(
    "kind",
    [
        "tcp",
        "unix",
    ],
)
def test_an_upstream_that_never_answers(service: Daemon, kind: str) -> None:
    with full(kind, service.dir / "full.sock") as address:
        start(service, address, more=", connect_timeout=0.5")
        why = "no answer within 0.5 s; client closed" if kind == "tcp" else ""
        closed_with(service, f"upstream {address}: {why}")


def test_others_are_served_while_one_is_dialling(service: Daemon) -> None:
    """One worker, many dials that hang: none of them holds the loop."""
    with full("tcp", service.dir) as address:
        start(service, address, "-w", "1", more=", connect_timeout=0.5")
        service.expected_errors = ["upstream .*; client closed"]
        clients = [dial(service) for _ in range(20)]
        for client in clients:
            assert client.recv(10) == b""
            client.close()
        until(lambda: service.log().count("no answer within 0.5 s") == 20, "twenty lines")
        settled(service)


def test_a_client_that_leaves_during_the_dial(service: Daemon) -> None:
    with full("tcp", service.dir) as address:
        start(service, address, more=", connect_timeout=0.5")
        service.expected_errors = ["upstream .*; client closed"]
        for _ in range(5):
            dial(service).close()
        settled(service)
        assert len(service.workers()) == 2


def test_an_upstream_that_comes_back_is_used_again(service: Daemon) -> None:
    path = service.dir / "up.sock"
    start(service, f"unix:{path}")
    closed_with(service, "client closed")
    with upstream(Echo, path), dial(service) as client:
        client.sendall(b"x")
        assert client.recv(10) == b"x"


def test_its_log_has_the_format_of_all(service: Daemon) -> None:
    service.expected_errors = [""]
    start(service, f"unix:{service.dir}/nobody.sock", "--log-format", "json")
    with dial(service) as client:
        assert client.recv(10) == b""
    until(lambda: "client closed" in service.log(), "its line")
    lines = [json.loads(line) for line in service.log().splitlines()]
    (line,) = [line for line in lines if "client closed" in line["message"]]
    assert line["level"] == "error"


@pytest.mark.parametrize(
    "to",
    ["to('nonsense:port')", "to('127.0.0.1')", "to('fd://3')", "to()", "to('127.0.0.1:0')"],
)
def test_what_is_no_address_fails_the_start(service: Daemon, to: str) -> None:
    service.expected_errors = [""]
    done = service.run("start", *service.flags(app=f"forkd.app.relay:{to}"))
    assert done.returncode == 1
    assert "Error" in done.stderr
    assert not service.pidfile.exists()


class Header(socketserver.BaseRequestHandler):
    """Answers with what a header of the PROXY protocol says, and the bytes behind it."""

    def handle(self) -> None:
        data = b""
        while (found := parse(data)) is None:
            data += self.request.recv(65536)
        data = data[found.size :]
        while not data.endswith(b"\n"):
            data += self.request.recv(65536)
        self.request.sendall(repr((found.facts, data)).encode())


def test_the_upstream_can_be_told_who_the_client_is(service: Daemon, other: Daemon) -> None:
    """Also behind another proxy, whose facts are passed on."""
    with upstream(Header) as address:
        binds = ["-b", f"unix:{service.dir}/s", "-b", "127.0.0.1:0"]
        start(service, address, *binds, more=", proxy_protocol=True")
        tcp = service.live()["listeners"][1]["address"]
        host, _, port = tcp.rpartition(":")
        at = host, int(port)
        with socket.create_connection(at, 10) as client:
            client.sendall(b"hello\n")
            facts, data = ast.literal_eval(read_all(client).decode())
            source = client.getsockname()
        assert data == b"hello\n"
        assert facts == {"version": 2, "transport": "tcp4", "source": source, "destination": at}
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{service.dir}/s")
            client.sendall(b"hello\n")
            facts, data = ast.literal_eval(read_all(client).decode())
        assert (facts, data) == ({"version": 2, "transport": "local"}, b"hello\n")

        start(other, address, "--proxy-protocol", more=", proxy_protocol=True")
        said = ("2001:db8::7", 4000), ("2001:db8::1", 443)
        tlvs = ((5, b"id"), (0xE0, b""))
        with dial(other) as client:
            client.sendall(compose(said, ((4, b"fill"), *tlvs)) + b"hello\n")
            facts, data = ast.literal_eval(read_all(client).decode())
        assert data == b"hello\n"
        assert (facts["source"], facts["destination"], facts["tlvs"]) == (*said, tlvs)
