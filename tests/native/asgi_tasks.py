"""A loop with the tasks of requests, as a worker has them, for the tests here."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import forkd.native
from forkd.app.asgi.tasks import LoopTasks, make_tasks
from forkd.session.seam import Recorder

Step = Coroutine[Any, Any, Any]
MODES = ["twin", "real", "lazy"] if forkd.native.native is not None else ["twin"]
VARIABLE: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default=None)


new_loop = asyncio.SelectorEventLoop


class Log:
    """A recorder, for Python, that notes which request holds the loop."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def resume(self, ticket: int) -> None:
        self.held.append(ticket)

    def pause(self) -> None: ...


class Request:
    ticket = 7

    def __init__(self, step: Step) -> None:
        self.begin = lambda: step

    def ended(self, failure: BaseException | None) -> None:
        assert failure is None, failure


class Site:
    """A loop, its tasks, and the turn in which a server begins them."""

    def __init__(self, mode: str, make_loop: Callable[[], asyncio.AbstractEventLoop] = new_loop) -> None:
        self.mode = mode
        self.loop = make_loop()
        self.waiting: dict[asyncio.Task[None], bytes] = {}
        self.children: list[asyncio.Task[None]] = []  # of requests, which are waited for, too
        self.failures: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context["message"]))
        recorder: Any = Log()
        self.recorder: Recorder = recorder
        self.tasks = make_tasks(
            self.loop, contextvars.Context(), recorder, self.waiting, LoopTasks(self.loop, None),
            lazy=mode == "lazy", native=mode != "twin",
        )  # fmt: skip

    def start(self, *steps: Step) -> None:
        """Begin them one after the other, as from the turn of the loop, and wait for all that goes on."""
        def turn() -> None:
            for step in steps:
                self.tasks.start(Request(self._ended(step)), b"GET /")

        self.loop.call_soon(turn)
        self.loop.run_until_complete(self.settled())

    async def settled(self) -> None:
        await asyncio.sleep(0)
        if left := [*self.waiting, *self.children]:
            _, late = await asyncio.wait(left, timeout=30)
            assert not late, late
            await asyncio.sleep(0)

    async def _ended(self, step: Step) -> None:
        """As a request ends, whose failures are logged."""
        try:
            await step
        except BaseException as failure:
            self.failures.append(repr(failure))


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


class Yields:
    """An awaitable of one value."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __await__(self) -> Iterator[Any]:
        return iter([self.value])
