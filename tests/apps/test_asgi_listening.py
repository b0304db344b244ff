"""An application that waits for its client to leave beside its answer, as frameworks do while they stream:
native code keeps such a request, until there is something for Python to do."""

from __future__ import annotations

import http.client
import json
import socket
import struct

import pytest

from forkd.native import native as built
from tests.process.conftest import Daemon, until

from .conftest import dial, read_all

WAYS = {
    "native": [], "twin": ["--no-native"], "poll": ["--io", "poll"],
    "io_uring": ["-m", "proactor", "--io", "io_uring"],
}  # fmt: skip
SITE = """
import asyncio, json
from forkd.app.asgi.cycle import Cycle

NOTES = []
adopted = Cycle.adopted
Cycle.adopted = lambda *args: NOTES.append("grown") or adopted(*args)

async def listens(receive, path):
    while (message := await receive())["type"] != "http.disconnect":
        pass
    NOTES.append(path)

async def app(scope, receive, send):
    path = scope["path"]
    if path == "/notes":
        body = json.dumps(NOTES).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    if path == "/gives-up":
        await receive()
        for _ in range(100):
            try:
                await asyncio.wait_for(receive(), 0)
            except asyncio.TimeoutError:
                pass
            task = asyncio.ensure_future(listens(receive, path))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
    listening = [asyncio.create_task(listens(receive, path)) for _ in range(1 if path == "/one" else 3)]
    await asyncio.sleep(0)
    if path != "/silent":
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"data: 1\\n\\n", "more_body": True})
            await asyncio.sleep(0)
    if path in ("/silent", "/endless"):
        await asyncio.wait(listening)
        return
    await send({"type": "http.response.body"})
    await asyncio.wait(listening)
"""


@pytest.fixture(params=WAYS)
def site(request: pytest.FixtureRequest, service: Daemon) -> Daemon:
    service.write_app(SITE)
    service.start("-w", "1", "--lifespan", "off", *WAYS[request.param])
    return service


def ask(client: socket.socket, path: str, *fields: str) -> None:
    client.settimeout(30)
    client.sendall("\r\n".join((f"GET {path} HTTP/1.1", "Host: a", *fields, "", "")).encode())


def notes(site: Daemon) -> list[str]:
    return list(json.loads(site.get("/notes")))


def test_at_the_end_of_the_answer_it_is_told(service: Daemon) -> None:
    service.write_app(SITE)
    service.start("-w", "1", "--lifespan", "off")
    with dial(service) as client:
        for path in ("/one", "/several", "/gives-up", "/one"):
            ask(client, path)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.read() == b"data: 1\n\n" * 3
    wanted = ["/one", *["/several"] * 3, *["/gives-up"] * 3, "/one"]
    service.settles(0, "forkd_requests_suspended")
    found = notes(service)
    assert [each for each in found if each != "grown"] == wanted
    assert built is None or "grown" not in found


def test_a_client_that_leaves_is_noticed(site: Daemon) -> None:
    for path in ("/silent", "/endless"):
        for number, end in enumerate(("reset", "close", "half"), 1):
            client = dial(site)
            ask(client, path)
            if path == "/endless":
                assert client.recv(1000)
            else:
                site.settles(1, "forkd_requests_in_flight")
            if end == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if end == "half":
                client.shutdown(socket.SHUT_WR)
            else:
                client.close()
            until(lambda path=path, number=number: notes(site).count(path) == 3 * number, end)  # type: ignore[misc]
            client.close()
    site.settles(0, "forkd_requests_suspended")


def test_what_comes_meanwhile_is_the_next_request(site: Daemon) -> None:
    with dial(site) as client:
        ask(client, "/endless")
        assert client.recv(10)
        ask(client, "/one")
        client.shutdown(socket.SHUT_WR)  # of which /endless is told behind it
        assert read_all(client).count(b"data: 1\n\n") >= 3
    until(lambda: notes(site).count("/endless") == 3, "its client sends no more")
    with dial(site) as client:
        ask(client, "/several")
        ask(client, "/one", "Connection: close")
        assert read_all(client).count(b"data: 1\n\n") == 6


def test_a_worker_that_retires_ends_its_stream(site: Daemon) -> None:
    with dial(site) as client:
        ask(client, "/endless", "Accept: text/event-stream")
        assert client.recv(10)
        site.ok("reload")
        assert read_all(client).endswith(b"0\r\n\r\n")
    assert "cut" not in site.log()
