"""How long requests may take, how many there may be, and how they are counted; over real sockets."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from tests.process.conftest import Daemon, until

from .conftest import FAILURES, dial, read_all, take

WAYS = {
    "native": [], "twin": ["--no-native"], "half-sync-half-async": ["-m", "half-sync-half-async"],
    "io_uring": ["-m", "proactor", "--io", "io_uring"],
}  # fmt: skip
UPGRADE = (
    "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)  # fmt: skip


@pytest.fixture(params=WAYS)
def site(request: pytest.FixtureRequest, service: Daemon) -> Daemon:
    take(service, "asgi_site")
    service.expected_errors = [*FAILURES, "the application failed on"]
    service.start("-w", "1", "--request-timeout", "1", *WAYS[request.param], app="asgi_site:app")
    return service


def ask(client: socket.socket, path: str, *fields: str, version: str = "1.1") -> None:
    client.settimeout(30)
    client.sendall("\r\n".join((f"GET {path} HTTP/{version}", "Host: a", *fields, "", "")).encode())


def read_to_reset(client: socket.socket) -> bytes:
    """What came before the reset; at a clean end the test fails."""
    read = b""
    with pytest.raises(ConnectionResetError):
        while data := client.recv(65536):
            read += data
    return read


def test_a_request_has_its_time(site: Daemon) -> None:
    with dial(site) as client:
        ask(client, "/waits")
        answer = read_all(client)  # to the close
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert b"--request-timeout" in answer
    for version in ("1.1", "1.0"):
        with dial(site) as client:
            ask(client, "/events", version=version)
            assert read_to_reset(client).startswith(b"HTTP/1.1 200 ")
    # All of it was sent by the application, and not all was taken by its client.
    with dial(site) as client:
        ask(client, "/whole")
        until(lambda: "GET /whole HTTP/1.1: it has taken longer than" in site.log(), "its time is over")
        read_to_reset(client)
    assert site.get("/release") == "so"  # of what the application does in the first of them
    log = site.log()
    assert "GET /waits HTTP/1.1: it has taken longer than --request-timeout" in log
    site.settles(4, "forkd_requests_refused_total", reason="request-timeout")


@pytest.mark.parametrize("way", WAYS)
def test_without_length_and_chunks_a_client_that_is_too_slow_is_reset(service: Daemon, way: str) -> None:
    """It is there still: at a clean end it would take what it has for all."""
    service.write_app("""
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(200):
                await send({"type": "http.response.body", "body": bytes(100000), "more_body": True})
            await send({"type": "http.response.body"})
    """)
    log = service.dir / "access.log"
    service.start("-w", "1", "--write-timeout", "1", "--access-log", str(log), *WAYS[way])
    with dial(service) as client:
        ask(client, "/", version="1.0")
        until(lambda: "GET / HTTP/1.0" in log.read_text(), "it is given up")
        assert len(read_to_reset(client)) < 20_000_000


def test_without_length_and_chunks_an_answer_that_fails_is_reset(site: Daemon) -> None:
    with dial(site) as client:
        ask(client, "/breaks-off", version="1.0")
        read_to_reset(client)
    with dial(site) as client:
        ask(client, "/breaks-off")
        assert not read_all(client).endswith(b"0\r\n\r\n")


def test_the_body_and_the_wait_of_the_application_count(site: Daemon) -> None:
    with dial(site) as client:
        client.settimeout(30)
        client.sendall(b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")  # and what is left of the body has no answer
    with dial(site) as client:
        client.settimeout(30)
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        assert read_all(client).startswith(b"HTTP/1.1 504 ")
    with dial(site) as client:  # what is left undone is not this one's
        ask(client, "/sleeps/0.3")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        time.sleep(1)  # between requests no time runs
        ask(client, "/hello", "Connection: close")
        assert read_all(client).endswith(b"hello")


def test_a_request_may_lift_it(service: Daemon) -> None:
    take(service, "asgi_site")
    service.write_app(
        "import asyncio\n"
        "from asgi_site import answer\n"
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    scope['extensions']['forkd']['lift_request_timeout']()\n"
        "    await asyncio.sleep(1.5)\n"
        "    await answer(send, b'late')\n"
    )
    service.start("-w", "1", "--request-timeout", "0.5")
    assert service.get() == "late"


def test_a_websocket_has_it_for_its_handshake(service: Daemon) -> None:
    take(service, "asgi_site")
    service.write_app(
        "import asyncio\n"
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    if scope['path'] == '/accepts':\n"
        "        await send({'type': 'websocket.accept'})\n"
        "    await asyncio.sleep(1.5)\n"
        "    try:\n"
        "        await send({'type': 'websocket.send', 'text': 'late'})\n"
        "    except OSError as error:\n"
        "        print(type(error).__name__, flush=True)\n"
    )
    service.start("-w", "1", "--request-timeout", "0.5", "--lifespan", "off")
    with dial(service) as client, dial(service) as other:
        ask(client, "/accepts", *UPGRADE)
        ask(other, "/waits", *UPGRADE)
        assert b"\x81\x04late" in read_all(client)
        assert read_all(other).startswith(b"HTTP/1.1 504 ")
    until(lambda: "ClientDisconnected" in service.log(), "the application is told")


def test_what_waits_is_counted(service: Daemon) -> None:
    take(service, "asgi_site")
    service.start("-w", "1", app="asgi_site:app")
    with dial(service) as one, dial(service) as two, dial(service) as socket, dial(service) as closed:
        ask(one, "/waits")
        ask(two, "/waits")
        ask(socket, "/socket/echo", *UPGRADE)
        assert socket.recv(1000).startswith(b"HTTP/1.1 101 ")
        ask(closed, "/socket/close", *UPGRADE)
        assert closed.recv(1000).startswith(b"HTTP/1.1 403 ")
        service.settles(2, "forkd_requests_suspended")
        service.settles(1, "forkd_websockets")
        service.settles(3, "forkd_requests_in_flight")
        worker = service.workers()[0]
        assert (worker["suspended"], worker["websockets"]) == (2, 1)
        assert "<th>suspended</th><th>websockets</th>" in service.admin("/")[1]
        assert service.get("/release") == "so"
        service.settles(0, "forkd_requests_suspended")
    service.settles(0, "forkd_websockets")


@pytest.mark.parametrize("way", WAYS)
def test_so_many_are_in_flight_in_a_worker(service: Daemon, way: str) -> None:
    take(service, "asgi_site")
    service.write_app(
        "import asyncio\n"
        "from asgi_site import answer\n"
        "released = asyncio.Event()\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'websocket':\n"
        "        await send({'type': 'websocket.accept'})\n"
        "        await receive()\n"
        "        if (await receive())['type'] == 'websocket.receive':\n"
        "            released.set()\n"
        "    elif scope['path'] == '/waits':\n"
        "        await released.wait()\n"
        "        await answer(send, b'released')\n"
        "    else:\n"
        "        await answer(send, b'so')\n"
        "        if scope['path'] == '/works-on':\n"
        "            await released.wait()\n"
    )
    service.start("-w", "1", "--limit-concurrency", "2", "--lifespan", "off", *WAYS[way])
    idle = [dial(service) for _ in range(5)]
    for client in idle:  # kept connections, and what goes on behind an answer, do not count
        ask(client, "/works-on")
        assert client.recv(1000).endswith(b"so")
    talks = [dial(service) for _ in range(3)]
    for client in talks:
        ask(client, "/", *UPGRADE)
    heads = [client.recv(1000) for client in talks]
    assert [head[:13] for head in heads] == [b"HTTP/1.1 101 "] * 2 + [b"HTTP/1.1 503 "]
    stays, leaves = dial(service), dial(service)
    ask(stays, "/waits")
    ask(leaves, "/waits")
    service.settles(4, "forkd_requests_in_flight")
    leaves.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    leaves.close()
    service.settles(3, "forkd_requests_in_flight")  # and its application works on
    for client in (idle[0], dial(service)):
        ask(client, "/")
        answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1\r\n" in answer
    service.settles(3, "forkd_requests_refused_total", reason="concurrency")
    talks[0].sendall(b"\x81\x82\0\0\0\0go")
    assert stays.recv(1000).endswith(b"released")
    for _ in range(5):
        assert service.get("/") == "so"
    for client in (*idle, *talks, stays):
        client.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_task_factory_that_fails_holds_no_place(service: Daemon, way: str) -> None:
    service.write_app("""
        import asyncio

        bad = []

        def factory(loop, coroutine, **others):
            if bad:
                coroutine.close()
                raise bad.pop()
            return asyncio.Task(coroutine, loop=loop, **others)

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                asyncio.get_running_loop().set_task_factory(factory)
                await send({"type": "lifespan.startup.complete"})
                return await receive()
            if scope["path"] == "/bad":
                bad.append(RuntimeError("no task"))
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close"})
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"so"})
    """)
    service.expected_errors = [*FAILURES, "the application failed on", "no task"]
    service.start("-w", "1", "--limit-concurrency", "1", *WAYS[way])
    for version in ("1.1", "1.0"):
        assert service.get("/bad") == "so"
        with dial(service) as client:
            ask(client, "/", "Connection: close", version=version)
            assert read_all(client).startswith(b"HTTP/1.1 500 ")
    assert service.get("/bad") == "so"
    for status in (b"500", b"403"):
        with dial(service) as client:
            ask(client, "/", *UPGRADE)
            assert read_all(client)[9:12] == status
    assert service.get() == "so"
    service.settles(0, "forkd_requests_in_flight")


def test_wsgi_refuses_it(service: Daemon) -> None:
    service.write_app("def app(environ, start_response): pass\n")
    service.expected_errors = ["did not start", "gone: boot", "limit-concurrency is for ASGI"]
    for verb in ("check", "start"):
        done = service.run(verb, *service.flags("--limit-concurrency", "5"))
        assert done.returncode != 0
        assert "limit-concurrency is for ASGI: a" in done.stderr + done.stdout
