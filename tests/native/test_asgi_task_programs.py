"""What a request may do with its task, by native code and by its twin: each method, and random programs."""

from __future__ import annotations

import asyncio
import os
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from .asgi_tasks import MODES, VARIABLE, Site, Step, Yields, current

NATIVE = [mode for mode in MODES if mode != "twin"]

# ---- each method --------------------------------------------------------------

#: Of dir(Task), with arguments; what is not here has none.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "add_done_callback": (print,), "remove_done_callback": (print,), "set_name": ("name",),
    "set_result": (1,), "set_exception": (ValueError(),), "__eq__": (1,), "__ne__": (1,), "__lt__": (1,),
    "__le__": (1,), "__gt__": (1,), "__ge__": (1,), "__format__": ("",), "__getattribute__": ("done",),
    "__setattr__": ("mine", 1), "__delattr__": ("mine",), "__reduce_ex__": (2,), "__class_getitem__": (int,),
}  # fmt: skip
#: That make another one of it, or tell of the memory of the interpreter; and what is told of nowhere.
LEFT_OUT = {
    "_callbacks", "_log_destroy_pending",
    "__init__", "__new__", "__del__", "__sizeof__", "__dir__", "__subclasshook__", "__init_subclass__",
}  # fmt: skip
NAMES = sorted(set(dir(asyncio.Task)) - LEFT_OUT)


def _told(site: Site, name: str, bound: bool, waits: int) -> list[object]:
    """What comes of it, and of the request."""
    log: list[object] = []

    def told(call: Callable[[], Any]) -> None:
        try:
            result = call()
            plain = isinstance(result, str | int | tuple)
            log.append(result if plain else type(result).__name__.removeprefix("Request").lower())
        except BaseException as failure:
            log.append(type(failure).__name__)

    async def app() -> None:
        task: Any = current()
        log.append(type(task))
        for _ in range(waits):
            await asyncio.sleep(0)
        member = getattr(task if bound else asyncio.Task, name)
        if callable(member):
            told(lambda: member(*([] if bound else [task]), *ARGUMENTS.get(name, ())))
        elif not bound and hasattr(member, "__get__"):
            told(lambda: member.__get__(task))
        else:
            log.append(type(member).__name__.removeprefix("Request").lower())
        log.append(task.done())
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            log.append("cancelled")

    site.start(app(), app())
    names = [one for one in log if isinstance(one, str) and ("Task-" in one or "Request-" in one)]
    return [*(one for one in log if one not in names and not (isinstance(one, int) and one > 99)), len(names)]


@pytest.mark.parametrize("waits", [0, 1])
@pytest.mark.parametrize("bound", [True, False], ids=["bound", "unbound"])
@pytest.mark.parametrize("mode", NATIVE)
def test_each_method_of_a_task(mode: str, bound: bool, waits: int) -> None:
    for name in NAMES:
        other, twin = Site(mode), Site("twin")
        assert _told(other, name, bound, waits) == _told(twin, name, bound, waits), name
        other.loop.close()
        twin.loop.close()


# ---- random programs, against the twin ---------------------------------------------------------


def program(random_: random.Random) -> Callable[[Site, list[object]], Step]:
    """A request that does random things to its task at random steps. What it saw is in the log."""
    steps = [random_.choice(OPERATIONS) for _ in range(random_.randint(1, 7))]
    last = random_.choice(["returns", "raises", "exits", "cancelled"])

    def make(site: Site, log: list[object]) -> Step:
        async def app() -> None:
            for operation in steps:
                try:
                    log.append(await operation(site, log))
                except BaseException as failure:
                    log.append((operation.__name__, type(failure).__name__, str(failure).partition(" <")[0]))
            task = current()
            log.append((task.done(), task.cancelling(), VARIABLE.get()))
            if last == "raises":
                raise ValueError
            if last == "exits":
                raise SystemExit(3)
            if last == "cancelled":
                raise asyncio.CancelledError("own")

        return app()

    return make


OPERATIONS: list[Callable[[Site, list[object]], Step]] = []
operation = OPERATIONS.append


@operation
async def cancel(site: Site, log: list[object]) -> object:
    return current().cancel("bound")


@operation
async def cancel_unbound(site: Site, log: list[object]) -> object:
    return asyncio.Task.cancel(current(), "unbound")


@operation
async def cancel_soon(site: Site, log: list[object]) -> object:
    site.loop.call_soon(current().cancel, "soon")
    return None


@operation
async def uncancel(site: Site, log: list[object]) -> object:
    return current().uncancel()


@operation
async def yield_once(site: Site, log: list[object]) -> object:
    return await asyncio.sleep(0, "slept")


@operation
async def wait_for_a_future(site: Site, log: list[object]) -> object:
    future = site.loop.create_future()
    site.loop.call_soon(lambda: future.done() or future.set_result("future"))
    return await future


@operation
async def wait_for_one_that_failed(site: Site, log: list[object]) -> object:
    future = site.loop.create_future()
    future.set_exception(KeyError("future"))
    return await future


@operation
async def wait_for_a_child(site: Site, log: list[object]) -> object:
    return await site.loop.create_task(asyncio.sleep(0, "child"))


@operation
async def wait_in_a_group(site: Site, log: list[object]) -> object:
    async with asyncio.TaskGroup() as group:
        child = group.create_task(asyncio.sleep(0, "group"))
    return child.result()


@operation
async def time_out(site: Site, log: list[object]) -> object:
    async with asyncio.timeout(0):
        await asyncio.sleep(1)


@operation
async def shield(site: Site, log: list[object]) -> object:
    return await asyncio.shield(site.loop.create_task(asyncio.sleep(0, "shield")))


@operation
async def yield_nonsense(site: Site, log: list[object]) -> object:
    await Yields(7)
    return None


@operation
async def wait_for_itself(site: Site, log: list[object]) -> object:
    await current()
    return None


@operation
async def add_a_callback(site: Site, log: list[object]) -> object:
    current().add_done_callback(lambda task: log.append((task.done(), task.cancelled())))
    return None


@operation
async def keep(site: Site, log: list[object]) -> object:
    log.append(current().done)
    log.pop()
    log.append(weakref.ref(current())() is current())
    return None


@operation
async def set_a_variable(site: Site, log: list[object]) -> object:
    before = VARIABLE.get()
    VARIABLE.set("set")
    return before


@operation
async def look(site: Site, log: list[object]) -> object:
    task = current()
    return task in asyncio.all_tasks(), asyncio.isfuture(task), len(task.get_stack()) > 0


@operation
async def rename(site: Site, log: list[object]) -> object:
    current().set_name("mine")
    return current().get_name()


@operation
async def another_waits_for_it(site: Site, log: list[object]) -> object:
    task = current()

    async def child() -> None:
        try:
            log.append(await asyncio.wait([task], timeout=1) is not None)
        except BaseException as failure:
            log.append(type(failure).__name__)

    site.children.append(site.loop.create_task(child()))
    return None


@pytest.mark.parametrize("mode", NATIVE)
def test_random_programs_are_seen_alike(mode: str) -> None:
    for seed in range(int(os.environ.get("FUZZ_ROUNDS", 3000)) // 10):
        logs: list[list[object]] = []
        for made in (Site(mode), Site("twin")):
            chance = random.Random(seed)
            log: list[object] = []
            for _ in range(3):
                made.start(program(chance)(made, log))
            logs.append([*log, *made.failures])
            made.loop.close()
        assert logs[0] == logs[1], seed
