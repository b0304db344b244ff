"""--defer-accept: the kernel keeps a connection until its client has said something; none is lost by it."""

from __future__ import annotations

import signal
import socket
from contextlib import ExitStack

import pytest

from .conftest import Daemon, until

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
GREETING = """
    import socketserver

    class Greeting(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"hello\\n")
"""


def accepted(service: Daemon) -> float:
    return service.metric("forkd_connections_accepted_total")


def deferring(service: Daemon) -> list[bool]:
    return [listener["deferring"] for listener in service.live()["listeners"]]


def answered(client: socket.socket) -> bool:
    client.sendall(REQUEST)
    return client.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_who_says_nothing_is_held_back_and_not_for_ever(service: Daemon) -> None:
    service.start()

    def held_back() -> bool:
        """Others are accepted meanwhile; not so if this machine was busy for a second."""
        with ExitStack() as stack:
            before = accepted(service)
            silent = [stack.enter_context(service.connect()) for _ in range(10)]
            service.get()
            alone = accepted(service) == before + 1
            until(lambda: accepted(service) == before + 11, "they are accepted in the end")
            return alone and all(answered(client) for client in silent)

    until(held_back, "held back", 30)


@pytest.mark.parametrize("model", ["leader-followers", "half-sync-half-async", "proactor"])
def test_who_ends_without_a_word_is_no_trouble(service: Daemon, model: str) -> None:
    service.start("-m", model)
    for _ in range(20):
        service.connect().close()
    until(lambda: accepted(service) == 20, "all are accepted: a FIN is said, too")
    until(lambda: service.metric("forkd_connections") == 0, "and closed")
    assert service.get() == "v1"


def test_where_it_is_not_wanted(service: Daemon) -> None:
    service.start("--no-defer-accept", "-b", "127.0.0.1:0", "-b", f"unix:{service.dir / 'a.sock'}")
    assert deferring(service) == [False, False]
    with service.connect() as client:
        until(lambda: accepted(service) == 1, "accepted")
        assert answered(client)


def test_the_configuration_and_the_application_decide(service: Daemon) -> None:
    service.expected_errors = [""]
    config = service.dir / "c.toml"

    def reload(app: str, wanted: bool) -> list[bool]:
        config.write_text(
            f'app = "{app}"\nbind = ["127.0.0.1:0"]\nadmin = "127.0.0.1:0"\ndefer-accept = {wanted}\n'.lower()
        )
        service.run("reload")
        return deferring(service)

    service.write_app(GREETING.replace("Greeting", "greeting"), name="greet.py")
    config.write_text('app = "app:app"\nbind = ["127.0.0.1:0"]\nadmin = "127.0.0.1:0"\n')
    service.start("-c", "c.toml", app=None)
    assert deferring(service) == [True]
    assert reload("app:app", False) == [False]
    assert reload("app:app", True) == [True]
    assert reload("app:nothing", True) == [True]  # which fails
    address = service.address
    assert reload("greet:greeting", True) == [False]
    with socket.create_connection(address, 10) as client:
        assert client.recv(100) == b"hello\n"
    assert reload("app:nothing", True) == [False]
    assert reload("app:app", True) == [True]
    service.ok("upgrade")
    until(lambda: deferring(service) == [True], "the new master's")
    assert service.get() == "v1"


def test_a_stop_lets_them_in(service: Daemon) -> None:
    service.start("--lame-duck", "600")
    with ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(50)]
        service.signal(signal.SIGTERM)
        until(lambda: deferring(service) == [False], "told to stop")
        assert all(answered(client) for client in clients)
    service.signal(signal.SIGTERM)
    service.gone()
