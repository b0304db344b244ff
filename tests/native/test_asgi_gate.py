"""The gate at which the task of a WebSocket waits over many messages (asgi_gate.c): cancellations in the turn
of a message, ends, and loops within loops."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forkd.http import frames
from tests.http.test_frames import masked

from .asgi_sockets import SocketSite
from .asgi_tasks import MODES, VARIABLE, current, new_loop

NATIVE = [mode for mode in MODES if mode != "twin"]
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", 3000)) // 100


# ---- when it is cancelled in the turn in which a message arrives --------------------------------


def raced(seed: int, mode: str) -> tuple[list[str], list[str], bool]:
    """Where native code makes a step at once, its twin may see the cancellation first, and the message next.
    Returns the messages, the rest of the log, and whether it has ended."""
    site, log = SocketSite(mode), []
    flow, chance = site.sockets[0].flow, random.Random(seed)

    async def app() -> None:
        while True:
            try:
                text = (await flow.receive()).get("text", "end")
                log.append(text)
                if text == "end":
                    return
                match int(text) % 4:
                    case 0:
                        await asyncio.sleep(0)
                    case 1:
                        VARIABLE.set(text)
                    case 2:
                        await flow.send({"type": "websocket.send", "text": text})
            except asyncio.CancelledError:
                log.append("cancelled")
                current().uncancel()

    try:
        site.begin(app())
        task = site.task
        assert task is not None
        for number in range(0, 30, 3):
            texts = [str(number + at) for at in range(chance.randint(1, 3))]
            calls: list[Callable[[], object]] = [
                lambda text=text: site.sockets[0].arrive(masked(frames.TEXT, text.encode())) for text in texts
            ]
            calls.insert(chance.randint(0, len(calls)), task.cancel)
            site.settle(*calls)
        site.finish()
        log.append(str(asyncio.current_task(site.loop)))
        messages = [each for each in log if each.isdigit()]
        return messages, sorted(each for each in log if not each.isdigit()), task.done()
    finally:
        site.close()


@pytest.mark.parametrize("mode", NATIVE)
def test_a_cancellation_and_a_message_in_one_turn(mode: str) -> None:
    for seed in range(ROUNDS):
        assert raced(seed, mode) == raced(seed, "twin"), seed
        assert raced(seed, mode)[1] == ["None", *["cancelled"] * 10, "end"]


# ---- what once went wrong -----------------------------------------------------------------------


@pytest.fixture(params=[*MODES, *(f"{mode}-uvloop" for mode in NATIVE)])
def site(request: pytest.FixtureRequest) -> Iterator[SocketSite]:
    mode, _, loop = request.param.partition("-")
    made = SocketSite(mode, 2, pytest.importorskip("uvloop").new_event_loop if loop else new_loop)
    yield made
    made.close()


@pytest.mark.parametrize("ends", [None, ValueError(), SystemExit(3)], ids=str)
def test_a_task_that_ends_with_a_message_is_not_the_current_one_any_more(
    site: SocketSite, ends: BaseException | None
) -> None:
    seen: list[Any] = []

    async def app() -> None:
        for _ in range(3):
            seen.append((await site.sockets[0].flow.receive())["text"])
        if ends is not None:
            raise ends

    site.begin(app())
    for text in "abc":
        site.arrives(text)
    assert site.task is not None and site.task.done() and not site.task.cancelled()
    assert seen == ["a", "b", "c"] and site.failures == ([] if ends is None else [repr(ends)])
    assert asyncio.current_task(site.loop) is None and not site.waiting


def test_nothing_is_left_of_a_request(site: SocketSite) -> None:
    kept: list[Any] = []

    async def app() -> None:
        kept.append(weakref.ref(current()))
        for _ in range(3):
            await site.sockets[0].flow.receive()
        kept.append(weakref.ref(current()))

    gc.disable()
    try:
        site.begin(app())
        for text in "abc":
            site.arrives(text)
        site.task = None
        assert [each() for each in kept] == [None, None]
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_forgets_a_task_at_the_gate(site: SocketSite) -> None:
    """Its loop is closed, and all is collected."""

    async def app() -> None:
        while True:
            await site.sockets[0].flow.receive()

    site.begin(app())
    site.arrives("a")
    kept = weakref.ref(site.task)
    site.waiting.clear()
    site.task = None
    site.sockets[0].flow.discard()
    site.sockets.clear()
    gc.collect()
    assert kept() is None


NESTED = """
import asyncio, sys
import nest_asyncio
from tests.native.asgi_sockets import SocketSite
from tests.native.asgi_tasks import current

site, log = SocketSite(sys.argv[1], 2), []
receive, other = site.sockets[0].flow.receive, site.sockets[1].flow.receive

async def app():
    log.append((await receive())["text"])
    nest_asyncio.apply(site.loop)
    for _ in range(2):
        log.append((await receive())["text"])
        async def inner(step):
            return (await step)["text"]
        site.loop.call_later(0.01, lambda: site.sockets[1].arrive(FRAME))
        log.append(site.loop.run_until_complete(inner(other())))
        site.loop.call_later(0.01, lambda: site.sockets[0].arrive(FRAME))
        log.append(site.loop.run_until_complete(inner(receive())))
    log.append((await receive())["text"])
    site.loop.call_soon(current().cancel)
    site.loop.run_until_complete(asyncio.sleep(0.01))
    try:
        await receive()
    except asyncio.CancelledError:
        log.append("cancelled")
    log.append((await receive())["type"])

from tests.http.test_frames import masked
FRAME = masked(1, b"inner")
site.begin(app())
for text in "abcd":
    site.arrives(text)
site.finish()
print(*log, *site.failures, site.task.done())
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_loop_that_is_run_in_a_step(mode: str) -> None:
    """nest_asyncio.apply() in a request: the tasks of that loop do not wait at its gate."""
    pytest.importorskip("nest_asyncio")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", NESTED, mode], capture_output=True, text=True, timeout=30, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    wanted = "a b inner inner c inner inner d cancelled websocket.disconnect True\n"
    assert done.stdout == wanted, done.stderr
