"""Random programs that receive, in a task that waits at its gate over many messages (asgi_gate.c) and in that
of the twin, which waits for a future of each: what an application sees is the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import random
import sys
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from .asgi_sockets import SocketSite
from .asgi_tasks import MODES, VARIABLE, Step, current

NATIVE = [mode for mode in MODES if mode != "twin"]
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", 4000)) // 20
EAGER = sys.version_info >= (3, 12)
Log = list[Any]


@types.coroutine
def by_hand(step: Any) -> Generator[Any, Any, Any]:
    """Drives an awaitable as a coroutine does that is written as a generator."""
    value = None
    while True:
        try:
            waited = step.send(value)
        except StopIteration as stop:
            return stop.value
        try:
            value = yield waited
        except BaseException as thrown:
            step.throw(thrown)
            raise


class World:
    """What a program acts on."""

    def __init__(self, site: SocketSite, log: Log) -> None:
        self.site = site
        self.log = log
        self.timeouts: list[asyncio.Timeout] = []
        self.scopes: list[Any] = []
        self.full = True  # what is sent has to wait

    async def receive(self, at: int = 0) -> object:
        message = await self.site.sockets[at].flow.receive()
        return message.get("text", "end")

    def make_room(self) -> None:
        room = self.site.sockets[0].room
        if room is not None and not room.done():
            room.set_result(None)

    def child(self, step: Step) -> asyncio.Task[Any]:
        task = self.site.loop.create_task(step)
        self.site.children.append(task)
        return task


OPERATIONS: list[Callable[[World], Step]] = []
operation = OPERATIONS.append


@operation
async def one(world: World) -> object:
    return await world.receive()


@operation
async def several(world: World) -> object:
    return [await world.receive() for _ in range(3)]


@operation
async def of_the_other(world: World) -> object:
    return await world.receive(1)


@operation
async def echo(world: World) -> object:
    text = await world.receive()
    await world.site.sockets[0].flow.send({"type": "websocket.send", "text": str(text)})
    return world.site.sockets[0].sent()


@operation
async def a_send_that_waits(world: World) -> object:
    socket = world.site.sockets[0]
    text = await world.receive()
    plain, socket.flow.plain = socket.flow.plain, False
    socket.room = world.site.loop.create_future() if world.full else None
    try:
        await socket.flow.send({"type": "websocket.send", "text": str(text)})
    finally:
        socket.flow.plain, socket.room = plain and not socket.flow.over, None
    return socket.sent(), await world.receive()


@operation
async def a_variable(world: World) -> object:
    before = VARIABLE.get()
    VARIABLE.set(await world.receive())
    return before


@operation
async def a_future_behind_it(world: World) -> object:
    text = await world.receive()
    future = world.site.loop.create_future()
    world.site.loop.call_soon(lambda: future.done() or future.set_result(text))
    return await future, await world.receive()


@operation
async def a_future_that_is_done(world: World) -> object:
    await world.receive()
    future: asyncio.Future[int] = world.site.loop.create_future()
    future.set_exception(KeyError("done"))
    return await future


@operation
async def a_child(world: World) -> object:
    await world.receive()
    return await world.child(world.receive())


@operation
async def a_child_that_goes_on(world: World) -> object:
    world.child(world.receive())
    return await world.receive()


@operation
async def together(world: World) -> object:
    await world.receive()
    return await asyncio.gather(world.receive(), world.receive(), world.receive(1))


@operation
async def a_group_that_fails(world: World) -> object:
    async with asyncio.TaskGroup() as group:
        group.create_task(world.receive())
        await world.receive()
        raise KeyError("body")


@operation
async def first_of_two(world: World) -> object:
    tasks = [world.child(world.receive(at)) for at in (0, 1)]
    done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    return sorted(str(task.result()) for task in done)


@operation
async def shield(world: World) -> object:
    await world.receive()
    return await asyncio.shield(world.child(world.receive()))


@operation
async def no_time(world: World) -> object:
    await world.receive()
    return await asyncio.wait_for(world.receive(), 0)


@operation
async def time_out_at_once(world: World) -> object:
    await world.receive()
    async with asyncio.timeout(0):
        return await world.receive()


@operation
async def time_out(world: World) -> object:
    """At some time that is not here."""
    async with asyncio.timeout(None) as timeout:
        world.timeouts.append(timeout)
        try:
            return await world.receive(), await world.receive()
        finally:
            world.timeouts.remove(timeout)


@operation
async def scope(world: World) -> object:
    anyio = pytest.importorskip("anyio")
    with anyio.CancelScope() as scope:
        world.scopes.append(scope)
        try:
            return await world.receive(), await world.receive()
        finally:
            world.scopes.remove(scope)
    return "left"


@operation
async def a_scope_that_is_left(world: World) -> object:
    anyio = pytest.importorskip("anyio")
    await world.receive()
    with anyio.CancelScope() as scope:
        scope.cancel()
        return await world.receive()
    return "left"


@operation
async def cancel_itself(world: World) -> object:
    await world.receive()
    current().cancel("itself")
    return await world.receive()


@operation
async def cancel_itself_and_return(world: World) -> object:
    await world.receive()
    return current().cancel("returns")


@operation
async def cancel_itself_and_wait(world: World) -> object:
    await world.receive()
    current().cancel("first")
    current().cancel("second")
    return await asyncio.sleep(0)


@operation
async def take_it_back(world: World) -> object:
    await world.receive()
    current().cancel("taken back")
    left = current().uncancel()
    return left, await world.receive()


@operation
async def behind_a_failure(world: World) -> object:
    try:
        await world.receive()
        raise ValueError("body")
    finally:
        world.log.append(await world.receive())


@operation
async def a_look(world: World) -> object:
    await world.receive()
    task = current()
    coro: Any = task.get_coro()
    return (
        task in asyncio.all_tasks(), len(task.get_stack()) > 0, task.done(), task.cancelling(),
        inspect.getcoroutinestate(coro), task is world.site.task,
    )  # fmt: skip


@operation
async def driven_by_hand(world: World) -> object:
    receive: Any = world.site.sockets[0].flow.receive
    return [await by_hand(receive()), await by_hand(receive())]


@operation
async def begun_by_hand(world: World) -> object:
    """Its first step is made here, and the others are a child's."""
    step: Any = world.receive()
    try:
        waited = step.send(None)
    except StopIteration as stop:
        return stop.value

    @types.coroutine
    def others() -> Generator[Any, Any, Any]:
        yield waited
        return (yield from step)

    async def child() -> object:
        text: object = await others()
        return text

    task = world.child(child())
    return [await world.receive(1), await world.receive(1), await task]


