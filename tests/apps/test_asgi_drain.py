"""What a worker that ends does to connections that last, under ASGI: by clients that check all they get."""

from __future__ import annotations

import asyncio
import signal
import struct
import threading
from collections.abc import Callable

import pytest

from tests.http.test_frames import masked
from tests.process import lasting
from tests.process.conftest import Daemon, alive, until
from tests.process.lasting import Lasting, post

from .conftest import FAILURES, dial, read_all, take


@pytest.fixture
def site(service: Daemon) -> Daemon:
    take(service, "asgi_site")
    service.expected_errors = list(FAILURES)
    return service


def reload(service: Daemon) -> None:
    service.ok("reload", "--name", service.name, "--control", str(service.control))


def test_streams_over_a_reload(service: Daemon) -> None:
    """One by POST, with pauses of 3 s, is whole or an error. Event streams end, and their clients go on."""
    service.write_app(lasting.APP)
    service.start("-w", "1", "--graceful-timeout", "5")
    found: list[str] = []

    async def both() -> None:
        found.extend(await asyncio.gather(post(service.address, 1, 3), post(service.address, 4, 3)))

    posts = threading.Thread(target=asyncio.run, args=(both(),))
    posts.start()
    with Lasting(service.address, streams=5) as clients:
        until(lambda: service.live()["workers"][0]["in_flight"] == 7, "all are under way")
        reload(service)
        until(lambda: clients.streams["clean"] >= 5, "each has ended")
        before = clients.events
        until(lambda: clients.events > before + 5, "they go on")
        posts.join(30)
    assert found == ["whole", "error"]
    assert not clients.wrong
    assert set(clients.streams) == {"clean"}
    until(lambda: "answers cut: POST /tokens HTTP/1.1\n" in service.log(), "the other one is named")


def test_an_event_stream_without_an_event_ends_too(site: Daemon) -> None:
    """Its head has not been sent, and is sent then."""
    site.start("-w", "1", app="asgi_site:app")
    with dial(site) as client:
        client.settimeout(20)
        client.sendall(b"GET /silent HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
        until(lambda: "silent: http.request" in site.log(), "it is under way")
        reload(site)
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n0\r\n\r\n")
    until(lambda: "silent: http.disconnect" in site.log(), "the application was told")
    assert "answers cut" not in site.log()


@pytest.mark.parametrize(
    ("count", "spread"), [(100, 4), pytest.param(1000, 10, marks=pytest.mark.soak)]
)
def test_websockets_are_not_closed_all_at_once(service: Daemon, count: int, spread: int) -> None:
    service.write_app(lasting.APP)
    flags = ["--drain-spread", f"{spread}", "--graceful-timeout", "30", "--worker-connections", "3000"]
    service.start("-w", "1", *flags)
    with Lasting(service.address, idle=count, again=False) as clients:
        reload(service)
        until(lambda: len(clients.ends) == count, "all are closed", 30)
    assert set(clients.codes()) == {1012}
    times = sorted(end.at for end in clients.ends)
    most = max(sum(begin <= at < begin + 1 for at in times) for begin in times)
    # They are as many in each second but the first, in which it is found out which are quiet.
    assert most <= 2 * count / (spread - 1), f"{most} of {count} in a second"
    assert "answers cut" not in service.log()


def test_a_websocket_that_comes_when_its_worker_ends_already(site: Daemon) -> None:
    """From the accept queue, say: it has its turn as the others."""
    site.start("-w", "1", "--no-defer-accept", app="asgi_site:app")
    with dial(site) as late, dial(site) as other:
        other.sendall(b"GET /background/3 HTTP/1.1\r\nHost: a\r\n\r\n")
        late.sendall(b"GET /socket/echo HTTP/1.1\r\nHost: a\r\n")
        until(lambda: "GET /background/3" in site.log() or b"answered" in other.recv(1000), "it is at work")
        site.signal(signal.SIGTERM)
        until(lambda: "stopping" in site.log(), "it ends")
        late.sendall(
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        answer = b""
        while b"\x88" not in answer.partition(b"\r\n\r\n")[2] and (data := late.recv(1000)):
            answer += data
        assert answer.startswith(b"HTTP/1.1 101")
        assert struct.pack("!H", 1012) in answer
        late.sendall(masked(8, struct.pack("!H", 1012)))
        assert read_all(late) == b""
    assert "answers cut" not in site.log()


# ---- the order at the end ----------------------------------------------------------------------


LEFT = """
    import asyncio, threading, time

    TASKS = set()

    def say(text):
        print(f"left: {text}", flush=True)

    async def keep():
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            say("a task is cancelled")

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0.01)
            say("a generator is closed")

    def thread():
        while not STOPPED.is_set():
            time.sleep(0.01)
        time.sleep(0.05)
        say("a thread is waited for")

    STOPPED = threading.Event()

    async def begin():
        TASKS.add(asyncio.create_task(keep()))
        generator = numbers()
        TASKS.add(generator)
        await anext(generator)
        TASKS.add(asyncio.get_running_loop().run_in_executor(None, thread))

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await begin()
            if FAILS:
                STOPPED.set()
                raise RuntimeError("failed on purpose")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await asyncio.sleep(0.1)
            say("the lifespan is over")
            STOPPED.set()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"v1"})
        if scope["path"] == "/works":
            await asyncio.sleep(1.5)
            say("a request's task has returned")
"""
ORDER = [
    "a request's task has returned", "the lifespan is over", "a task is cancelled", "a generator is closed",
    "a thread is waited for",
]  # fmt: skip


def said(service: Daemon) -> list[str]:
    return [line.partition("left: ")[2] for line in service.log().splitlines() if "left: " in line]


ENDS: dict[str, Callable[[Daemon], object]] = {
    "stop": lambda service: service.signal(signal.SIGTERM),
    "reload": lambda service: service.signal(signal.SIGHUP),
    "scale": lambda service: service.ok("scale", "0"),
    "recycle": lambda service: service.get("/"),
    "upgrade": lambda service: service.ok("upgrade"),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_order_at_the_end(service: Daemon, how: str) -> None:
    """Of connections, tasks of requests, lifespan, and what is left in the loop."""
    service.write_app("FAILS = False\n" + "\n".join(line.removeprefix("    ") for line in LEFT.splitlines()))
    service.start("-w", "1", *(["--max-requests", "2"] if how == "recycle" else []))
    (pid,) = service.worker_pids()
    assert service.get("/works") == "v1"
    ENDS[how](service)
    until(lambda: not alive(pid) and len(said(service)) >= len(ORDER), "it has gone, and said all")
    assert said(service)[: len(ORDER)] == ORDER


def test_the_order_when_a_start_fails(service: Daemon) -> None:
    service.write_app("FAILS = True\n" + "\n".join(line.removeprefix("    ") for line in LEFT.splitlines()))
    service.expected_errors = ["did not start", "gone: boot", "Traceback"]
    assert service.run("start", *service.flags("-w", "1")).returncode
    until(lambda: len(said(service)) >= 3, "all is said")
    assert said(service)[:3] == ORDER[2:]
