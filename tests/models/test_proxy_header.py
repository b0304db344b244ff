"""Listeners whose connections begin with a header of the PROXY protocol: under every model, with native code
and without, for requests and streams."""

from __future__ import annotations

import ast
import contextlib
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.clients import connected
from tests.process.conftest import Daemon
from tests.session.test_proxy_protocol import (
    BAD,
    ENDS4,
    GOOD,
    OTHER,
    SIGNATURE,
    V4,
    binary,
    parse,
    tcp4,
    tlv,
)

from .test_begin import both_ways

APP = """
    import asyncio, socketserver

    def wsgi_(environ, start):
        environ["wsgi.input"].read()
        ends = [environ[name] for name in ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT")]
        ends = (ends[0], int(ends[1])), (ends[2], int(ends[3]))
        body = repr((ends, environ["forkd.proxy"], environ["wsgi.url_scheme"])).encode()
        environ["forkd.proxy"].get("ssl", {}).clear()  # is of this request alone
        environ["forkd.proxy"].clear()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    class socketserver_(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                seen = (self.client_address, self.server.server_address), self.server.forkd_proxy
                self.wfile.write(repr(seen).encode() + b"\\n")

    class asyncio_(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            facts = map(self.transport.get_extra_info, ("peername", "sockname", "proxy"))
            peer, sock, proxy = facts
            for _ in range(data.count(b"\\n")):
                self.transport.write(repr(((peer, sock), proxy)).encode() + b"\\n")
"""
HEADERS = [
    *(row for row in GOOD if len(row[1]) < 1000),
    ("v2 tcp4, with much", tcp4(tlv(0xE0, bytes(65000))), ENDS4, {}),
]
SHORT = [b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n", tcp4(tlv(5, b"id")), binary(0x20, 0x11, V4)]
REFUSED = [("malformed", row[1]) for row in BAD] + [("missing", data) for data in OTHER]


class Front:
    def __init__(self, daemon: Daemon, interface: str) -> None:
        self.daemon = daemon
        self.http = interface == "wsgi"
        tcp, unix = (x["address"] for x in daemon.live()["listeners"])
        self.path = unix.removeprefix("unix:")
        host, _, port = tcp.rpartition(":")
        self.address = host, int(port)

    def request(self) -> bytes:
        return b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n\r\n" if self.http else b"line\n"

    def client(self, unix: bool = False) -> socket.socket:
        return connected(self.path if unix else self.address)

    def answer(self, file: Any) -> Any:
        """What the application has seen."""
        line = file.readline()
        if not self.http:
            return (*ast.literal_eval(line.decode()), "http")
        assert line == b"HTTP/1.1 200 OK\r\n"
        size = 0
        while (line := file.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        return ast.literal_eval(file.read(size).decode())

    def expected(self, header: bytes, sock: socket.socket) -> Any:
        found = parse(header)
        assert found is not None
        unix = sock.family == socket.AF_UNIX
        peer = ("", 0) if unix else sock.getsockname()
        real = peer, (("localhost", 80) if unix else self.address)
        tls = self.http and found.facts.get("ssl", {}).get("tls")
        return found.ends or real, {**found.facts, "peer": peer}, "https" if tls else "http"


@pytest.fixture(scope="module")
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    (model, io, interface, threads), native = request.param
    daemon = Daemon(tmp_path_factory.mktemp("proxy"))
    daemon.write_app(APP)
    flags = ["-m", model, "--io", io, "--threads", str(threads), "-w", "2", "--proxy-protocol"]
    flags += ["-b", "127.0.0.1:0", "-b", f"unix:{daemon.dir}/s"]
    daemon.start(*flags, "--native" if native else "--no-native", app=f"app:{interface}_")
    yield Front(daemon, interface)
    daemon.finish()


serving = pytest.mark.parametrize("front", both_ways(), indirect=True)


@serving
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_the_application_sees_what_it_says(front: Front, unix: bool) -> None:
    for name, header, _, _ in HEADERS:
        with front.client(unix) as sock, sock.makefile("rb") as file:
            sock.sendall(header + front.request() + front.request())
            expected = front.expected(header, sock)
            for _ in range(2):
                assert front.answer(file) == expected, name
            sock.sendall(front.request())
            assert front.answer(file) == expected, name


@serving
def test_it_may_be_split_anywhere(front: Front) -> None:
    for header in SHORT:
        whole = header + front.request()
        for at in range(1, len(header) + 2):
            with front.client() as sock, sock.makefile("rb") as file:
                sock.sendall(whole[:at])
                # No client sees when its first piece was received: so now and then a request comes between.
                # Not where a handler may have the worker already, which serves one client at a time.
                if at % 7 == 0 and at < len(header):
                    with front.client() as other, other.makefile("rb") as others:
                        other.sendall(whole)
                        front.answer(others)
                sock.sendall(whole[at:])
                assert front.answer(file) == front.expected(header, sock), at


@serving
def test_a_connection_without_a_good_one_is_closed_and_nothing_is_sent(front: Front) -> None:
    name = "forkd_proxy_headers_refused_total"
    before = {reason: front.daemon.metric(name, reason=reason) for reason in ("malformed", "missing")}
    requests = front.daemon.metric("forkd_requests_total")
    for reason, data in REFUSED:
        with front.client() as sock:
            sock.sendall(data + front.request())
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b"", (reason, data)
    for reason, count in before.items():
        new = sum(reason == each for each, _ in REFUSED)
        front.daemon.settles(count + new, name, reason=reason)
    for end in (b"", SIGNATURE, tcp4()[:-1], b"PROXY UNKNOWN\r"):
        with front.client() as sock:
            sock.sendall(end)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
    front.daemon.settles(3, name, reason="incomplete")
    front.daemon.settles(0, "forkd_connections")
    assert front.daemon.metric("forkd_requests_total") == requests
    warnings = front.daemon.log().count("(forkd_proxy_headers_refused_total)")
    assert 1 <= warnings <= 2  # one for each worker, within a minute
    with front.client() as sock, sock.makefile("rb") as file:
        sock.sendall(tcp4() + front.request())
        assert front.answer(file)[0] == ENDS4




NATIVE = pytest.param((("leader-followers", "epoll", "wsgi", 1), True), id="native")


@pytest.mark.parametrize("front", [NATIVE], indirect=True)
def test_native_code_reads_what_is_usual_as_python_does(front: Front) -> None:
    """Any address, and whatever becomes of the connection: it ends, is kept, or the next is unusual."""
    chance = random.Random(7)
    starts = (b"", b"\0" * 12, b"\0" * 10 + b"\xff\xff", b"\x20\x01\x0d\xb8", b"\xfe\x80", b"\0" * 15)
    for number in range(600):
        kind, size = chance.choice(((0x11, 4), (0x21, 16)))
        hosts = ((chance.choice(starts) + chance.randbytes(16))[:size] for _ in range(2))
        header = binary(0x21, kind, b"".join(hosts) + chance.randbytes(4))
        usual = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
        with front.client(unix=number % 5 == 0) as sock, sock.makefile("rb") as file:
            expected = front.expected(header, sock)
            match number % 3:
                case 0:
                    sock.sendall(header + usual.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                case 1:
                    sock.sendall(header + usual)
                    assert front.answer(file) == expected
                    sock.sendall(usual if number % 2 else front.request())
                case 2:
                    sock.sendall(header + front.request() + usual)
                    assert front.answer(file) == expected
            assert front.answer(file) == expected
