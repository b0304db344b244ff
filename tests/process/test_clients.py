"""The checking clients tell the fates of requests apart; all the figures of the matrix rest on them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from .clients import Crowd, Load
from .conftest import Daemon, until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"


def serving(answer: Callable[[socket.socket], None]) -> socket.socket:
    """A server that takes one request of each connection, and does `answer` with it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.recv(65536)
                answer(client)

    threading.Thread(target=serve, daemon=True).start()
    return listener


FATES: dict[str, Callable[[socket.socket], None]] = {
    "wrong": lambda client: client.sendall(OK + b"X-Request-Id: another\r\n\r\nok"),
    "wrong, without an id": lambda client: client.sendall(OK + b"\r\nok"),
    "wrong, as it fails": lambda client: client.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
    "reset": lambda client: None,
    "reset, half way": lambda client: client.sendall(OK + b"\r\no"),
    "lost": lambda client: client.recv(1) and None,
}  # fmt: skip


@pytest.mark.parametrize("fate", FATES)
def test_the_fate_of_a_request(fate: str) -> None:
    with (
        serving(FATES[fate]) as server,
        Load(server.getsockname(), keep=1, strict=True, timeout=0.2) as load,
    ):
        until(lambda: load.failures, "a failure")
        server.shutdown(socket.SHUT_RDWR)
    assert load.failures[0].startswith(fate.partition(",")[0] + ":")
    assert load.asked == 0


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with Load(unused.getsockname(), fresh=1) as load:
            until(lambda: load.failures, "a failure")
    assert load.failures[0].startswith("refused:")
    assert load.counts[0] == 0  # nothing was sent


@pytest.mark.parametrize("how", ["tcp", "unix"])
def test_a_crowd_counts_what_the_service_counts(service: Daemon, tmp_path: Path, how: str) -> None:
    path = str(tmp_path / "s.sock")
    service.start("-b", "127.0.0.1:0", "-b", f"unix:{path}")
    address = path if how == "unix" else service.address
    with Crowd(address, keep=3, fresh=3, processes=2) as crowd:
        crowd.more(200)
    assert crowd.failures == []
    assert crowd.failed == 0
    assert crowd.count("sent") == crowd.asked == len(crowd.times)
    until(lambda: service.metric("forkd_requests_total") == crowd.asked, "all counted")
