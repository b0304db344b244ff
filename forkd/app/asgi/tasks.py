"""The tasks of requests: each runs its coroutine in the loop, in a context of its own.

Here the loop makes the first step of each. Native code (native/asgi_task.c) makes it at once, where asyncio
and the loop are as they were: without a task factory, which would make each request's task, too, without
debug mode, and not patched, as by nest_asyncio. In a child, on the thread of its loop.
"""

from __future__ import annotations

import _asyncio
import asyncio
import contextvars
import sys
import types
from collections.abc import Callable
from typing import Any, Protocol

from forkd.app.asgi.steps import in_steps
from forkd.native import OwnsTask, pick
from forkd.session.seam import Recorder
from forkd.system.forked import in_fork, leave

#: From this version on a Task makes its first step as it is made, where wanted. So it does from 3.12 on, but
#: get_coro() of one that has ended in it reads NULL (CPython's issue 122332).
_EAGER = (3, 12, 5)

Waiting = dict["asyncio.Task[None]", bytes]
#: Why a loop makes Tasks in its own way.
PATCHED = "asyncio was patched"
MakeTask = Callable[[Any, contextvars.Context], "asyncio.Task[None]"]


class RequestTasks(Protocol):
    patched: bool  # the loop makes them

    def start(self, request: OwnsTask, line: bytes) -> bool:
        """Run it. Whether it goes on; its task is among those that wait then, with `line`, until it ends."""
        ...


class PythonTasks:
    patched = False

    def __init__(
        self, context: contextvars.Context, recorder: Recorder, waiting: Waiting, by_loop: MakeTask
    ) -> None:
        self._context = context
        self._recorder = recorder
        self._waiting = waiting
        self._by_loop = by_loop

    def start(self, request: OwnsTask, line: bytes) -> bool:
        task = self._by_loop(self._run(request), self._context.copy())
        if task.done():
            return False
        self._waiting[task] = line
        task.add_done_callback(self._forget)
        return True

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._waiting.pop(task, None)

    async def _run(self, request: OwnsTask) -> None:
        await in_steps(self._serve(request), request, self._recorder)

    @staticmethod
    async def _serve(request: OwnsTask) -> None:
        failed: BaseException | None = None
        try:
            await request.begin()
            if in_fork:
                leave()
        except BaseException as failure:
            if in_fork:
                leave(failure)
            failed = failure
        request.ended(failed)


class LoopTasks:
    """Makes Tasks whose first step the loop makes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, say: Callable[[str], None] | None) -> None:
        """`say`: where else native code makes Tasks; called once for each reason why it does not."""
        self._loop = loop
        self._say = say
        self._said = ""

    def __call__(self, coroutine: Any, context: contextvars.Context) -> asyncio.Task[None]:
        self.look()
        if self._loop.get_task_factory() is None:
            return asyncio.Task(coroutine, loop=self._loop, context=context)
        made: asyncio.Task[None] = context.run(self._loop.create_task, coroutine)  # many take no context
        return made

    def look(self) -> str:
        """Why native code makes none; "" where it does."""
        why = why_by_loop(self._loop)
        if why and why != self._said and self._say is not None:
            self._say(f"the tasks of requests are made by the loop: {why}")
        self._said = why
        return why


def why_by_loop(loop: asyncio.AbstractEventLoop) -> str:
    """Why Tasks are to be made in the loop's own way; "" where asyncio and the loop are as they were."""
    if loop.get_task_factory() is not None:
        return "it has a task factory"
    if loop.get_debug():
        return "it is in debug mode"
    known = getattr(_asyncio, "current_task", None)
    if (
        asyncio.Task is not _asyncio.Task
        or (asyncio.current_task is not known and _is_foreign(asyncio.current_task, asyncio.tasks))
        or _is_foreign(type(loop).call_soon, asyncio.base_events)
        or "call_soon" in getattr(loop, "__dict__", ())
    ):
        return PATCHED
    return ""


def _is_foreign(function: Any, home: types.ModuleType) -> bool:
    """Whether a function in Python is another module's."""
    return isinstance(function, types.FunctionType) and function.__globals__ is not vars(home)


def make_tasks(
    loop: asyncio.AbstractEventLoop, context: contextvars.Context, recorder: Recorder, waiting: Waiting,
    by_loop: MakeTask, *, lazy: bool, native: bool,
) -> RequestTasks:  # fmt: skip
    """`context`: each task has a copy. `waiting`: for the tasks that go on. `lazy`: a Task that nobody has
    seen serves again."""
    native_tasks = pick("RequestTasks", None, native)
    if native_tasks is None:
        return PythonTasks(context, recorder, waiting, by_loop)
    task = _asyncio.Task
    everything = getattr(asyncio.tasks, "_scheduled_tasks", None)  # from 3.12 on
    if everything is None:
        everything = asyncio.tasks._all_tasks
    made: RequestTasks = native_tasks(
        loop=loop, context=context, recorder=recorder, waiting=waiting, task=task,
        current=asyncio.current_task, enter=_asyncio._enter_task, leave=_asyncio._leave_task,
        drop=_asyncio._unregister_task, all=everything.data, forget=everything._remove,
        coroutine=types.CoroutineType, awaiting=_awaiting, by_loop=by_loop,
        asyncio=vars(asyncio), in_loop=getattr(loop, "__dict__", None),
        size=task.__basicsize__, weak_at=task.__weakrefoffset__,
        lazy=lazy, eager=not lazy and sys.version_info >= _EAGER,
    )  # fmt: skip
    return made


async def _awaiting(awaitable: Any) -> None:
    await awaitable
