"""--request-timeout under WSGI: the client is answered in time, and its call goes on."""

from __future__ import annotations

import socket
import time

import pytest

from forkd.models import registry

from .conftest import Daemon, until

APP = """
import os, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path in ("/waits", "/quick"):
        if path == "/waits":
            wait()
        start_response("200 OK", [("Content-Length", "2")])
        return [b"so"]
    if path == "/fails":
        wait()
        raise RuntimeError("failed on purpose")
    if path == "/writes":
        write = start_response("200 OK", [])
        wait()
        write(b"late")
        return []
    if path == "/big":
        start_response("200 OK", [])
        return [b"x" * 30_000_000]
    if path == "/body":
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]
    start_response("200 OK", [])
    return pieces()

def pieces():
    yield b"first"
    wait()
    yield b"last"

def wait():
    while not os.path.exists("let-go"):
        time.sleep(0.01)
"""
MODELS = [(row.name, io) for row in registry.MODELS for io in row.ios]
THREADED = [("leader-followers", "epoll"), ("half-sync-half-reactive", "epoll"), ("proactor", "io_uring")]
GONE = "the application failed on|Traceback|failed on purpose"


def ask(service: Daemon, path: str, *fields: str, version: str = "1.1", body: bytes = b"") -> socket.socket:
    client = socket.create_connection(service.address, 30)
    method = "POST" if fields else "GET"
    head = "\r\n".join((f"{method} {path} HTTP/{version}", "Host: a", *fields, "", ""))
    client.sendall(head.encode() + body)
    return client


def read(client: socket.socket) -> tuple[bytes, bool]:
    """What came, and whether it ended by a reset."""
    came = b""
    with client:
        try:
            while data := client.recv(65536):
                came += data
        except ConnectionResetError:
            return came, True
    return came, False


def begin(service: Daemon, model: str, io: str, *flags: str) -> None:
    service.write_app(APP)
    service.expected_errors = [GONE]
    service.start("-w", "1", "-m", model, "--io", io, "--request-timeout", "1", "--access-log", "-", *flags)


def let_go(service: Daemon) -> None:
    (service.dir / "let-go").touch()


def settled(service: Daemon, expired: int) -> None:
    service.settles(expired, "forkd_requests_refused_total", reason="request-timeout")
    service.settles(0, "forkd_requests_in_flight")


@pytest.mark.parametrize(("model", "io"), MODELS, ids=lambda word: word)
def test_the_client_is_answered_while_its_call_goes_on(service: Daemon, model: str, io: str) -> None:
    begin(service, model, io)
    answer, _ = read(ask(service, "/quick", "Content-Length: 0", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 200 ")
    answer, reset = read(ask(service, "/waits"))
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"--request-timeout" in answer
    assert b"\r\nConnection: close\r\n" in answer
    assert not reset
    told = "GET /waits HTTP/1.1: it has taken longer than --request-timeout"
    until(lambda: told in service.log(), "it is told")
    assert service.metric("forkd_requests_in_flight") == 1  # its call
    let_go(service)
    settled(service, 1)
    until(lambda: '"GET /waits HTTP/1.1" 504 ' in service.log(), "its line is in the log")
    assert service.get("/quick") == "so"
    assert service.metric("forkd_requests_total", code="504") == 1


@pytest.mark.parametrize(
    ("model", "io", "threads"),
    [("leader-followers", "epoll", "1"), ("reactor", "epoll", "4"), ("proactor", "io_uring", "1")],
)
def test_an_answer_that_has_begun_is_reset(service: Daemon, model: str, io: str, threads: str) -> None:
    begin(service, model, io, "--threads", threads)
    for version in ("1.1", "1.0"):
        answer, reset = read(ask(service, "/pieces", version=version))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"first" in answer
        assert reset
        let_go(service)
        until(lambda: service.metric("forkd_requests_in_flight") == 0, "the call has ended")
        (service.dir / "let-go").unlink()
    slow = ask(service, "/big")  # the application has sent all, and its client does not read
    until(lambda: "GET /big HTTP/1.1: it has taken longer" in service.log(), "its time is over")
    assert read(slow)[1]
    settled(service, 3)


def test_whatever_the_call_does_then(service: Daemon) -> None:
    begin(service, "leader-followers", "epoll", "--threads", "4")
    clients = [ask(service, path) for path in ("/fails", "/writes", "/waits")]
    assert all(read(client)[0].startswith(b"HTTP/1.1 504 ") for client in clients)
    let_go(service)
    settled(service, 3)
    assert service.get("/quick") == "so"


@pytest.mark.parametrize(("model", "io"), THREADED, ids=lambda word: word)
def test_what_waits_for_its_body_or_for_a_thread(service: Daemon, model: str, io: str) -> None:
    begin(service, model, io, "--threads", "2")
    with ask(service, "/body", "Content-Length: 4", body=b"ab") as client:
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 504 ")
        client.sendall(b"cd")
        assert client.recv(1000) == b""
    settled(service, 1)
    clients = [ask(service, "/waits") for _ in range(6)]  # more than there are threads
    time.sleep(1.5)
    let_go(service)
    assert all(read(client)[0].startswith(b"HTTP/1.1 504 ") for client in clients)
    settled(service, 7)
    answer, _ = read(ask(service, "/body", "Content-Length: 4", "Connection: close", body=b"abcd"))
    assert answer.endswith(b"abcd")


def test_a_descriptor_that_serves_another_client_by_then_is_left_alone(service: Daemon) -> None:
    """Thousands of short requests, each of whose times would be over while a later one has its descriptor."""
    begin(service, "leader-followers", "epoll", "--threads", "4")
    until_then = time.monotonic() + 2.5
    while time.monotonic() < until_then:
        answer, reset = read(ask(service, "/quick", "Content-Length: 0", "Connection: close"))
        assert answer.endswith(b"so") and not reset
    assert service.metric("forkd_requests_refused_total", reason="request-timeout") == 0
