"""The task of a request, made by native code and by its twin: what an application may do with it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

import forkd.native
from forkd.app.asgi.tasks import make_tasks
from forkd.session.seam import Recorder

Step = Coroutine[Any, Any, Any]
MODES = ["twin", "real", "lazy"] if forkd.native.native is not None else ["twin"]
VARIABLE: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default=None)


class Log:
    """A recorder, for Python, that notes which request holds the loop."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def resume(self, ticket: int) -> None:
        self.held.append(ticket)

    def pause(self) -> None: ...


class Request:
    ticket = 7


class Site:
    """A loop, its tasks, and the turn in which a server begins them."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.loop = asyncio.new_event_loop()
        self.waiting: dict[asyncio.Task[None], bytes] = {}
        self.failures: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context["message"]))
        recorder: Any = Log()
        self.recorder: Recorder = recorder
        self.tasks = make_tasks(
            self.loop, contextvars.Context(), recorder, self.waiting,
            lazy=mode == "lazy", native=mode != "twin",
        )  # fmt: skip

    def start(self, *steps: Step) -> None:
        """Begin them one after the other, as from the turn of the loop, and wait for all that goes on."""
        def turn() -> None:
            for step in steps:
                self.tasks.start(Request(), self._ended(step), b"GET /")

        self.loop.call_soon(turn)
        self.loop.run_until_complete(self._settled())

    async def _settled(self) -> None:
        await asyncio.sleep(0)
        while self.waiting:
            await asyncio.wait(list(self.waiting), timeout=5)
            await asyncio.sleep(0)

    async def _ended(self, step: Step) -> None:
        """As a request ends, whose failures are logged."""
        try:
            await step
        except BaseException as failure:
            self.failures.append(repr(failure))


@pytest.fixture(params=MODES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    made = Site(request.param)
    yield made
    made.loop.close()


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


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


def test_the_first_step_is_made_at_once(site: Site) -> None:
    order: list[str] = []

    async def app(name: str) -> None:
        order.append(name)
        await asyncio.sleep(0)
        order.append(name)

    def turn() -> None:
        for name in "ab":
            site.tasks.start(Request(), app(name), b"GET /")
            order.append("turn")

    site.loop.call_soon(turn)
    site.loop.run_until_complete(site._settled())
    assert "".join(order) == ("turnturnabab" if site.mode == "twin" else "aturnbturnab")


def test_never_within_the_step_of_another(site: Site) -> None:
    order: list[str] = []

    async def inner() -> None:
        order.append("inner")

    async def outer() -> None:
        site.tasks.start(Request(), inner(), b"GET /inner")
        order.append("outer")
        await asyncio.sleep(0)

    site.start(outer())
    assert order == ["outer", "inner"]
