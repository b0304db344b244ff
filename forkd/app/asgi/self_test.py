"""Whether Tasks that serve again do here what any Task does: tried in a process of its own, which may crash.
"""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import resource
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NoReturn

from forkd.app.asgi.tasks import LoopTasks, Waiting, make_tasks
from forkd.session.seam import Recorder
from forkd.system import process
from forkd.system.originals import monotonic, os, select, signal

_PASSED = 0
#: Until a process that does not end has failed.
_SECONDS = 5.0
_variable: contextvars.ContextVar[int] = contextvars.ContextVar("forkd_self_test", default=0)


def passes(kind: Callable[[], asyncio.AbstractEventLoop]) -> bool:
    """Whether all was as it should be, in a loop that `kind` makes. It was not, too, where there is no room
    for a process."""
    try:
        pid, pidfd = process.fork(partial(_child, kind))
    except OSError:
        return False
    try:
        ready = select.poll()
        ready.register(pidfd, select.POLLIN)
        if not ready.poll(_SECONDS * 1000):
            process.send_signal(pidfd, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == _PASSED
    finally:
        os.close(pidfd)


def _child(kind: Callable[[], asyncio.AbstractEventLoop]) -> NoReturn:
    faulthandler.disable()  # what it would write is taken for the worker's
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asyncio._set_running_loop(None)
    os._exit(_PASSED if _test(kind()) else 1)


class _Request:
    ticket = 0

    def __init__(self, coroutine: Coroutine[Any, Any, None], failures: list[object]) -> None:
        self._coroutine = coroutine
        self._failures = failures

    def begin(self) -> Coroutine[Any, Any, None]:
        return self._coroutine

    def ended(self, failure: BaseException | None) -> None:
        if failure is not None:
            self._failures.append(failure)


class _NoRecorder:
    """Of requests that are none."""

    def resume(self, ticket: int) -> None: ...

    def pause(self) -> None: ...


def _test(loop: asyncio.AbstractEventLoop) -> bool:
    loop.time = monotonic  # type: ignore[method-assign]  # a library may have stopped that of `time`
    loop.set_debug(False)  # where it is on, the loop makes all Tasks, until it is off
    waiting: Waiting = {}
    recorder: Any = _NoRecorder()
    kept: Recorder = recorder
    tasks = make_tasks(
        loop, contextvars.Context(), kept, waiting, LoopTasks(loop, None), lazy=True, native=True
    )
    seen: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
    found: list[object] = []
    used = 0  # the first Task

    def current() -> asyncio.Task[Any]:
        task = asyncio.current_task(loop)
        assert task is not None and not task.done() and asyncio.Task.get_coro(task) is task.get_coro()
        assert task.get_loop() is loop and "pending" in repr(task)
        return task

    async def ends() -> None:
        nonlocal used
        task = asyncio.current_task(loop)
        used = used or id(task)
        found.append((id(task), _variable.get()))
        _variable.set(1)

    async def is_seen() -> None:
        assert not seen
        seen.add(current())

    async def waits() -> None:
        task = current()
        _variable.set(2)
        for seconds in (0, 0.001):
            await asyncio.sleep(seconds)
            assert current() is task and task in asyncio.all_tasks(loop) and _variable.get() == 2

    async def is_cancelled(early: bool) -> None:
        task = current()
        if early:
            asyncio.Task.cancel(task)
        else:
            loop.call_soon(task.cancel)
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            found.append("cancelled")

    coroutines: list[Coroutine[Any, Any, None]] = [
        ends(), ends(), is_seen(), is_seen(), waits(), ends(), is_cancelled(True), is_cancelled(False),
    ]  # fmt: skip
    went_on: list[bool] = []
    failures: list[object] = []

    def turn() -> None:
        for coroutine in coroutines:
            went_on.append(tasks.start(_Request(coroutine, failures), b""))

    async def settled() -> None:
        await asyncio.sleep(0)
        await asyncio.wait(list(waiting))

    loop.call_soon(turn)
    loop.run_until_complete(settled())
    return (
        not failures and not waiting and found[0] == found[1] == (used, 0)
        and went_on == [False, False, False, False, True, False, True, True]
        and found[3:] == ["cancelled", "cancelled"]
    )  # fmt: skip
