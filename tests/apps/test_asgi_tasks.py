"""Whose tasks requests under ASGI run in, and where that is said: lazy ones, real ones, or the loop's own."""

from __future__ import annotations

import sys
import textwrap
import time

import pytest

import forkd.native
from tests.process.conftest import Daemon, until

from .conftest import FAILURES, read_all

APP = """
    import asyncio, contextlib, os, _asyncio

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            {startup}
            await send({{"type": "lifespan.startup.complete"}})
            await receive()
            return await send({{"type": "lifespan.shutdown.complete"}})
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if scope["path"] == "/factory":
            loop.set_task_factory(lambda loop, coro, **others: asyncio.Task(coro, loop=loop, name="made"))
        if scope["path"] == "/none":
            loop.set_task_factory(None)
        await asyncio.sleep(0 if scope["path"] == "/waits" else -1) if scope["path"] != "/" else None
        body = f"{{task.get_name().partition('-')[0]}} {{task in asyncio.all_tasks()}}".encode()
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": body}})
    {module}
"""
#: Counts what goes through call_soon of the loop's class, while that is patched.
PATCHES = """
    import asyncio

    count = 0

    async def app(scope, receive, send):
        global count
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan")
        kind = type(asyncio.get_running_loop())
        if scope["path"] == "/patch":
            call_soon = kind.call_soon
            def counted(*given, **named):
                global count
                count += 1
                return call_soon(*given, **named)
            kind.call_soon = counted
        if scope["path"] == "/undo":
            del kind.call_soon
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(count).encode()})
"""
NATIVE = forkd.native.native is not None
LAZY = "lazy" if sys.version_info[:2] == (3, 11) else "real, with Python {}.{}".format(*sys.version_info)

pytestmark = pytest.mark.skipif(not NATIVE, reason="without native code the loop makes all")


@pytest.fixture(autouse=True)
def default(service: Daemon) -> None:
    """Each test here says whose tasks there are, whatever the mode of the run."""
    for name in ("FORKD_NATIVE", "FORKD_REQUEST_TASK"):
        service.environ.pop(name, None)


def begin(service: Daemon, *flags: str, startup: str = "pass", module: str = "") -> str:
    service.write_app(textwrap.dedent(APP).format(startup=startup, module=module))
    return service.start("--interface", "asgi", *flags)


def kind(service: Daemon) -> str:
    found: str = service.status()["master"]["request_tasks"]
    return found


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), LAZY), (("--request-task", "real"), "real"),
        (("--no-native",), "made by the loop, without native code"),
    ],
    ids=["default", "real", "twin"],
)  # fmt: skip
def test_it_is_said_what_is_used(service: Daemon, flags: tuple[str, ...], expected: str) -> None:
    assert f"tasks of requests {expected}" in begin(service, *flags) + service.log()
    assert kind(service) == expected
    assert f"tasks of requests {expected.partition(',')[0]}" in service.ok("status")
    assert f"tasks of requests {expected}" in service.ok("check", *service.flags(*flags))
    name = "Task" if "--no-native" in flags else "Request"
    assert service.get("/") == service.get("/waits") == service.get("/") == f"{name} True"


def test_a_task_factory_in_the_lifespan(service: Daemon) -> None:
    factory = "lambda loop, coro, **others: asyncio.Task(coro, loop=loop, name='made', **others)"
    begin(service, "-w", "1", startup=f"asyncio.get_running_loop().set_task_factory({factory})")
    assert service.get("/") == service.get("/waits") == "made True"
    assert kind(service) == "made by the loop: it has a task factory"
    said = [line for line in service.log().splitlines() if "it has a task factory" in line]
    assert ["info worker" in line for line in said] == [True, False]  # and what serves, of the master


def test_a_task_factory_in_a_request(service: Daemon) -> None:
    begin(service, "-w", "1")
    assert [service.get(path) for path in ("/", "/factory", "/", "/waits")] == [
        "Request True", "Request True", "made True", "made True",
    ]  # fmt: skip
    until(lambda: "made by the loop: it has a task factory" in service.log(), "a line")
    assert [service.get(path) for path in ("/none", "/", "/waits")] == [
        "made True", "Request True", "Request True",
    ]  # fmt: skip


def test_debug_mode_of_asyncio(service: Daemon) -> None:
    service.environ["PYTHONASYNCIODEBUG"] = "1"
    begin(service)
    assert service.get("/") == service.get("/waits") == "Task True"
    assert kind(service) == "made by the loop: it is in debug mode" and "self-test" not in service.log()


@pytest.mark.parametrize(
    ("where", "patch"),
    [
        ("startup", "import nest_asyncio; nest_asyncio.apply()"),
        ("module", "import nest_asyncio; nest_asyncio.apply()"),
        ("module", "asyncio.Task = asyncio.tasks.Task = asyncio.tasks._PyTask"),
        ("startup", "asyncio.current_task = lambda loop=None: asyncio.tasks.current_task(loop)"),
        ("startup", "call_soon = asyncio.BaseEventLoop.call_soon; "
                    "asyncio.BaseEventLoop.call_soon = lambda *given, **named: call_soon(*given, **named)"),
        ("module", "loop = asyncio.get_running_loop(); loop.call_soon = loop.call_soon"),
    ],
    ids=["nest_asyncio", "nest_asyncio-module", "Task", "current_task", "class", "loop"],
)  # fmt: skip
def test_patches_of_asyncio(service: Daemon, where: str, patch: str) -> None:
    if "nest" in patch:
        pytest.importorskip("nest_asyncio")
    begin(service, "--loop", "asyncio", **{where: patch})
    assert service.get("/") == service.get("/waits") == "Task True"
    assert kind(service) == "made by the loop: asyncio was patched" and "self-test" not in service.log()


