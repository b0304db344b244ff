"""The tasks of requests: each runs its coroutine in the loop, in a context of its own.

Here the loop makes the first step of each. Native code (native/asgi_task.c) makes it at once, where asyncio
and the loop are as they were: without a task factory, which makes each request's task, too, without debug
mode, and not patched, as by nest_asyncio. In a child, on the thread of its loop.
"""

from __future__ import annotations

import _asyncio
import asyncio
import contextvars
import sys
import types
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from forkd.app.asgi.steps import Held, in_steps
from forkd.native import pick
from forkd.session.seam import Recorder

#: From this version on a Task can make its first step as it is made.
_EAGER = (3, 12)

Waiting = dict["asyncio.Task[None]", bytes]
MakeTask = Callable[[Any, contextvars.Context], "asyncio.Task[None]"]


class RequestTasks(Protocol):
    def start(self, request: Held, coroutine: Coroutine[Any, Any, None], line: bytes) -> bool:
        """Run it. Whether it goes on; its task is among those that wait then, with `line`, until it ends."""
        ...


class PythonTasks:
    def __init__(
        self, context: contextvars.Context, recorder: Recorder, waiting: Waiting, by_loop: MakeTask
    ) -> None:
        self._context = context
        self._recorder = recorder
        self._waiting = waiting
        self._by_loop = by_loop

    def start(self, request: Held, coroutine: Coroutine[Any, Any, None], line: bytes) -> bool:
        task = self._by_loop(self._run(coroutine, request), self._context.copy())
        if task.done():
            return False
        self._waiting[task] = line
        task.add_done_callback(self._forget)
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._waiting.pop(task, None)

    async def _run(self, coroutine: Coroutine[Any, Any, None], request: Held) -> None:
        await in_steps(coroutine, request, self._recorder)


def make_tasks(
    loop: asyncio.AbstractEventLoop, context: contextvars.Context, recorder: Recorder, waiting: Waiting,
    *, lazy: bool, native: bool,
) -> RequestTasks:  # fmt: skip
    """`context`: each task has a copy. `waiting`: for the tasks that go on. `lazy`: a Task that nobody has
    seen serves again."""

    def by_loop(coroutine: Any, context: contextvars.Context) -> asyncio.Task[None]:
        if loop.get_task_factory() is None:
            return asyncio.Task(coroutine, loop=loop, context=context)
        made: asyncio.Task[None] = context.run(loop.create_task, coroutine)  # many take no context
        return made

    native_tasks = pick("RequestTasks", None, native)
    if native_tasks is None:
        return PythonTasks(context, recorder, waiting, by_loop)
    task, inside = _asyncio.Task, getattr(loop, "__dict__", {})
    made: RequestTasks = native_tasks(
        loop=loop, context=context, recorder=recorder, waiting=waiting, task=task,
        current=asyncio.current_task, enter=asyncio._enter_task, leave=asyncio._leave_task,
        add=asyncio._register_task, drop=asyncio._unregister_task,
        coroutine=types.CoroutineType, awaiting=_awaiting, by_loop=by_loop,
        asyncio=vars(asyncio), in_loop=inside if "_task_factory" in inside else None,
        size=task.__basicsize__, weak_at=task.__weakrefoffset__,
        lazy=lazy, eager=not lazy and sys.version_info >= _EAGER,
    )  # fmt: skip
    return made


async def _awaiting(awaitable: Any) -> None:
    await awaitable
