"""Listeners with the PROXY protocol in the life of a daemon: who may send a header, how long that may take,
and what a reload, an upgrade and a full worker make of a connection that has sent none yet."""

from __future__ import annotations

import contextlib
import http.client
import socket

import pytest

from forkd.session.proxy_protocol import SIGNATURE, compose

from .clients import connected
from .conftest import Daemon, until
from .rebinding import rebound

CLIENT = ("203.0.113.7", 4000)
HEADER = compose((CLIENT, ("198.51.100.1", 443)))
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
APP = """
    def app(environ, start):
        body = environ["REMOTE_ADDR"].encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""
MODELS = pytest.mark.parametrize(
    "model", ["leader-followers", "half-sync-half-async", "process-per-connection", "proactor"]
)


def ask(client: socket.socket, data: bytes = b"") -> str:
    client.sendall(data + GET)
    found = http.client.HTTPResponse(client)
    found.begin()
    assert found.status == 200
    return found.read().decode()


def closed(client: socket.socket) -> bool:
    """Whether it is closed without a byte."""
    with contextlib.suppress(ConnectionResetError):
        return client.recv(100) == b""
    return True


def refused(service: Daemon, count: int, reason: str) -> None:
    service.settles(count, "forkd_proxy_headers_refused_total", reason=reason)


@MODELS
def test_only_a_trusted_peer_may_send_one(service: Daemon, model: str) -> None:
    """Others are closed with their first byte."""
    service.write_app(APP)
    path = f"{service.dir}/s"
    service.start(
        "--proxy-protocol", "-b", f"unix:{path}", "-b", "127.0.0.1:0", "--no-defer-accept",
        "--forwarded-allow", "127.0.0.9/32", "-m", model,
    )  # fmt: skip
    with socket.create_connection(service.address, 10, ("127.0.0.9", 0)) as trusted:
        assert ask(trusted, HEADER) == CLIENT[0]
    for number, data in enumerate((b"\r", b"GET / HTTP/1.1\r\n"), 1):
        with service.connect() as client:
            client.sendall(data)
            assert closed(client)
        refused(service, number, "untrusted")
    with service.connect() as client:
        with contextlib.suppress(OSError):
            client.sendall(HEADER + GET)
        assert closed(client)
    refused(service, 3, "untrusted")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(path)
        client.sendall(HEADER + GET)
        assert closed(client)
    refused(service, 4, "untrusted")
    for who in ("127.0.0.1", "unix"):
        line = f"{who}: not a peer of --forwarded-allow; closed"
        until(lambda line=line: line in service.log(), line)  # type: ignore[misc]


def test_it_is_on_where_the_address_or_the_option_says_so(service: Daemon) -> None:
    service.write_app(APP)
    for flags, wanted in (
        (["--proxy-protocol"], {"": True, "?proxy=on": True, "?proxy=off": False}),
        ([], {"": False, "?proxy=on": True, "?proxy=off": False}),
    ):
        binds = [x for option in wanted for x in ("-b", f"127.0.0.1:0{option}")]
        service.start(*binds, *flags)
        for listener, option in zip(service.live()["listeners"], wanted, strict=True):
            assert listener["bind"] == f"127.0.0.1:0{option}"
            host, _, port = listener["address"].rpartition(":")
            with socket.create_connection((host, int(port)), 10) as client:
                if wanted[option]:
                    assert ask(client, HEADER) == CLIENT[0]
                else:
                    client.sendall(HEADER + GET)
                    assert b"400 Bad Request" in client.recv(1000)
        service.ok("stop")


@MODELS
def test_it_has_a_deadline(service: Daemon, model: str) -> None:
    """A connection that sends nothing is closed without a word in the log or a count, as is a probe."""
    service.write_app(APP)
    service.start("--proxy-protocol", "--header-timeout", "0.3", "-m", model)
    with service.connect() as client:
        assert closed(client)
    for part in (HEADER[:1], HEADER[:-1], b"PROXY ", SIGNATURE):
        with service.connect() as client:
            client.sendall(part)
            assert closed(client)
    refused(service, 4, "incomplete")
    service.settles(0, "forkd_connections")
    assert service.metric("forkd_requests_total") == 0
    with service.connect() as client:
        assert ask(client, HEADER) == CLIENT[0]


@pytest.mark.parametrize("flags", [["--native"], ["--no-native"], ["-m", "proactor"]], ids=" ".join)
def test_one_that_has_sent_nothing_makes_room_and_one_that_has_begun_does_not(
    service: Daemon, flags: list[str]
) -> None:
    service.write_app(APP)
    service.start("--proxy-protocol", "-w", "1", "--worker-connections", "4", "--no-defer-accept", *flags)
    with service.connect() as begun, service.connect() as silent, service.connect() as kept:
        received = service.metric("forkd_received_bytes_total")
        begun.sendall(HEADER[:5])
        service.settles(received + 5, "forkd_received_bytes_total")
        assert ask(kept, HEADER) == CLIENT[0]
        with service.connect() as new:
            assert ask(new, HEADER) == CLIENT[0]
            assert closed(silent)
            assert ask(kept) == CLIENT[0]
            begun.sendall(HEADER[5:])
            assert ask(begun) == CLIENT[0]
    refused(service, 0, "incomplete")


@MODELS
def test_a_worker_that_retires_serves_what_has_begun(service: Daemon, model: str) -> None:
    service.write_app(APP)
    service.start("--proxy-protocol", "-m", model)
    with service.connect() as begun:
        received = service.metric("forkd_received_bytes_total")
        begun.sendall(HEADER[:5])
        service.settles(received + 5, "forkd_received_bytes_total")
        service.ok("reload")
        begun.sendall(HEADER[5:])
        assert ask(begun) == CLIENT[0]
        assert closed(begun)


@pytest.mark.parametrize("place", ["127.0.0.1:{}", "localhost:{}", "unix:{}/s"])
def test_a_reload_and_an_upgrade_turn_it_on_and_off(service: Daemon, place: str) -> None:
    """The listener stays; `forkd check` has nothing against it."""
    service.write_app(APP)
    changes = [
        ("reload", "?proxy=on"), ("reload", ""), ("upgrade", "?proxy=on"), ("upgrade", ""),
        ("reload", "?proxy=off"),
    ]  # fmt: skip
    for options, where in rebound(service, place, changes):
        with connected(where) as sock:
            if options == "?proxy=on":
                assert ask(sock, HEADER) == CLIENT[0]
            else:
                assert ask(sock) == ("" if isinstance(where, str) else "127.0.0.1")


def test_a_listener_that_no_peer_may_use_is_said(service: Daemon) -> None:
    path = service.dir / "s.sock"
    both = ("-b", f"unix:{path}?proxy=on", "-b", "127.0.0.1:0?proxy=on")
    done = service.run("check", *service.flags(*both, "--forwarded-allow", "unix"))
    assert "each connection to 127.0.0.1:0?proxy=on is closed, since only peers that are in it" in done.stdout
    done = service.run("check", *service.flags(*both, "--forwarded-allow", "10.0.0.0/8"))
    assert f"each connection to unix:{path}?proxy=on is closed" in done.stdout
    assert "is closed, since" not in service.ok("check", *service.flags(*both))