@operation
async def waited_for_by_hand(world: World) -> object:
    """As a Task waits: the future alone is waited for."""
    step: Any = world.receive()
    while True:
        try:
            waited = step.send(None)
        except StopIteration as stop:
            return stop.value
        waited._asyncio_future_blocking = False
        try:
            await waited
        except BaseException as thrown:
            step.throw(thrown)
            raise


@operation
async def two_by_hand(world: World) -> object:
    steps: list[Any] = [world.receive(), world.receive(1)]
    futures = []
    for step in steps:
        with contextlib.suppress(StopIteration):
            futures.append(step.send(None))
    for future in futures:
        future._asyncio_future_blocking = False
    world.log.append(len(futures))
    world.log.append(await world.receive())
    for step in steps:
        step.close()
    return await world.receive()


@operation
async def in_greenlets(world: World) -> object:
    """Each step is made in one."""
    greenlet = pytest.importorskip("greenlet").greenlet

    class Steps:
        def __init__(self) -> None:
            self.step: Any = world.receive()

        def send(self, value: object) -> object:
            return greenlet(self.step.send).switch(value)

        def throw(self, thrown: BaseException) -> object:
            return greenlet(self.step.throw).switch(thrown)

    return [await by_hand(Steps()), await by_hand(Steps())]


@operation
async def in_a_generator(world: World) -> object:
    async def messages() -> Any:
        try:
            while True:
                yield await world.receive()
        finally:
            world.log.append("closed")

    generator = messages()
    async for each in generator:
        await generator.aclose()
        return each


