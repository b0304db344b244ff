"""The asyncio loop of a worker whose application needs one.

The loop is outermost, and the model's handle set is its selector: where asyncio would wait, the model
waits, and serves its own connections before it returns what became ready for asyncio. Before there is a
model, while the application is loaded and starts, it waits by itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import selectors
import sys
from collections.abc import Callable
from typing import Any, Protocol

from forkd.engine.context import Model
from forkd.ipc.heritage import Heritage
from forkd.session.seam import NO_REQUEST, Log, Recorder
from forkd.system.forked import in_fork, leave
from forkd.system.handles import PatientEpoll
from forkd.system.no_memory import LOOK_SECONDS
from forkd.system.originals import EpollSelector, monotonic
from forkd.worker.turns import Turns

#: For what is left in a loop at its end, and for the threads of its executor.
_LEFT_SECONDS = 1.0
_MAX_NAMES = 5  # of tasks in a line of the log


class Living(Protocol):
    """An interface that has a beginning and an end in the loop."""

    failed: Callable[[], Any]  # called when it cannot go on while the worker serves

    async def startup(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Before the worker accepts. What it sets in `context` stays there. Raises AppError."""

    async def shutdown(self) -> None:
        """When the last connection is gone."""


class AsyncioLoop:
    """Made and run on the worker's main thread."""

    _turns: Turns  # since the application has started

    def __init__(self, log: Log) -> None:
        self._log = log
        self._selector = _ModelSelector()
        self._loop = self._selector.loop = _Loop(self._selector)
        self.leaves_threads = False  # at its end some still work for the application
        #: In which the application is loaded, where that is done in the loop, and its lifespan runs.
        self._context = contextvars.copy_context()
        asyncio.set_event_loop(self._loop)

    def load(self, make: Callable[[], Any]) -> Any:
        """What it returns, called in the running loop; if that is awaitable, what comes of it."""

        async def inside() -> Any:
            made = make()
            return await made if inspect.isawaitable(made) else made

        return self._loop.run_until_complete(self._loop.create_task(inside(), context=self._context))

    def time_turns(self, heritage: Heritage, send: Callable[[Any], Any]) -> None:
        """To be called before the master is told that this worker is ready: from then on it may look."""
        limit, row = heritage.config.lag_limit, heritage.lanes[0]
        self._turns = Turns(self._loop, row, heritage.watch, limit, heritage.stacks, send)

    def startup(self, living: Living) -> None:
        """Raises AppError."""
        self._loop.run_until_complete(living.startup(self._loop, self._context))

    def run(self, model: Model, recorder: Recorder, living: Living | None) -> None:
        """Run until the model is done; then end what is left, and close the loop. `living`: what its
        application does in the loop is timed, as a request is."""
        loop = self._loop
        try:
            self._selector.attach(model, None if living is None else recorder, self._turns)
            loop.run_forever()
            if living is not None:
                loop.run_until_complete(living.shutdown())
            self._cancel(None if living is None else _LEFT_SECONDS)
            if living is not None:
                self._shut_down()
        finally:
            if in_fork:
                leave(sys.exc_info()[1])
            loop.close()

    def give_up(self) -> None:
        """The application could not start: end what it has left in the loop."""
        self._cancel(_LEFT_SECONDS)
        self._shut_down()

    def _cancel(self, seconds: float | None) -> None:
        """Cancel the tasks that are left, and wait for them."""
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        if pending:
            _, late = self._loop.run_until_complete(asyncio.wait(pending, timeout=seconds))
            if late:
                names = ", ".join(sorted(task.get_name() for task in late)[:_MAX_NAMES])
                self._log.warning(f"{len(late)} task(s) do not end when they are cancelled: {names}")

    def _shut_down(self) -> None:
        for what, end in (
            ("asynchronous generators", self._loop.shutdown_asyncgens),
            ("threads of the executor", self._loop.shutdown_default_executor),
        ):
            # Not cancelled, as wait_for would: that waits in its turn, for the threads without the loop.
            task = self._loop.create_task(end())
            self._loop.run_until_complete(asyncio.wait([task], timeout=_LEFT_SECONDS))
            if not task.done():
                self.leaves_threads = True
                self._log.warning(f"{what} do not end; the worker ends without them")

    def halt(self) -> set[int]:
        """In a process that the application has forked: it leaves before whatever is next in the loop.
        Returns the descriptors by which the parent's other threads wake it."""
        inside = vars(self._loop)
        inside["_ready"].appendleft(asyncio.Handle(leave, (), self._loop))
        own = {inside[name].fileno() for name in ("_ssock", "_csock") if inside[name]}
        return own if self._selector.attached else own | {self._selector.fileno()}


class _Loop(asyncio.SelectorEventLoop):
    """asyncio asks the module time for the time, which an application may have stopped."""

    time = staticmethod(monotonic)


class _ModelSelector(EpollSelector):
    """asyncio's own descriptors in an epoll that is nested in the model's handle set."""

    loop: _Loop
    _selector: Any  # of EpollSelector: the select.epoll that it calls
    _turns: Turns  # since it is attached

    def __init__(self) -> None:
        super().__init__()
        self._model: Model | None = None
        self._recorder: Recorder | None = None
        self._ready = self._stopped = False
        # An application has few descriptors of its own, and no way to go on without one.
        self._selector.close()
        self._selector = self._epoll = PatientEpoll()

    def attach(self, model: Model, recorder: Recorder | None, turns: Turns) -> None:
        """From now on the model waits. `recorder`: of the time for which the loop does not come round."""
        self._model, self._recorder, self._turns = model, recorder, turns
        turns.attach(model)
        model.watch(self.fileno(), self._hear)

    @property
    def attached(self) -> bool:
        return self._model is not None

    def _hear(self) -> None:
        self._ready = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if in_fork:
            leave()
        model, recorder = self._model, self._recorder
        if model is None:
            return super().select(timeout)
        if recorder is not None:
            if asyncio.current_task(self.loop) is not None:
                # The loop was entered again in the middle of a task (nest_asyncio, a debugger), which waits
                # for something of its own: no connection's session may run on top of it.
                return super().select(timeout)
            recorder.pause()
        if self._epoll.short:
            timeout = LOOK_SECONDS if timeout is None else min(timeout, LOOK_SECONDS)
        self._turns.end()
        model.turn(timeout)
        if recorder is not None:
            recorder.resume(NO_REQUEST)
        if model.done and not self._stopped:
            self._stopped = True  # once: the tasks that are cancelled then run in the loop again
            self.loop.stop()
        if not self._ready and not self._epoll.short:
            return []
        self._ready = False
        return super().select(0)
