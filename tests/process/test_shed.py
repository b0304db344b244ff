"""--shed-after: what has waited too long is answered 503 at once, under every model."""

from __future__ import annotations

import contextlib
import http.client
import re
import select
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from forkd.models import registry
from forkd.native import native

from .conftest import Daemon, until

#: An application that is held until the test lets it go, and says which requests reached it.
APP = """
    import os, time

    def app(environ, start):
        path = environ["PATH_INFO"]
        with open("reached", "a") as file:
            file.write(path + "\\n")
        while path == "/hold" and not os.path.exists("let-go"):
            time.sleep(0.01)
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""

LIMIT = 0.3
ACCESS = ("--access-log", "access.log")
CELLS = [
    pytest.param(row.name, io, marks=[pytest.mark.soak] if io != row.ios[0] else [])
    for row in registry.MODELS
    for io in {row.ios[0]: 0, row.ios[-1]: 0}
]


@pytest.fixture
def held(service: Daemon) -> Daemon:
    service.write_app(APP)
    return service


@contextlib.contextmanager
def busy(service: Daemon, requests: int = 1) -> Iterator[None]:
    """So many requests hold all threads of the only worker meanwhile. (One that was answered may be in flight
    for a moment more, so it is the application that says who holds them.)"""
    reached = service.dir / "reached"
    with contextlib.ExitStack() as stack:
        for number in range(requests):
            until(partial(_holds, service, stack, reached, number + 1), "held", 20)
        yield
        time.sleep(2 * LIMIT)  # no guess: it is the age that what is sent so far has to reach
        (service.dir / "let-go").touch()


def _holds(service: Daemon, stack: contextlib.ExitStack, reached: Path, number: int) -> bool:
    """Send a request that holds a thread. Whether it does: on a busy machine it may have waited for too long
    itself, and be shed."""
    client = stack.enter_context(service.connect(10))
    client.sendall(request("/hold"))
    while not (reached.exists() and reached.read_text().count("/hold") >= number):
        if select.select([client], [], [], 0.01)[0]:
            return False
    return True


def request(path: str) -> bytes:
    fields = "Host: a\r\nReferer: http://r/\r\nUser-Agent: curl\r\n"
    return f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode()


def answer(client: socket.socket) -> http.client.HTTPResponse:
    found = http.client.HTTPResponse(client)
    found.begin()
    found.read()
    return found


@pytest.mark.parametrize(("model", "io"), CELLS)
def test_what_has_waited_too_long_is_answered_503(held: Daemon, model: str, io: str) -> None:
    # One client at a time. Where each has its process, only the limit of connections makes one wait.
    row = registry.get(model)
    alone = row.forks or io == "blocking"
    flags = ["--worker-connections", "1"] if row.forks else []
    held.start("-w", "1", "-m", model, "--io", io, "--shed-after", str(LIMIT), *flags, *ACCESS)
    sizes = set()
    with contextlib.ExitStack() as stack:
        late = [] if alone else [stack.enter_context(held.connect())]
        for kept in late:
            kept.sendall(request("/"))
            assert answer(kept).status == 200
        with busy(held):
            late.append(stack.enter_context(held.connect()))
            for client in late:
                client.sendall(request("/late"))
        for client in late:
            found = answer(client)
            assert (found.status, found.getheader("Retry-After")) == (503, "1")
            assert found.getheader("Connection") == "close"
            sizes.add(found.getheader("Content-Length"))
            assert client.recv(1) == b""
    assert "/late" not in (held.dir / "reached").read_text()
    held.settles(len(late), "forkd_requests_shed_total")
    held.settles(len(late), "forkd_requests_refused_total", reason="overload")
    held.settles(len(late), "forkd_requests_refused_total")
    held.settles(len(late), "forkd_requests_total", code="503")
    log = held.dir / "access.log"
    until(lambda: log.read_text().count("/late") == len(late), "their lines")
    lines = re.findall(r'"GET /late HTTP/1.1" 503 (\d+) "http://r/" "curl"', log.read_text())
    assert len(lines) == len(late)
    assert set(lines) <= sizes

    def served() -> bool:
        with held.connect() as client:
            client.sendall(request("/new"))
            return answer(client).status == 200

    until(served, "a request that had not to wait")


def test_all_threads_of_leader_followers_are_busy(held: Daemon) -> None:
    held.start("-w", "1", "--threads", "2", "--shed-after", str(LIMIT))
    with held.connect() as client:
        with busy(held, 2):
            client.sendall(request("/late"))
        assert answer(client).status == 503
    held.settles(1, "forkd_requests_shed_total")


def test_within_the_limit_nothing_is_shed(held: Daemon) -> None:
    held.start("-w", "1", "--shed-after", "60")
    with held.connect() as client:
        with busy(held):
            client.sendall(request("/late"))
        assert answer(client).status == 200
    held.settles(0, "forkd_requests_shed_total")


@pytest.mark.parametrize(
    ("model", "status"), [("half-sync-half-reactive", 503), ("leader-followers", 200)]
)
def test_over_a_unix_socket_only_the_time_in_the_request_queue_is_known(
    held: Daemon, model: str, status: int
) -> None:
    path = str(held.dir / "s.sock")
    held.start(
        "-w",
        "1",
        "-m",
        model,
        "-b",
        "127.0.0.1:0",
        "-b",
        f"unix:{path}",
        "--shed-after",
        str(LIMIT),
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        with busy(held):
            client.connect(path)
            client.sendall(request("/late"))
        assert answer(client).status == status


@pytest.mark.parametrize("how", ["--native", "--no-native"])
def test_a_wait_for_a_thread_is_not_one_of_the_next_request(held: Daemon, how: str) -> None:
    """Over a unix socket, where nothing else is known."""
    path = str(held.dir / "s.sock")
    binds = ["-b", "127.0.0.1:0", "-b", f"unix:{path}"]
    held.start("-w", "1", "--threads", "2", "--shed-after", "1", how, *binds)
    with socket.socket(socket.AF_UNIX) as client, contextlib.ExitStack() as stack:
        client.settimeout(10)
        client.connect(path)
        reached = held.dir / "reached"
        for number in range(2):
            until(partial(_holds, held, stack, reached, number + 1), "held", 20)
        client.sendall(request("/queued"))
        time.sleep(0.1)  # less than the limit, and more than it takes to be queued
        (held.dir / "let-go").touch()
        assert answer(client).status == 200
        time.sleep(1.1)  # more than the limit
        client.sendall(request("/next"))
        assert answer(client).status == 200


def test_a_shortcut_serves_where_there_is_a_limit(held: Daemon) -> None:
    """Native code looks at the age of a request itself, and needs no session for one that is in time."""
    sessions = """
    from forkd.session.http1 import Http1

    def counted(self, *arguments, _session=Http1.session):
        with open("sessions", "a") as file:
            file.write("x")
        return _session(self, *arguments)

    Http1.session = counted
"""
    held.write_app(APP + sessions)
    held.start("-w", "1", "--shed-after", str(LIMIT))
    for _ in range(20):
        with held.connect() as client:
            client.sendall(request("/").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert answer(client).status == 200
    made = len((held.dir / "sessions").read_text()) if (held.dir / "sessions").exists() else 0
    assert made == (0 if native is not None else 20)
