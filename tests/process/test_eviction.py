"""Idle connections make room, the one that has been idle for the longest first; others do not."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import time

import pytest

from .conftest import Daemon, until

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

MODELS = [
    ("leader-followers", "--native"),
    ("leader-followers", "--no-native"),
    ("leader-followers", "--threads=4"),
    ("leader-followers", "--accept=exclusive"),
    ("half-sync-half-async", "--native"),
    ("half-sync-half-reactive", "--threads=4"),
    ("reactor", "--threads=4"),
    ("simulated-proactor", "--threads=4"),
    ("proactor", "--native"),
    ("proactor", "--no-native"),
    ("proactor", "--threads=4"),
]


def ask(client: socket.socket) -> bytes:
    client.sendall(REQUEST)
    return answer(client)


def answer(client: socket.socket) -> bytes:
    found = http.client.HTTPResponse(client)
    found.begin()
    assert found.status == 200
    return found.read()


@pytest.mark.parametrize(("model", "flag"), MODELS)
def test_the_one_that_has_been_idle_for_the_longest_makes_room(
    service: Daemon, model: str, flag: str
) -> None:
    service.start("-m", model, flag, "-w", "1", "--worker-connections", "5")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(4)]
        for client in clients:
            assert ask(client) == b"v1"
        assert ask(clients[0]) == b"v1"  # now the second one has been idle for longest
        new = stack.enter_context(service.connect())
        assert ask(new) == b"v1"
        assert clients[1].recv(1) == b""  # in order, without a reset
        for client in (clients[0], clients[2], clients[3], new):
            assert ask(client) == b"v1"
        service.settles(1, "forkd_connections_evicted_total")
        for _ in range(20):
            assert ask(stack.enter_context(service.connect())) == b"v1"
        until(lambda: service.metric("forkd_connections_evicted_total") == 21, "the count")


@pytest.mark.parametrize("io", ["aio", "io_uring"])
def test_one_whose_request_has_been_received_makes_no_room(service: Daemon, io: str) -> None:
    """An operation may have taken the request out of the socket, and nobody has been told of that yet. All
    requests are there before the worker accepts: one that has nothing of a first request may make room."""
    service.start("-m", "proactor", "--io", io, "-w", "1", "--worker-connections", "5")
    (worker,) = service.worker_pids()
    for _ in range(25):
        with contextlib.ExitStack() as stack:
            os.kill(worker, signal.SIGSTOP)
            clients = [stack.enter_context(service.connect()) for _ in range(16)]
            for client in clients:
                client.sendall(REQUEST)
            os.kill(worker, signal.SIGCONT)
            assert [answer(client) for client in clients] == [b"v1"] * 16


def test_a_process_for_each_connection_makes_room_as_well(service: Daemon) -> None:
    service.start("-m", "process-per-connection", "-w", "1", "--worker-connections", "3")
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            assert ask(stack.enter_context(service.connect())) == b"v1"
        until(lambda: service.metric("forkd_connections_evicted_total") >= 3, "evictions are counted")


@pytest.mark.parametrize("model", ["leader-followers", "half-sync-half-async", "proactor"])
def test_when_none_is_idle_it_says_so(service: Daemon, model: str) -> None:
    service.start("-m", model, "-w", "1", "--worker-connections", "3")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(3)]
        for client in clients:
            client.sendall(REQUEST[:9])
        until(lambda: service.metric("forkd_workers_full") == 1, "the figure")
        until(lambda: service.admin("/readyz")[0] == 503, "/readyz")
        text = "all 1 workers have --worker-connections connections, and none is idle"
        assert text in service.admin("/readyz")[1]
        assert service.live()["workers"][0]["full_for"] > 1.0
        said = "all 3 --worker-connections are taken, and none is idle"
        until(lambda: said in service.log(), "it is said")
        service.settles(0, "forkd_connections_evicted_total")
        new = stack.enter_context(service.connect())
        new.sendall(REQUEST)
        began = time.monotonic()
        clients[0].sendall(REQUEST[9:])
        assert clients[0].recv(1000).startswith(b"HTTP/1.1 200 ")  # idle from here on
        assert new.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - began < 5
        until(lambda: service.admin("/readyz")[0] == 200, "/readyz")
        until(lambda: service.metric("forkd_workers_full") == 0, "the figure")
