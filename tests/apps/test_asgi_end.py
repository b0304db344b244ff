"""The end of a worker's loop, whatever the application has left in it: in order, bounded, and by name."""

from __future__ import annotations

import os
import signal

import pytest

from tests.process.conftest import Daemon, until

from .conftest import dial

STUBBORN = """
    import asyncio, time

    async def ignores():
        while True:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                print("a task is cancelled", flush=True)

    async def ends():
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(0.05)
            print("a task has ended", flush=True)

    async def generator():
        try:
            yield 1
            yield 2
        finally:
            print("a generator is closed", flush=True)
            await asyncio.sleep(100)

    async def lifespan(receive, send):
        global kept
        loop = asyncio.get_running_loop()
        kept = [asyncio.create_task(ignores(), name="stubborn"), asyncio.create_task(ends()), generator()]
        await anext(kept[2])
        loop.run_in_executor(None, time.sleep, 100)
        await receive()
        %(startup)s
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("the shutdown begins", flush=True)
        %(shutdown)s
        await send({"type": "lifespan.shutdown.complete"})

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answered"})
        if scope["path"] == "/background":
            try:
                await asyncio.sleep(100)
            finally:
                print("the background is cancelled", flush=True)
"""
#: In this order.
LEFT = [
    "a task is cancelled", "a task has ended", "task(s) do not end when they are cancelled: stubborn",
    "a generator is closed", "asynchronous generators do not end", "threads of the executor do not end",
]  # fmt: skip


def write(service: Daemon, startup: str = "pass", shutdown: str = "pass") -> None:
    service.write_app(STUBBORN % {"startup": startup, "shutdown": shutdown})


def in_order(service: Daemon, lines: list[str]) -> None:
    log = service.log()
    places = [log.find(line) for line in lines]
    assert -1 not in places, (lines, places)
    assert places == sorted(places), (lines, places)


@pytest.mark.parametrize(
    "flags", [pytest.param([], marks=pytest.mark.soak), ["-m", "proactor", "--io", "io_uring"]]
)
def test_all_of_it_at_a_stop(service: Daemon, flags: list[str]) -> None:
    """With --graceful-timeout used up, and a shutdown that hangs."""
    write(service, shutdown="await asyncio.sleep(100)")
    service.start("-w", "1", "--graceful-timeout", "1", *flags)
    service.expected_errors = ["lifespan.shutdown has taken more than 5 s"]
    with dial(service) as client:
        client.sendall(b"GET /background HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1000).endswith(b"answered")
        service.signal(signal.SIGTERM)
        service.gone(30)
    in_order(service, [
        "the application has not returned from GET /background HTTP/1.1", "the shutdown begins",
        "lifespan.shutdown has taken more than 5 s", "the background is cancelled",
    ])  # fmt: skip
    in_order(service, ["lifespan.shutdown has taken more than 5 s", *LEFT, "gone: stop"])


@pytest.mark.parametrize(
    "verb", ["reload", *(pytest.param(verb, marks=pytest.mark.soak) for verb in ("scale", "TERM"))]
)
def test_all_of_it_when_a_worker_is_replaced_or_not_needed(service: Daemon, verb: str) -> None:
    write(service)
    service.start("-w", "2", *(["--loop", "asyncio"] if verb == "reload" else []))
    where = ["--name", service.name, "--control", str(service.control)]
    if verb == "reload":
        service.ok("reload", *where)
    elif verb == "scale":
        service.ok("scale", "1", *where)
    else:
        os.kill(service.worker_pids()[0], signal.SIGTERM)
    reason = {"reload": "gone: reload", "scale": "gone: scale-down", "TERM": "gone: SIGTERM"}[verb]
    until(lambda: reason in service.log(), "it has gone", 30)
    in_order(service, ["the shutdown begins", *LEFT])


def test_what_a_startup_that_fails_has_left(service: Daemon) -> None:
    write(service, startup='raise RuntimeError("no database")')
    service.expected_errors = ["did not start", "gone: boot", "Traceback"]
    done = service.run("start", *service.flags("-w", "1"))
    assert done.returncode != 0 and "RuntimeError: no database" in done.stderr
    in_order(service, LEFT)
    assert "the shutdown begins" not in service.log()


def test_threads_of_the_executor_that_end_in_time_are_waited_for(service: Daemon) -> None:
    service.write_app("""
        import asyncio, time

        def work(loop):
            time.sleep(0.2)
            # It may need the loop until it ends.
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result()
            print("the thread is done", flush=True)

        async def app(scope, receive, send):
            loop = asyncio.get_running_loop()
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                loop.run_in_executor(None, work, loop)
                await send({"type": "lifespan.shutdown.complete"})
    """)
    service.start("-w", "1")
    service.signal(signal.SIGTERM)
    service.gone()
    assert "the thread is done" in service.log()
    assert "do not end" not in service.log()


EXPORTER = """
    import threading, time

    def export():
        time.sleep(2.5)
        print("exported", flush=True)

    async def app(scope, receive, send):
        assert scope["type"] == "http"
        threading.Thread(target=export).start()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"v1"})
"""


@pytest.mark.parametrize("flags", [[], ["--no-native"], ["--loop", "uvloop"]])
def test_a_thread_of_the_application_is_no_turn_of_the_loop(service: Daemon, flags: list[str]) -> None:
    """It is waited for until --graceful-timeout, and neither --timeout nor --lag-limit looks at it: the loop
    has ended."""
    service.write_app(EXPORTER)
    service.start("-w", "1", "--timeout", "0.5", "--interface", "asgi", *flags)
    assert service.get("/") == "v1"
    service.ok("stop")
    assert "exported" in service.log()
    assert "is blocked" not in service.log()
