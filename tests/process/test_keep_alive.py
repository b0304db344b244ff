"""The keep-alive race: a request that was sent on a connection that the server still had is answered."""

from __future__ import annotations

import contextlib
import heapq
import random
import select
import signal
import socket
import time

import pytest

from .conftest import Daemon, until

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SEED = 7

#: An application that is held by name, until the test lets it go.
HELD = """
    import os, time

    def app(environ, start):
        name = environ["PATH_INFO"][1:]
        if name:
            open(name + "-held", "w").close()
        while name and not os.path.exists(name + "-let-go"):
            time.sleep(0.01)
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""


def shut(sock: socket.socket) -> bool:
    """Whether the server has closed the connection, as far as the client's kernel knows."""
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


class Visitors:
    """Clients that keep their connections, and ask at random instants. One thread, so that between
    the look for an EOF and the request there is nothing but two system calls."""

    def __init__(self, address: tuple[str, int], count: int, longest: float) -> None:
        self.answered = self.told_to_close = self.found_shut = 0
        self.lost: list[str] = []
        self._address = address
        self._longest = longest
        self._chance = random.Random(SEED)
        self._epoll = select.epoll()
        self._asked: dict[int, socket.socket] = {}
        self._due: list[tuple[float, int, socket.socket | None]] = []
        self._number = 0
        for _ in range(count):
            self._later(None)

    def visit(self, until: float) -> None:
        """Go on until then (CLOCK_MONOTONIC), and until all that was asked is answered."""
        while self._asked or time.monotonic() < until:
            now = time.monotonic()
            assert now < until + 10, f"{len(self._asked)} without an answer"
            while now < until and self._due[0][0] <= now:
                self._ask(heapq.heappop(self._due)[2])
            for fd, _ in self._epoll.poll(0.002):
                self._hear(self._asked.pop(fd))

    def close(self) -> None:
        self._epoll.close()
        for sock in [*self._asked.values(), *(sock for _, _, sock in self._due if sock)]:
            sock.close()

    def _later(self, sock: socket.socket | None) -> None:
        self._number += 1
        when = time.monotonic() + self._chance.uniform(0, self._longest)
        heapq.heappush(self._due, (when, self._number, sock))

    def _ask(self, sock: socket.socket | None) -> None:
        if sock is not None and shut(sock):
            self.found_shut += 1
            sock.close()
            sock = None
        if sock is None:
            sock = socket.create_connection(self._address, 10)
            sock.setblocking(False)
        sock.send(REQUEST)
        self._asked[sock.fileno()] = sock
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _hear(self, sock: socket.socket) -> None:
        self._epoll.unregister(sock.fileno())
        try:
            data = sock.recv(1000)
        except ConnectionResetError:
            data = b"reset"
        kept: socket.socket | None = sock
        if not data.startswith(b"HTTP/1.1 200 "):
            self.lost.append(data.decode() or "EOF")
        else:
            self.answered += 1
        if not data.startswith(b"HTTP/1.1 200 ") or b"Connection: close" in data:
            self.told_to_close += b"Connection: close" in data
            sock.close()
            kept = None
        self._later(kept)


@pytest.mark.parametrize(
    "flags",
    [
        ["-m", "leader-followers"],
        ["-m", "half-sync-half-async"],
        ["-m", "proactor"],
        # Nine seconds each: these with the long runs.
        *(
            pytest.param(["-m", *flags], marks=pytest.mark.soak)
            for flags in (
                ["leader-followers", "--threads", "3"],
                ["half-sync-half-reactive", "--threads", "3"],
                ["reactor", "--threads", "3"],
                ["process-per-connection"],
            )
        ),
    ],
    ids=" ".join,
)
def test_who_asks_at_any_instant_of_a_drain_is_answered(service: Daemon, flags: list[str]) -> None:
    service.start(*flags)
    count = 40 if "process-per-connection" in flags else 100
    with contextlib.closing(Visitors(service.address, count, longest=4.0)) as visitors:
        visitors.visit(time.monotonic() + 1)
        for _ in range(6):
            service.signal(signal.SIGHUP)
            visitors.visit(time.monotonic() + 0.7)
        visitors.visit(time.monotonic() + 3)  # the idle grace is over for all of them
    assert visitors.lost == []
    assert visitors.told_to_close
    assert visitors.found_shut
    assert visitors.answered > count


def test_a_request_that_came_while_the_worker_was_busy_beats_the_deadline(service: Daemon) -> None:
    """The deadline of an idle connection passes while its worker is inside the application, and its
    next request comes in the turn that finds it overdue."""
    service.write_app(HELD)
    service.start("-w", "1", "--keep-alive", "0.5")

    def held(name: str) -> None:
        until((service.dir / f"{name}-held").exists, f"the worker in {name}")

    with contextlib.ExitStack() as stack:
        first, second, kept = clients = [stack.enter_context(service.connect()) for _ in range(3)]
        for client in clients:
            client.sendall(REQUEST)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        first.sendall(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        held("first")
        second.sendall(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        # The deadline of `kept` passes, and the quarter of a second after which it counts.
        time.sleep(1)
        (service.dir / "first-let-go").touch()
        held("second")
        kept.sendall(REQUEST)
        (service.dir / "second-let-go").touch()
        assert kept.recv(1000).startswith(b"HTTP/1.1 200 ")