if EAGER:

    @operation
    async def an_eager_child(world: World) -> object:
        await world.receive()
        eager: Any = asyncio.Task
        child = eager(world.receive(), loop=world.site.loop, eager_start=True)
        world.site.children.append(child)
        return [await world.receive(), await child]

    @operation
    async def an_eager_child_that_is_cancelled(world: World) -> object:
        await world.receive()
        eager: Any = asyncio.Task
        child = eager(world.receive(), loop=world.site.loop, eager_start=True)
        world.site.loop.call_soon(child.cancel)
        return await world.receive()


@operation
async def debug_mode(world: World) -> object:
    await world.receive()
    world.site.loop.set_debug(not world.site.loop.get_debug())
    return await world.receive()


@operation
async def a_task_factory(world: World) -> object:
    def factory(loop: Any, coro: Any, **keywords: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=loop, **keywords)

    await world.receive()
    world.site.loop.set_task_factory(factory)
    return await world.receive()


LASTS = ["returns", "raises", "exits", "cancelled", "receives"]


def program(chance: random.Random) -> Callable[[World], Step]:
    steps = [chance.choice(OPERATIONS) for _ in range(chance.randint(1, 6))]
    last = chance.choice(LASTS)

    def make(world: World) -> Step:
        log = world.log

        async def app() -> None:
            for each in steps:
                try:
                    log.append((each.__name__, await each(world)))
                except BaseException as failure:
                    log.append((each.__name__, type(failure).__name__, str(failure)))
            task = current()
            log.append((task.done(), task.cancelling(), VARIABLE.get()))
            match last:
                case "raises":
                    raise ValueError
                case "exits":
                    raise SystemExit(3)
                case "cancelled":
                    raise asyncio.CancelledError("own")
                case "receives":
                    while await world.receive() != "end":
                        pass

        return app()

    return make


EVENTS = ["message"] * 8 + ["other"] * 2 + ["packet", "cancel", "time", "look", "collect"]


def events(chance: random.Random, site: SocketSite, world: World) -> Iterator[None]:
    """What happens to it from outside."""
    task = site.task
    assert task is not None
    for number in range(chance.randint(2, 20)):
        match chance.choice(EVENTS):
            case "message":
                site.arrives(str(number))
            case "other":
                site.arrives(str(number), at=1)
            case "packet":
                site.arrives(*(f"{number}{letter}" for letter in "abc"[: chance.randint(1, 3)]))
            case "cancel":
                site.settle(lambda: task.cancel("outside"))
            case "time":
                site.settle(world.make_room)
                for timeout in world.timeouts:
                    site.settle(lambda timeout=timeout: timeout.reschedule(0))
                for scope in [*world.scopes]:
                    site.settle(scope.cancel)
            case "look":
                coro: Any = task.get_coro()
                states = (task.done(), task.cancelling(), len(task.get_stack()) > 0, task in site.waiting)
                world.log.append((*states, inspect.getcoroutinestate(coro)))
            case _:
                gc.collect(0)
        yield


def seen(seed: int, mode: str) -> list[Any]:
    site, log = SocketSite(mode, 2), []
    try:
        chance = random.Random(seed)
        world = World(site, log)
        site.begin(program(chance)(world))
        for _ in events(chance, site, world):
            log.append("event")
        world.full = False
        site.settle(world.make_room)
        site.finish()
        assert site.task is not None and site.task.done()
        log.append((site.task.cancelled(), len(site.waiting)))
        for child in site.children:
            log.append(None if child.cancelled() else str(child.exception() or child.result()))
        return [*log, *site.failures, *(each.sent() for each in site.sockets)]
    finally:
        site.close()


@pytest.mark.parametrize("mode", NATIVE)
def test_random_programs_are_seen_alike(mode: str) -> None:
    for seed in range(ROUNDS):
        assert seen(seed, mode) == seen(seed, "twin"), seed


@pytest.mark.soak
@pytest.mark.parametrize("mode", NATIVE)
def test_many_random_programs(mode: str) -> None:
    first = random.SystemRandom().randrange(10**9)
    for seed in range(first, first + 100 * ROUNDS):
        assert seen(seed, mode) == seen(seed, "twin"), seed