@pytest.mark.skipif(LAZY != "lazy", reason="real ones are used")
@pytest.mark.parametrize(
    "what", ["os.abort()", "1 / 0", "__import__('time').sleep(60)"], ids=["dies", "fails", "hangs"]
)
def test_a_self_test_that_fails(service: Daemon, what: str) -> None:
    service.expected_errors = FAILURES
    begin(service, "-w", "1", module=f"_asyncio._enter_task = lambda *others: {what}")
    assert service.get("/") == service.get("/waits") == "Request True"
    assert kind(service) == "real, since the self-test of lazy ones has failed"
    assert not service.status()["totals"]["exits"]


@pytest.mark.skipif(LAZY != "lazy", reason="real ones are used")
def test_the_self_test_is_made_on_the_loop_that_serves(service: Daemon) -> None:
    pytest.importorskip("uvloop")
    service.expected_errors = FAILURES
    broken = "(os.getpid() == worker or 1 / 0)"
    module = f"import uvloop; worker = os.getpid(); uvloop.Loop.get_debug = lambda loop: {broken} and False"
    begin(service, "-w", "1", "--loop", "uvloop", module=module)
    assert kind(service) == "real, since the self-test of lazy ones has failed"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_patch_of_the_class_in_a_request(service: Daemon, loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    service.write_app(textwrap.dedent(PATCHES))
    service.start("--interface", "asgi", "-w", "1", "--loop", loop)
    assert service.get("/") == "0"
    service.get("/patch")
    first = int(service.get("/"))
    assert 0 < first < int(service.get("/"))
    until(lambda: "made by the loop: asyncio was patched" in service.log(), "a line")
    service.get("/undo")
    assert service.get("/") == service.get("/")


THREADS = """
    import asyncio, os, threading

    import anyio.to_thread

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise RuntimeError("HTTP alone")
        if scope["path"] == "/cancel":
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.01)
        thread = await anyio.to_thread.run_sync(threading.get_native_id)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{os.getpid()} {thread}".encode()})
"""


@pytest.mark.parametrize("flags", ["", "--no-native", "-m half-sync-half-async", "-m proactor --io io_uring"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_functions_in_threads_have_the_same_ones(service: Daemon, loop: str, flags: str) -> None:
    """anyio ends those that it has made for a task with it, unless it finds one that stays."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    service.write_app(textwrap.dedent(THREADS))
    service.start("-w", "1", "--loop", loop, *flags.split())
    assert len({service.get("/") for _ in range(5)}) == 1
    worker = service.get("/cancel").split()[0]  # of all other tasks, the one of forkd's included
    assert len({service.get("/") for _ in range(5)}) == 1
    assert service.get("/").split()[0] == worker
    service.ok("stop")
    assert "do not end" not in service.log()


LOOKED_AT = """
    import asyncio, sys, threading, time

    looks, wrong, released = 0, [], asyncio.Event()

    def look(loop):
        global looks
        while True:
            try:
                for task in [*asyncio.all_tasks(loop), asyncio.current_task(loop)]:
                    if task is not None:
                        coro, named = asyncio.Task.get_coro(task), task.get_name() and repr(task)
                        coro = coro or task.done()  # an eager one of 3.12 and later has none then
                        if not (coro and named and task.get_loop() is loop and task.get_stack() is not None):
                            wrong.append(task)
            except RuntimeError:
                pass  # asyncio's set of tasks changed
            except BaseException as failure:
                wrong.append(failure)
            looks += 1

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            sys.setswitchinterval(1e-6)
            threading.Thread(target=look, args=(asyncio.get_running_loop(),), daemon=True).start()
            raise RuntimeError("no lifespan")
        if scope["path"] == "/waits":
            await released.wait()
        if scope["path"] == "/releases":
            released.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": f"{looks} {wrong[:3]}".encode()})
"""


@pytest.mark.parametrize("seconds", [0.5, pytest.param(20.0, marks=pytest.mark.soak)])
def test_looks_from_a_thread_beside_suspended_requests(service: Daemon, seconds: float) -> None:
    """All are answered, and the service stops (at the end of the test)."""
    service.write_app(textwrap.dedent(LOOKED_AT))
    service.start("--interface", "asgi", "-w", "1", "--loop", "asyncio")
    clients = [service.connect(60) for _ in range(100 if seconds < 1 else 500)]
    for client in clients:
        client.sendall(b"GET /waits HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    end, first = time.monotonic() + seconds, int(service.get("/").split()[0])
    while time.monotonic() < end:
        assert service.get("/").endswith("[]")
    until(lambda: int(service.get("/").split()[0]) > first + 3, "looks")
    service.get("/releases")
    for client in clients:
        assert read_all(client).startswith(b"HTTP/1.1 200")
        client.close()
