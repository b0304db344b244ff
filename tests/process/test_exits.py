"""What ends a worker and what does not: the sentence in docs/fork-safety.md."""

from __future__ import annotations

import contextlib
import socket

import pytest

from .conftest import Daemon, until

SITE = """
    import sys

    def app(environ, start):
        if environ["PATH_INFO"] == "/exit":
            sys.exit(3)
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""

STREAMS = """
    import asyncio, socketserver, sys

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            if self.rfile.readline() == b"exit\\n":
                sys.exit(3)
            self.wfile.write(b"ok\\n")

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            if data == b"exit\\n":
                sys.exit(3)
            if data == b"later\\n":
                asyncio.get_running_loop().call_soon(sys.exit, 3)
            else:
                self.transport.write(b"ok\\n")
"""


@pytest.mark.parametrize("flags", [["--native"], ["--no-native"], ["--threads", "4"]], ids=" ".join)
def test_systemexit_in_a_request_is_a_500_and_the_worker_lives(service: Daemon, flags: list[str]) -> None:
    service.write_app(SITE)
    service.expected_errors = ["the application failed on GET /exit", "Traceback"]
    service.start("-w", "1", *flags)
    before = service.worker_pids()
    with contextlib.closing(service.client()) as client:
        for path, status in (("/", 200), ("/exit", 500)):
            client.request("GET", path)
            answer = client.getresponse()
            answer.read()
            assert answer.status == status
    assert service.get() == "ok"
    assert service.worker_pids() == before
    until(lambda: "SystemExit: 3" in service.log(), "its traceback")


def _say(service: Daemon, word: bytes) -> bytes:
    with service.connect() as client:
        client.sendall(word)
        client.shutdown(socket.SHUT_WR)
        return client.recv(100)


def _find(service: Daemon) -> None:
    """A stream's address is not a URL in the log."""
    address = service.live()["listeners"][0]["address"].rpartition(":")
    service.connect = lambda timeout=10.0: socket.create_connection(  # type: ignore[method-assign]
        (address[0], int(address[2])), timeout
    )


@pytest.mark.parametrize("app", ["streams:Handler", "streams:Protocol"])
def test_in_a_handler_it_ends_the_stream_and_the_worker_lives(service: Daemon, app: str) -> None:
    service.write_app(STREAMS, name="streams.py")
    service.expected_errors = ["failed; its connection", "Traceback"]
    service.start("-w", "1", "-k", "stream", app=app)
    _find(service)
    before = service.worker_pids()
    assert _say(service, b"exit\n") == b""
    assert _say(service, b"hello\n") == b"ok\n"
    assert service.worker_pids() == before
    if app == "streams:Protocol":
        service.expected_errors.append(r"worker 1 \(pid \d+\) gone: error")
        assert _say(service, b"later\n") == b""
        until(lambda: service.worker_pids() not in ([], before), "another worker")
        assert _say(service, b"hello\n") == b"ok\n"


TASKS = """
    import asyncio

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            asyncio.ensure_future(wait())

        def data_received(self, data):
            pass

    async def wait():
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.001)  # what ends a task may need the loop, too
            print("put away", flush=True)
"""


@pytest.mark.parametrize("model", ["leader-followers", "proactor"])
def test_tasks_that_are_left_at_the_end_are_cancelled(service: Daemon, model: str) -> None:
    service.write_app(TASKS)
    service.start("-w", "1", "-m", model, app="app:Protocol")
    _find(service)
    for generation in (2, 3):
        with service.connect() as client:
            client.sendall(b"x")
            until(lambda: service.workers()[0]["connections"], "the client is served")
        assert service.ok("reload") == f"generation {generation} serves\n"
    until(lambda: service.log().count("put away") == 2, "both tasks")
    with service.connect():
        until(lambda: service.workers()[0]["connections"], "the client is served")
    service.ok("stop")
    until(lambda: service.log().count("put away") == 3, "the third")
    assert service.log().count("gone: error") == 0
