"""Handlers of the standard library, unchanged, under every model and io that can carry them."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from tests.process.conftest import Daemon, until

from .conftest import cells

APP = """
    import asyncio, socketserver

    class socketserver_(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line.upper())

    class asyncio_(asyncio.Protocol):
        def connection_made(self, transport): self.transport, self.data = transport, b""
        def data_received(self, data):
            self.data += data
            *lines, self.data = self.data.split(b"\\n")
            for line in lines: self.transport.write(line.upper() + b"\\n")

    async def asgi_(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"by asgi"})
"""


@pytest.fixture
def stream(request: pytest.FixtureRequest, service: Daemon) -> Daemon:
    model, io, interface, threads = request.param
    service.write_app(APP)
    flags = ["-m", model, "--io", io, "--threads", str(threads), "-w", "2"]
    service.start(*flags, app=f"app:{interface}_")
    return service


serving = pytest.mark.parametrize("stream", cells("socketserver", "asyncio"), indirect=True)


def address(stream: Daemon) -> tuple[str, int]:
    host, _, port = stream.live()["listeners"][0]["address"].rpartition(":")
    return host, int(port)


@serving
def test_lines_come_back_and_big_ones_whole(stream: Daemon) -> None:
    with socket.create_connection(address(stream), 10) as client:
        file = client.makefile("rwb")
        for line in (b"hello\n", b"x" * 500_000 + b"\n", b"again\n"):
            file.write(line)
            file.flush()
            assert file.readline() == line.upper()
        file.close()
    until(lambda: stream.metric("forkd_connections") == 0, "the client has gone")
    assert stream.metric("forkd_received_bytes_total") == 6 + 500_001 + 6
    assert stream.metric("forkd_sent_bytes_total") == 6 + 500_001 + 6


@serving
def test_clients_that_leave_leave_nothing(stream: Daemon) -> None:
    for _ in range(10):
        with socket.create_connection(address(stream), 10) as client:
            client.sendall(b"half a line")
    until(lambda: stream.metric("forkd_connections") == 0, "no connection")


@serving
def test_a_client_that_does_not_read_is_bounded(stream: Daemon) -> None:
    with socket.create_connection(address(stream), 10) as client:
        client.settimeout(0.5)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += client.send((b"x" * 1023 + b"\n") * 64)
        except TimeoutError:
            pass  # backpressure reached us
        assert max(w["rss_bytes"] for w in stream.workers()) < 160 << 20


@serving
def test_several_clients_are_served_by_all_children(stream: Daemon) -> None:
    answers = []

    def client() -> None:
        with socket.create_connection(address(stream), 10) as sock:
            for _ in range(5):
                sock.sendall(b"abc\n")
                answers.append(sock.recv(100))

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers == [b"ABC\n"] * 20


@pytest.mark.parametrize("stream", cells("asgi"), indirect=True)
def test_asgi_where_there_is_a_loop(stream: Daemon) -> None:
    for _ in range(5):
        assert stream.get() == "by asgi"


@pytest.mark.parametrize("cell", cells("wsgi", "socketserver", "asyncio", "asgi", refused=True))
def test_what_makes_no_sense_is_refused_with_the_reason(
    cell: tuple[str, str, str, int],
    service: Daemon,
) -> None:
    model, io, interface, threads = cell
    service.expected_errors = [""]
    service.write_app(APP)
    flags = ["-m", model, "--io", io, "--threads", str(threads)]
    done = service.run("start", *service.flags(*flags, app=f"app:{interface}_"))
    assert done.returncode in (1, 2)
    assert "event loop" in done.stderr or "use " in done.stderr
    assert not service.pidfile.exists()
    assert os.listdir(service.dir)


@pytest.mark.parametrize("flags", [(), ("--no-native",), ("--io", "sigio")])
def test_a_protocol_that_greets_hears_a_client_that_waits_for_it(
    service: Daemon, flags: tuple[str, ...]
) -> None:
    service.write_app("""
        import asyncio

        class Greeting(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
                transport.write(b"hello\\n")

            def data_received(self, data):
                self.transport.write(data.upper())
    """)
    service.start(*flags, "-w", "1", app="app:Greeting")
    with socket.create_connection(address(service), 10) as client, client.makefile("rb") as lines:
        assert lines.readline() == b"hello\n"
        client.sendall(b"abc\n")
        assert lines.readline() == b"ABC\n"
