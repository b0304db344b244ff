"""Threads of leader-followers: how many are in the application, and which requests wait for others."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading

import pytest

from .conftest import Daemon, until

#: /held takes 5 ms, or until it is let go while there is a file `hold`. Every answer names the process.
APP = """
    import os, threading, time

    lock, inside, most = threading.Lock(), 0, 0

    def app(environ, start):
        global inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        path = environ["PATH_INFO"]
        if path.startswith("/held"):
            time.sleep(0.005)
            while os.path.exists("hold"):
                time.sleep(0.001)
        elif path == "/nap":
            time.sleep(0.002)
        body = str(most if path == "/most" else os.getpid()).encode()
        with lock:
            inside -= 1
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body] if path != "/pieces" else iter([body])
"""

NATIVE = pytest.mark.parametrize("native", ["--native", "--no-native"])


@pytest.fixture
def held(service: Daemon) -> Daemon:
    service.write_app(APP)
    return service


def ask(client: socket.socket, path: str) -> None:
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())


def answer(client: socket.socket) -> bytes:
    found = http.client.HTTPResponse(client)
    found.begin()
    assert found.status == 200
    return found.read()


def in_flight(service: Daemon) -> int:
    return sum(worker["in_flight"] for worker in service.live()["workers"])


@pytest.mark.alone  # what takes long is told by how long the rest takes
@NATIVE
def test_what_takes_long_leaves_a_thread_for_the_others(held: Daemon, native: str) -> None:
    held.start("-w", "1", "--threads", "4", native)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(held.connect()) for _ in range(8)]
        other = stack.enter_context(held.connect())
        for n in range(40):  # it is known by then
            for path in ("/", f"/held/{n}") if n % 8 == 0 else ("/",):
                ask(other, path)
                answer(other)
        (held.dir / "hold").touch()
        for n, client in enumerate(clients):
            ask(client, f"/held/{n}")
        until(lambda: in_flight(held) == 3, "all threads but one")
        for _ in range(20):
            for path in ("/", "/pieces"):
                ask(other, path)
                answer(other)
            with held.connect() as new:
                ask(new, "/")
                answer(new)
        assert in_flight(held) == 3
        (held.dir / "hold").unlink()
        for client in clients:
            answer(client)
        ask(other, "/most")
        assert answer(other) == b"4"


@NATIVE
def test_no_more_requests_than_threads_are_in_the_application(held: Daemon, native: str) -> None:
    held.start("-w", "1", "--threads", "3", native)

    def client(path: str) -> None:
        with held.connect() as sock:
            for _ in range(60):
                ask(sock, path)
                answer(sock)

    paths = ["/nap", "/held", "/", "/pieces"] * 3
    threads = [threading.Thread(target=client, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held.get("/most") == "3"
    held.settles(60 * len(paths) + 1, "forkd_requests_total", code="200")


@pytest.mark.alone  # a leader that is slow to wake is passed over, and the other gets more than its share
def test_new_connections_go_to_a_worker_that_has_a_thread(held: Daemon) -> None:
    held.start("-w", "2", "--threads", "2")
    with contextlib.ExitStack() as stack:
        by_worker: dict[bytes, list[socket.socket]] = {}
        for _ in range(6):
            client = stack.enter_context(held.connect())
            ask(client, "/")
            by_worker.setdefault(answer(client), []).append(client)
        (held.dir / "hold").touch()
        taken, clients = by_worker.popitem()
        assert len(clients) == 3
        for client in clients[:2]:
            ask(client, "/held")
        until(lambda: in_flight(held) == 2, "all threads of one worker")
        for _ in range(8):  # by its connections it is the other's turn soon, and then each time
            client = stack.enter_context(held.connect())
            ask(client, "/")
            assert answer(client) != taken
        (held.dir / "hold").unlink()
        for client in clients[:2]:
            assert answer(client) == taken


def test_who_comes_while_all_threads_are_taken_is_accepted_and_waits(held: Daemon) -> None:
    held.start("-w", "1", "--threads", "2")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(held.connect()) for _ in range(2)]
        (held.dir / "hold").touch()
        for client in clients:
            ask(client, "/held")
        until(lambda: in_flight(held) == 2, "all threads")
        late = [stack.enter_context(held.connect()) for _ in range(5)]
        for client in late:
            ask(client, "/")
        until(lambda: held.live()["workers"][0]["connections"] == 7, "all are accepted")
        assert in_flight(held) == 2
        (held.dir / "hold").unlink()
        for client in clients + late:
            answer(client)


@NATIVE
def test_what_a_former_leader_has_logged_is_written_though_nobody_comes(
    held: Daemon, native: str
) -> None:
    held.start("-w", "1", "--threads", "2", "--access-log", "access.log", native)
    log = held.dir / "access.log"
    with held.connect() as client:
        for n in range(1, 6):
            ask(client, "/held")
            answer(client)
            until(lambda n=n: log.read_text().count("GET /held ") == n, "its line")
