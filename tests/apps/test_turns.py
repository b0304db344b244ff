"""A client that never lets its session wait holds neither the other clients nor the master."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.process.conftest import Daemon, until

#: Says how many requests it has had; each takes a millisecond. /endless answers without end.
APP = """
    import time
    served = 0
    def app(environ, start):
        global served
        served += 1
        time.sleep(0.001)
        if environ["PATH_INFO"] == "/endless":
            start("200 OK", [])
            return iter(lambda: b"piece", None)
        body = str(served).encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
MANY = 2000  # of these fit into one recv(2)


class Reader(threading.Thread):
    """Reads all that comes, as fast as it can, until the server ends it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.sock = sock
        self.data = bytearray()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while piece := self.sock.recv(1 << 20):
                self.data += piece


@contextlib.contextmanager
def reading(service: Daemon, request: bytes) -> Iterator[Reader]:
    """A client that has sent this, and whose first answer has begun."""
    with service.connect(timeout=60) as sock:
        reader = Reader(sock)
        reader.start()
        sock.sendall(request)
        until(lambda: reader.data, "the first of an answer")
        yield reader
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        reader.join()


MODELS = [
    ["-m", "leader-followers"],
    ["-m", "leader-followers", "--io", "sigio"],
    ["-m", "leader-followers", "--threads", "2"],
    ["-m", "half-sync-half-async"],
    ["-m", "half-sync-half-reactive", "--threads", "1"],
    ["-m", "proactor"],
]


@pytest.mark.parametrize("model", MODELS, ids=" ".join)
def test_a_client_that_pipelines_lets_others_have_their_turn(
    service: Daemon, model: list[str]
) -> None:
    service.write_app(APP)
    service.start(*model, "-w", "1")
    with reading(service, REQUEST * MANY) as reader:
        assert int(service.get()) < MANY / 2
        until(lambda: reader.data.count(b"HTTP/1.1 200 OK") == MANY, "all answers", 60)


@pytest.mark.parametrize("model", MODELS, ids=" ".join)
def test_an_endless_answer_lets_others_have_their_turn(service: Daemon, model: list[str]) -> None:
    service.write_app(APP)
    service.start(*model, "-w", "1", "--graceful-timeout", "500ms")
    with reading(service, b"GET /endless HTTP/1.0\r\n\r\n"):
        assert int(service.get()) == 2


@pytest.mark.parametrize(
    "model", [*MODELS, ["--io", "blocking"], ["-m", "process-per-connection"]], ids=" ".join
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_master_is_heard_meanwhile(
    service: Daemon, model: list[str], number: signal.Signals
) -> None:
    """The pipeline is cut at an answer that says so, and what was not answered was not done."""
    service.write_app(APP)
    service.start(*model, "-w", "1")
    with reading(service, REQUEST * MANY) as reader:
        service.signal(number)
        reader.join(30)
        assert not reader.is_alive()
        answers = re.findall(rb"HTTP/1\.1 200 OK\r\n((?:.+\r\n)+)\r\n(\d+)", bytes(reader.data))
        assert [int(count) for _, count in answers] == list(range(1, len(answers) + 1))
        assert len(answers) < MANY
        assert [b"Connection: close" in head for head, _ in answers].index(True) == len(answers) - 1


def test_blocking_io_lingers_for_two_seconds_in_all(service: Daemon) -> None:
    """A client that was refused and goes on sending holds its child no longer."""
    service.start("-w", "1", "--io", "blocking")
    ended = threading.Event()
    with service.connect() as client:

        def trickle() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.3):
                    client.sendall(b"x")

        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400")
        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            assert service.get() == "v1"
        finally:
            ended.set()
            sender.join()
