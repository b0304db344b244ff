"""HAProxy's agent-check, and its check of /readyz: which of two services it gives requests to."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from .canary import APP, seen
from .conftest import Daemon, until
from .fronts import BY_NAME, Front, front, port
from .haproxy import HAProxy, needs_haproxy
from .test_fronts import changed


def line(address: tuple[str, int], *pieces: bytes) -> str:
    with socket.create_connection(address, 20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
        return b"".join(iter(lambda: sock.recv(4096), b"")).decode()


def test_the_listeners_of_probes_answer_it(service: Daemon) -> None:
    service.start("-w", "2", "--health", "127.0.0.1:0", "--lame-duck", "600")
    for where in (service.admin_address, ("127.0.0.1", port(service.live()["health"]))):
        assert line(where, b"agent\n") == "up 100%\n"
        assert line(where, b"ag", b"e", b"nt\n") == "up 100%\n"
        for other in (b"agent\r\n\r\n", b"agents\n\r\n\r\n", b"AGENT\n\r\n\r\n"):
            assert line(where, other).startswith("HTTP/1.1 400 ")
        assert line(where, b"GE", b"T /readyz HTTP/1.0\r\n\r\n").startswith("HTTP/1.1 200 ")
    service.ok("scale", "0")
    until(lambda: line(where, b"agent\n").startswith("down #no workers since a scale to 0"), "down")
    service.ok("scale", "1")
    until(lambda: line(where, b"agent\n") == "up 100%\n", "up")
    service.signal(signal.SIGTERM)
    until(lambda: line(where, b"agent\n") == "up 0% #draining: the master is stopping\n", "told to stop")


def by_agent() -> str:
    """The sample with what it has as the other way to ask."""
    return changed(
        BY_NAME["HAProxy"], ("# default-server agent-check", "default-server agent-check"),
        ("uri /readyz", "uri /healthz"),
    )  # fmt: skip


@contextlib.contextmanager
def two(service: Daemon, other: Daemon, text: str) -> Iterator[tuple[Front, Callable[[], tuple[bool, bool]]]]:
    """HAProxy before both, and whether it gives requests to each."""
    for each, flags in ((service, ["--lame-duck", "600"]), (other, [])):
        each.write_app(APP)
        each.start("-w", "1", "--threads", "2", "--health", "127.0.0.1:0", *flags)
    kind = BY_NAME["HAProxy"]
    with front(kind, service.dir / "front", service, other, text=text) as made:
        api = HAProxy(made.directory, {})
        until((made.directory / "h.sock").exists, "HAProxy's own socket, which it has last")
        yield made, lambda: (api.takes("forkd", "one"), api.takes("forkd", "two"))


def get(made: Front, count: int) -> None:
    for _ in range(count):
        client = http.client.HTTPConnection(*made.address, timeout=20)
        client.request("GET", "/")
        assert client.getresponse().status == 200
        client.close()


@needs_haproxy
@pytest.mark.parametrize("way", ["agent", "check"])
def test_haproxy_turns_away_from_one_that_is_told_to_stop(service: Daemon, other: Daemon, way: str) -> None:
    text = by_agent() if way == "agent" else changed(BY_NAME["HAProxy"])
    with two(service, other, text) as (made, states):
        until(lambda: states() == (True, True), "both up", 20)
        get(made, 20)
        assert len(seen(service.dir)) >= 5 and len(seen(other.dir)) >= 5
        service.signal(signal.SIGTERM)
        until(lambda: states() == (False, True), "one turned away from", 20)
        before = len(seen(service.dir))
        get(made, 20)
        assert len(seen(service.dir)) == before
        service.signal(signal.SIGTERM)
        service.gone()
        service.start("-w", "1", "--health", f"127.0.0.1:{made.facts['one_ready']}",
                      "-b", str(made.facts["one"]))  # fmt: skip
        until(lambda: states() == (True, True), "both up again", 20)


@needs_haproxy
def test_it_does_not_end_what_an_operator_has_set(service: Daemon, other: Daemon) -> None:
    """A drain stays one when the agent says that all is well again."""
    with two(service, other, by_agent()) as (made, states):
        api = HAProxy(made.directory, {})
        state = lambda: api.state("forkd", "one")[0]  # noqa: E731
        agent = lambda: api.agent("forkd", "one")  # noqa: E731
        until(lambda: states() == (True, True) and agent() == "L7OK", "both up", 20)
        api.ask("set server forkd/one state drain")
        until(lambda: state().startswith("DRAIN"), "drained", 20)
        before = len(seen(service.dir))
        get(made, 20)
        assert len(seen(service.dir)) == before
        service.ok("scale", "0")
        until(lambda: agent() == "L7STS", "the agent says down", 20)
        service.ok("scale", "1")
        until(lambda: agent() == "L7OK", "the agent says up", 20)
        assert state().startswith("DRAIN")
        api.ask("set server forkd/one state ready")
        until(lambda: states() == (True, True), "both up again", 20)
        service.signal(signal.SIGTERM)  # twice, for --lame-duck
