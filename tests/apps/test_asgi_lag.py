"""--lag-limit: what blocks an event loop is named while it does."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from tests.process.conftest import Daemon, until
from tests.process.leadership import switches

from .conftest import dial, take
from .test_asgi_limits import WAYS, ask

APP = """
import asyncio, contextlib, os, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        asyncio.get_running_loop().idler = asyncio.create_task(poll(), name="poller")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/step":
        block()
    elif path == "/child":
        await asyncio.create_task(child())
    elif path == "/slow-child":
        time.sleep(0.15)
        await asyncio.create_task(child())
    elif path == "/callback":
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: (spin(), done.set_result(None)))
        await done
    elif path == "/waits":
        await asyncio.sleep(4)
    elif path == "/task":
        wanted.set()
    elif path == "/slow-task":
        time.sleep(0.3)
        wanted.set()
    elif path == "/later":
        await asyncio.sleep(0)
    elif path == "/short":
        time.sleep(0.02)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"so"})
    if path in ("/at-once", "/later"):
        block()

wanted = asyncio.Event()

async def poll():
    await wanted.wait()
    block()

async def child():
    block()

def block():
    while not os.path.exists("let-go"):
        time.sleep(0.01)
    os.unlink("let-go")

def spin():
    while not os.path.exists("let-go"):
        pass
    os.unlink("let-go")
