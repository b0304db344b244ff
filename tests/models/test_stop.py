"""A stop while clients come all the time: those that were here are answered, and none holds the stop up.

Each client that has sent its request to a connection that was there before the stop is answered, from the
accept queue too; who comes later is answered, or sent away at once. The listener does not stay open for them:
clients that come back as soon as they are answered would hold it open for ever. All models, with every io.
"""

from __future__ import annotations

import signal
import socket
import threading
import time

import pytest

from forkd.models import registry
from tests.process.clients import Crew
from tests.process.conftest import Daemon, alive, until

#: So long that whatever ends by it has not ended by itself.
GRACEFUL_SECONDS = 120
#: Until when the service is gone all the same, on a busy machine.
GENEROUS_SECONDS = 40

WAYS = [
    *(["-m", row.name, "--io", io] for row in registry.MODELS for io in row.ios),
    ["--threads", "4"],
    ["--no-native"],
    ["--accept", "exclusive"],
    ["--accept", "reuseport"],
    ["-m", "proactor", "--threads", "4"],
    ["-m", "proactor", "--no-native"],
    ["-m", "half-sync-half-async", "--dispatch", "competition"],
]

CLIENTS = 48

#: So slow that one child is busy all the time, and a queue builds up.
APP = """
    import time

    def app(environ, start):
        time.sleep(0.02)
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""


class Clients(Crew):
    """Some that connect anew for each request, and some that keep their connections."""

    def __init__(self, address: tuple[str, int], *, fresh: int, keep: int) -> None:
        super().__init__()
        self._address = address
        self.stopping = float("inf")  # when the signal was about to be sent, monotonic
        self.answered = 0
        self.newcomers = 0  # answered, though they came after that
        self.unanswered: list[str] = []  # of those that had to be
        self.stuck: list[str] = []  # had neither an answer nor an end
        self._threads = [
            threading.Thread(target=self._run, args=(n < keep,)) for n in range(fresh + keep)
        ]

    def _run(self, keep: bool) -> None:
        request = (
            b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"" if keep else b"Connection: close\r\n") + b"\r\n"
        )
        while not self._ending.is_set():
            try:
                with socket.create_connection(self._address, GENEROUS_SECONDS) as sock:
                    late = time.monotonic() >= self.stopping
                    self.newcomers += self._converse(sock, request, keep) and late
            except TimeoutError as error:
                self.stuck.append(f"connect: {error!r}")
            except OSError:
                time.sleep(0.01)  # refused: it has gone

    def _converse(self, sock: socket.socket, request: bytes, keep: bool) -> bool:
        """Whether it was answered."""
        answered = False
        while not self._ending.is_set():
            data, sent = b"", False
            try:
                sock.sendall(request)
                sent = time.monotonic() < self.stopping
                while not data.endswith(b"\r\n\r\nok"):
                    more = sock.recv(1000)
                    if not more:
                        raise ConnectionResetError("closed")
                    data += more
            except TimeoutError as error:
                self.stuck.append(repr(error))
                break
            except OSError as error:
                if sent:
                    self.unanswered.append(f"{error!r} after {data!r}")
                break
            answered = True
            self.answered += 1
            if not keep or b"connection: close" in data.lower():
                break
        return answered


@pytest.mark.parametrize("flags", WAYS, ids=" ".join)
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.soak)])
def test_a_stop_under_load(service: Daemon, flags: list[str], workers: str) -> None:
    service.write_app(APP)
    service.start(*flags, "-w", workers, "--graceful-timeout", str(GRACEFUL_SECONDS))
    pid = service.pid
    with Clients(service.address, fresh=CLIENTS, keep=8) as clients:
        until(lambda: clients.answered > 100, "load", GENEROUS_SECONDS)
        clients.stopping = time.monotonic()
        service.signal(signal.SIGTERM)
        until(lambda: not alive(pid), f"the end: {service.log()}", GENEROUS_SECONDS)
    assert not clients.unanswered
    assert not clients.stuck
    assert clients.newcomers <= CLIENTS, "the listener was open for those who came again"
    assert "killed" not in service.log()
