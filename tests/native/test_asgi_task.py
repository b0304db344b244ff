"""The task of a request, made by native code and by its twin: what an application sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from .asgi_tasks import MODES, VARIABLE, Request, Site, Step, Yields, current


@pytest.fixture(params=[*MODES, *(f"{mode}-uvloop" for mode in MODES if mode != "twin")])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    mode, _, loop = request.param.partition("-")
    made = Site(mode, pytest.importorskip("uvloop").new_event_loop) if loop else Site(mode)
    yield made
    made.loop.close()


# ---- the usual --------------------------------------------------------------------------------


def test_each_request_has_a_copy_of_the_context_and_a_name_of_its_own(site: Site) -> None:
    found: list[object] = []
    names: list[str] = []

    async def app(waits: bool) -> None:
        found.append(VARIABLE.get())
        VARIABLE.set("mine")
        names.append(current().get_name())
        if waits:
            await asyncio.sleep(0)
        assert VARIABLE.get() == "mine" and names[-1]

    site.start(*(app(number % 3 == 0) for number in range(12)))
    assert found == [None] * 12 and len(set(names)) == 12 and not site.failures


def test_a_task_is_a_task_of_asyncio_all_the_time(site: Site) -> None:
    async def app() -> None:
        task = current()
        assert isinstance(task, asyncio.Task) and not task.done() and not task.cancelled()
        assert task.get_loop() is site.loop and asyncio.iscoroutine(task.get_coro())
        assert "pending" in repr(task) and task.cancelling() == 0
        await asyncio.sleep(0)
        assert current() is task and task in asyncio.all_tasks() and not task.done()
        await asyncio.sleep(0.001)
        assert current() is task

    site.start(app(), app(), app())
    assert not site.failures and not site.waiting


def test_a_look_at_one_that_has_ended(site: Site) -> None:
    kept: list[asyncio.Task[Any]] = []

    async def app() -> None:
        kept.append(current())

    site.start(app(), app())
    for task in kept:
        coroutine = asyncio.Task.get_coro(task)  # None where it began eagerly
        assert coroutine is None or asyncio.iscoroutine(coroutine)
        assert task.done() and "finished" in repr(task)


def test_a_look_at_the_coroutine_of_a_task(site: Site) -> None:
    states: list[str] = []
    kept: list[Any] = []

    def note() -> None:
        states.append(inspect.getcoroutinestate(kept[0]))

    async def app() -> None:
        kept.append(current().get_coro())
        note()
        site.loop.call_soon(note)
        await asyncio.sleep(0.001)
        note()
        assert kept[0].cr_origin is None

    site.start(app())
    note()
    assert states == ["CORO_RUNNING", "CORO_SUSPENDED", "CORO_RUNNING", "CORO_CLOSED"]


def test_nothing_can_be_thrown_into_a_coroutine_that_runs(site: Site) -> None:
    done: list[str] = []

    async def app() -> None:
        with pytest.raises(ValueError, match="already executing"):
            current().get_coro().throw(KeyError)  # type: ignore[union-attr]
        await asyncio.sleep(0)
        done.append("app")

    site.start(app(), app())
    assert done == ["app", "app"] and not site.failures


def test_call_soon_of_the_loop_is_left_as_it_was_put(site: Site) -> None:
    called: list[object] = []
    original = site.loop.call_soon

    def call_soon(callback: Any, *args: Any, context: Any = None) -> Any:
        called.append(callback)
        return original(callback, *args, context=context)

    async def app() -> None: ...

    site.start(app(), app())
    site.loop.call_soon = call_soon  # type: ignore[assignment, method-assign]
    site.start(app(), app())
    assert site.loop.call_soon is call_soon and called


def test_the_first_step_is_made_at_once(site: Site) -> None:
    order: list[str] = []

    async def app(name: str) -> None:
        order.append(name)
        await asyncio.sleep(0)
        order.append(name)

    def turn() -> None:
        for name in "ab":
            site.tasks.start(Request(app(name)), b"GET /")
            order.append("turn")

    site.loop.call_soon(turn)
    site.loop.run_until_complete(site.settled())
    assert "".join(order) == ("turnturnabab" if site.mode == "twin" else "aturnbturnab")


def test_never_within_the_step_of_another(site: Site) -> None:
    order: list[str] = []

    async def inner() -> None:
        order.append("inner")

    async def outer() -> None:
        site.tasks.start(Request(inner()), b"GET /inner")
        order.append("outer")
        await asyncio.sleep(0)

    site.start(outer())
    assert order == ["outer", "inner"]


# ---- nothing of a request is seen by the next -----------------------------------------


async def _returns() -> None: ...


async def _fails() -> None:
    raise ValueError


async def _waits() -> None:
    await asyncio.sleep(0)


async def _is_cancelled() -> None:
    current().cancel()
    await asyncio.sleep(1)


async def _cancels_unbound() -> None:
    asyncio.Task.cancel(current())


ENDS = [_returns, _fails, _waits, _is_cancelled, _cancels_unbound]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "keep", ["weak-key", "finalizer", "weak-value", "attribute", "strong", "coroutine", "weak-coroutine"]
)
def test_what_is_kept_by_the_task_is_that_requests_alone(
    site: Site, keep: str, end: Callable[[], Step]
) -> None:
    """Requests that look for what the last one has left, and leave something."""
    by_key: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
    by_id: dict[int, int] = {}
    by_value: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
    strong: list[Any] = []
    found: list[object] = []

    async def app(number: int) -> None:
        task: Any = current()
        match keep:
            case "weak-key":
                found.append(by_key.get(task))
                by_key[task] = number
            case "finalizer":
                found.append(by_id.get(id(task)))
                by_id[id(task)] = number
                weakref.finalize(task, by_id.pop, id(task), None)
            case "weak-value":
                found.append(by_value.get("task") is task or None)
                by_value["task"] = task
            case "attribute":
                found.append(getattr(task, "number", None))
                task.number = number
            case "weak-coroutine":
                found.append(by_key.get(task.get_coro()))
                by_key[task.get_coro()] = number
            case "strong":
                found.append(task in strong or None)
                strong.append(task)
            case _:
                found.append(task.get_coro() in strong or None)
                strong.append(task.get_coro())
        del task
        await end()

    for number in range(5):
        site.start(app(number))
    assert found == [None] * 5
    gc.collect()
    assert not by_key and not by_id and not by_value
    assert all(task.done() for task in strong if isinstance(task, asyncio.Task))


def test_the_state_of_one_request_is_gone_when_the_next_begins(site: Site) -> None:
    """Without a collection of garbage, in one connection: the finalizer has run."""
    log: list[str] = []

    async def app() -> None:
        log.append("begins")
        weakref.finalize(current(), log.append, "gone")

    async def waits() -> None:
        await app()
        await asyncio.sleep(0)

    gc.disable()
    try:
        for step in (app, waits, app, waits):
            site.start(step())
    finally:
        gc.enable()
    assert log == ["begins", "gone"] * 4


# ---- looks from other threads ---------------------------------------------------------


def test_looks_from_another_thread(site: Site) -> None:
    ended = threading.Event()
    wrong: list[object] = []
    looks = 0

    def look() -> None:
        nonlocal looks
        while not ended.is_set():
            with contextlib.suppress(RuntimeError):  # asyncio's set of tasks changes too often
                for task in [*asyncio.all_tasks(site.loop), asyncio.current_task(site.loop)]:
                    if task is not None:
                        whole = task.get_loop() is site.loop and task.get_coro() is not None and repr(task)
                        if not (whole and task.get_name() and task.get_stack() is not None):
                            wrong.append(task)
            looks += 1

    async def app(number: int) -> None:
        VARIABLE.set(number)
        for _ in range(number % 3):
            await asyncio.sleep(0)
            assert VARIABLE.get() == number

    thread = threading.Thread(target=look)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        while looks < 50 and thread.is_alive():
            site.start(*(app(number) for number in range(50)))
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not wrong and not site.failures and not site.waiting


# ---- what may be waited for -----------------------------------------------------------


def test_what_may_not_be_waited_for(site: Site) -> None:
    other = asyncio.new_event_loop()
    thread = threading.get_ident()
    log: list[object] = []

    def generator() -> Iterator[Any]:
        log.append((yield))

    async def app(awaitable: Any, late: bool) -> None:
        if late:
            await asyncio.sleep(0)
        try:
            log.append(await awaitable)
        except BaseException as failure:
            log.append(type(failure).__name__)
        assert threading.get_ident() == thread

    def awaitables() -> list[Any]:
        done: asyncio.Future[int] = other.create_future()
        done.set_result(1)
        concurrent: Future[int] = Future()
        return [
            other.create_future(), done, Yields(1), Yields(None), Yields([]), Yields(concurrent),
            Yields(site.loop.create_future()), types.coroutine(generator)(),
        ]  # fmt: skip

    for late in (False, True):
        site.start(*(app(awaitable, late) for awaitable in awaitables()))
    usual = ["RuntimeError", 1, "RuntimeError", None, "RuntimeError", "RuntimeError", "RuntimeError", None]
    assert sorted(map(str, log)) == sorted(map(str, [*usual, None] * 2))
    other.close()