"""


def told(service: Daemon, path: str, by: str, where: str) -> None:
    """A request there blocks the loop; the line of the log comes before it ends."""
    with dial(service) as client:
        ask(client, path)
        until(lambda: f"so far by {by}\n" in service.log(), f"{by} is named")
        line, _, rest = service.log().partition(f"so far by {by}\n")
        assert line.rpartition("\n")[2].count("the event loop of worker 1 (pid ") == 1
        assert f"in {where}\n" in rest  # the stack
        (service.dir / "let-go").touch()
        assert client.recv(1000).endswith(b"so")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "io_uring"])  # which sends later
def test_what_blocks_behind_its_answer_is_named(service: Daemon, way: str) -> None:
    service.write_app(APP)
    service.start("-w", "1", *WAYS[way])
    for path in ("/at-once", "/later"):
        with dial(service) as client:
            ask(client, path)
            assert client.recv(1000).endswith(b"so")
            until(lambda: f"so far by GET {path}\n" in service.log(), "it is named")  # noqa: B023
            (service.dir / "let-go").touch()


@pytest.mark.parametrize("way", WAYS)
def test_what_blocks_is_named_while_it_does(service: Daemon, way: str, loop: str) -> None:
    service.write_app(APP)
    service.start("-w", "1", "--loop", loop, *WAYS[way])
    told(service, "/step?token=secret", "GET /step", "block")
    told(service, "/child", "GET /child", "block")
    told(service, "/callback", "GET /callback", "spin")
    told(service, "/task", "task poller (poll)", "block")
    assert "secret" not in service.log()
    counted = service.metric("forkd_loop_blocked_total")
    assert counted >= 4
    assert service.metric("forkd_loop_lag_seconds_count") > 4
    worst = service.live()["workers"][0]["blocked"]
    assert worst["seconds"] >= 0.2
    assert worst["by"] in ("GET /step", "GET /child", "GET /callback", "task poller (poll)")
    assert f" s by {worst['by']}</td>" in service.admin("/")[1]
    shown = service.run("status", "--control", str(service.control)).stdout
    assert f"the event loop of worker 1 by {worst['by']}" in " ".join(shown.split())
    # The next time within a minute it is counted only.
    with dial(service) as client:
        ask(client, "/step")
        until(lambda: service.workers()[0]["busy_for"] > 0.5, "the loop is blocked again")
        (service.dir / "let-go").touch()
        assert client.recv(1000).endswith(b"so")
    until(lambda: service.metric("forkd_loop_blocked_total") > counted, "it is counted")
    assert service.log().count("by GET /step") == 1


def test_a_worker_that_answers_late_silences_no_other(service: Daemon, loop: str) -> None:
    """As where the processors are busy: it is named once it answers, and what blocks next is, too."""
    service.write_app(APP)
    service.start("-w", "1", "--loop", loop)
    (pid,) = service.worker_pids()
    with dial(service) as client:
        ask(client, "/child")
        until(lambda: service.workers()[0]["busy_for"] > 0.05, "it is blocked")
        os.kill(pid, signal.SIGSTOP)
        until(lambda: "is blocked for" in service.log(), "it is told, without a name")
        os.kill(pid, signal.SIGCONT)
        until(lambda: "so far by GET /child\n" in service.log(), "it is named")
        assert "in block\n" in service.log().partition("so far by GET /child\n")[2]
        (service.dir / "let-go").touch()
        assert client.recv(1000).endswith(b"so")
    told(service, "/callback", "GET /callback", "spin")


def test_of_many_short_steps_none_is_to_blame(service: Daemon) -> None:
    service.write_app(APP)
    service.start("-w", "1")
    clients = [dial(service) for _ in range(40)]
    for client in clients:
        ask(client, "/")
        assert client.recv(1000).endswith(b"so")
    with dial(service) as first:
        ask(first, "/step")
        until(lambda: "so far by GET /step\n" in service.log(), "the loop is blocked")
        for client in clients:
            ask(client, "/short")
        (service.dir / "let-go").touch()
        until(lambda: "so far by many short steps" in service.log(), "so it is told")
    for client in clients:
        assert client.recv(1000).endswith(b"so")
        client.close()


@pytest.mark.parametrize("way", ["native", "io_uring"])
def test_nobody_looks_at_a_loop_that_waits(service: Daemon, way: str, loop: str) -> None:
    service.write_app(APP)
    service.start("-w", "2", "--lag-limit", "0.5", "--loop", loop, *WAYS[way])
    with dial(service) as client:
        ask(client, "/waits")
        service.settles(1, "forkd_requests_suspended")
        time.sleep(1)  # for the look that the request has brought
        pids = [service.pid, *(worker["pid"] for worker in service.workers())]
        before = [switches(pid) for pid in pids]
        time.sleep(2)  # the measure is what happens in it
        grown = [switches(pid) - count for pid, count in zip(pids, before, strict=True)]
        assert client.recv(1000).endswith(b"so")
    assert grown[0] <= 8, grown  # the tick, and this test
    assert max(grown[1:]) <= 2, grown
    assert "event loop" not in service.log()


def test_without_a_limit_nothing_is_told(service: Daemon) -> None:
    service.write_app(APP)
    service.start("-w", "1", "--lag-limit", "0")
    with dial(service) as client:
        ask(client, "/step")
        until(lambda: service.workers()[0]["busy_for"] > 0.5, "the loop is blocked")
        (service.dir / "let-go").touch()
        assert client.recv(1000).endswith(b"so")
    assert "event loop" not in service.log()
    assert service.workers()[0]["blocked"] is None
    assert service.metric("forkd_loop_lag_seconds_sum") > 0.5


def test_of_a_stream_the_stack_is_told(service: Daemon) -> None:
    service.write_app(
        "import asyncio, os, time\n"
        "class Protocol(asyncio.Protocol):\n"
        "    def connection_made(self, transport):\n"
        "        self.transport = transport\n"
        "    def data_received(self, data):\n"
        "        while not os.path.exists('let-go'):\n"
        "            time.sleep(0.01)\n"
        "        self.transport.write(data)\n"
        "app = Protocol\n"
    )
    service.start("-w", "1")
    with dial(service) as client:
        client.sendall(b"hello")
        until(lambda: "so far by stream\n" in service.log(), "it is told")
        assert "in data_received\n" in service.log()
        (service.dir / "let-go").touch()
        assert client.recv(100) == b"hello"


@pytest.mark.parametrize(
    ("path", "by"),
    [("/child", "GET /child"), ("/slow-child", "GET /slow-child"), ("/slow-task", "task poller (poll)")],
)
def test_a_worker_that_is_killed_for_it_is_reported_with_its_name(
    service: Daemon, path: str, by: str
) -> None:
    """Also where another step of the same turn was slow, and was looked at first."""
    service.write_app(APP)
    service.expected_errors = ["gone: timeout"]
    service.start("-w", "1", "--timeout", "1")
    with dial(service) as client:
        ask(client, path)
        found = r"its event loop has not come round for [\d.]+ s \(--timeout 1\)(.*)\n"
        end = until(lambda: re.search(found, service.log()), "it is killed")
        assert end[1] == f": it is at {by}"


def test_a_child_of_the_application_has_no_handler_of_it(service: Daemon, loop: str) -> None:
    service.write_app(
        "import os, signal\n"
        "from asgi_site import answer\n"
        "async def app(scope, receive, send):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        os.kill(os.getpid(), signal.SIGRTMIN + 6)\n"
        "        os._exit(0)\n"
        "    how = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "    await answer(send, b'%d' % (how + signal.SIGRTMIN))\n"
    )
    take(service, "asgi_site")
    service.start("-w", "1", "--lifespan", "off", "--loop", loop)
    assert service.get() == "-6"  # it has ended that
