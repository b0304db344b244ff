"""A worker that is killed or dies with many requests suspended: each is counted once and has one line."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from forkd.system.in_flight import POOL_ENTRIES
from tests.process.conftest import Daemon, until

from .conftest import dial, read_all

APP = """
    import asyncio, time

    async def app(scope, receive, send):
        kind = scope["path"].split("/")[1]
        if kind == "block":
            time.sleep(100)
        if kind == "blocks-begun":
            size = int(scope["path"].split("/")[2])
            headers = [(b"content-length", b"1000000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
            time.sleep(100)
        if kind == "begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        if kind in ("begun", "waits"):
            await asyncio.sleep(100)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"so"})
"""
WAYS = {"native": [], "twin": ["--no-native"]}
MANY = [500, *(pytest.param(count, marks=pytest.mark.soak) for count in (2000, 5000))]
BEGUN = 20
CONNECTIONS = ("--worker-connections", "6000", "--backlog", "6000")


def suspended(service: Daemon, count: int, stack: ExitStack) -> list[socket.socket]:
    """So many requests that wait, of which the last have begun their answers."""
    clients, address = [], service.address
    for number in range(count):
        client = stack.enter_context(socket.create_connection(address, 30))
        kind = "begun" if number >= count - BEGUN else "waits"
        client.sendall(f"GET /{kind}/{number} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        clients.append(client)
    service.settles(count, "forkd_requests_suspended")
    return clients


def lines(access: Path) -> list[str]:
    return access.read_text().splitlines() if access.exists() else []


def each_has_one_line(access: Path, count: int) -> None:
    """Each of the first thousand; one line has the number of the others."""
    named = min(count, 1000)
    wanted = named + (count > named)
    until(lambda: len(lines(access)) >= wanted, f"{wanted} lines")
    targets = re.findall(r'"GET (/\S+) HTTP/1\.1" 50[24] ', access.read_text())
    assert len(set(targets)) == len(targets) == named
    assert ("more requests like these" in access.read_text()) is (count > named)
    if count > named:
        assert f"and {count - named} more requests like these" in lines(access)[-1]


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("way", WAYS)
def test_who_holds_the_loop_costs_others_that_are_all_accounted_for(
    service: Daemon, way: str, count: int
) -> None:
    service.write_app(APP)
    service.expected_errors = ["gone: timeout"]
    access = service.dir / "access.log"
    service.start(
        "-w", "1", "--timeout", "1", "--lifespan", "off", "--access-log", str(access), *CONNECTIONS,
        *WAYS[way],
    )  # fmt: skip
    with ExitStack() as stack:
        clients = suspended(service, count, stack)
        blocker = stack.enter_context(dial(service))
        blocker.sendall(b"GET /block HTTP/1.1\r\nHost: a\r\n\r\n")
        # Its name is what the master answers by, and there is room for so many in a worker.
        is_named = count < POOL_ENTRIES
        assert read_all(blocker).startswith(b"HTTP/1.1 504 ") is is_named
        ends = Counter(bytes(read_all(client)[9:12]) for client in clients)
    assert ends == {b"504": count - BEGUN, b"200": BEGUN}
    each_has_one_line(access, count + 1)
    assert ('"GET /block HTTP/1.1" 504 ' in access.read_text()) is is_named
    [found] = service.live()["departures"]
    assert found["in_flight"] == count + 1
    report = until(lambda: "gone: timeout" in service.log() and service.log(), "the report")
    assert bool(re.search(r'in flight: "GET /block HTTP/1\.1" .*\n.* in app\n', report)) is is_named
    assert re.search(r'"[^"]+app\.py", line \d+ in app\n', report)
    assert f"and {count - 100 + (not is_named)} more in flight" in report
    service.settles(count + 1, "forkd_requests_total")
    service.settles(0, "forkd_requests_in_flight")
    service.settles(0, "forkd_requests_suspended")
    assert service.get() == "so"


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_has_begun_in_the_step_that_blocks_is_cut(service: Daemon, way: str) -> None:
    """Nothing is added to it, which would be taken for a part of its body."""
    service.write_app(APP)
    service.expected_errors = ["gone: timeout"]
    service.start("-w", "1", "--timeout", "1", "--lifespan", "off", *WAYS[way])
    with dial(service) as client:
        client.sendall(b"GET /blocks-begun/300000 HTTP/1.1\r\nHost: a\r\n\r\n")
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body.strip(b"x") == b""


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("way", WAYS)
def test_killed_from_outside(service: Daemon, way: str, count: int) -> None:
    service.write_app(APP)
    service.expected_errors = ["gone: SIGKILL"]
    access = service.dir / "access.log"
    service.start("-w", "1", "--lifespan", "off", "--access-log", str(access), *CONNECTIONS, *WAYS[way])
    with ExitStack() as stack:
        clients = suspended(service, count, stack)
        os.kill(service.worker_pids()[0], signal.SIGKILL)
        for client in clients:
            read_all(client)
    each_has_one_line(access, count)
    [found] = service.live()["departures"]
    assert found["in_flight"] == count
    service.settles(count, "forkd_requests_total", code="502")
    service.settles(0, "forkd_requests_in_flight")
