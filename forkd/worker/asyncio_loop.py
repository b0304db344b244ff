"""The asyncio loop of a worker whose application needs one.

The loop is outermost: where it would wait, the model waits, and serves its own connections before it returns
to what became ready for the loop (coupling.py). Before there is a model, while the application is loaded and
starts, the loop waits by itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
from asyncio.base_events import _run_until_complete_cb  # type: ignore[attr-defined]
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, Protocol

from forkd.engine.context import Model
from forkd.errors import AppError
from forkd.ipc.heritage import Heritage
from forkd.session.seam import NO_REQUEST, Log, Recorder
from forkd.system.forked import in_fork, leave
from forkd.system.originals import threads_are
from forkd.system.signals import set_wakeup, wakeup
from forkd.worker.coupling import Coupling, Turn
from forkd.worker.selector_coupling import SelectorCoupling
from forkd.worker.turns import Turns
from forkd.worker.waits import Waits

#: For what is left in a loop at its end, and for the threads of its executor.
_LEFT_SECONDS = 1.0
_MAX_NAMES = 5  # of tasks in a line of the log


class Living(Protocol):
    """An interface that has a beginning and an end in the loop."""

    failed: Callable[[], Any]  # called when it cannot go on while the worker serves
    tasks: str  # how the tasks of its requests are made, once it has started

    async def startup(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Before the worker accepts. What it sets in `context` stays there. Raises AppError."""

    async def shutdown(self) -> None:
        """When the last connection is gone."""


def _why_no_uvloop() -> str:
    if patched := threads_are():
        return f"{patched} has made greenlets of threads, and uvloop has threads of its own"
    from forkd.system import libuv

    return libuv.why_not()


def make_current_uvloop() -> asyncio.AbstractEventLoop | None:
    """For an application that asks at import for a loop that does not run: else it gets asyncio's."""
    if _why_no_uvloop():
        return None
    loop: asyncio.AbstractEventLoop = import_module("uvloop").new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def make_coupling(wanted: str, made: asyncio.AbstractEventLoop | None = None) -> Coupling:
    """For a value of --loop. `made`: by the application, and the one, if it can be. Raises AppError."""
    if wanted != "uvloop" and type(made) is asyncio.SelectorEventLoop:
        return SelectorCoupling(made)
    if wanted != "asyncio":
        why = _why_no_uvloop()
        if not why:
            from forkd.worker.uvloop_coupling import UvloopCoupling

            return UvloopCoupling(made if type(made) is import_module("uvloop").Loop else None)
        if wanted == "uvloop":
            raise AppError(f"--loop uvloop: {why}, or leave --loop out")
    return SelectorCoupling()


class AsyncioLoop:
    """Made and run on the worker's main thread."""

    _turns: Turns  # since the application has started
    _waits: Waits  # until then
    _root: asyncio.Task[None]
    _serving = False  # requests
    _wakeup = -1  # the descriptor for signals that the application has set; -1: none

    def __init__(self, log: Log, wanted: str, made: asyncio.AbstractEventLoop | None = None) -> None:
        """`wanted`: by --loop. `made`: as for make_coupling. Raises AppError."""
        self._log = log
        self._coupling = make_coupling(wanted, made)
        self.name = self._coupling.name
        self.loop = self._coupling.loop
        self.leaves_threads = False  # at its end some still work for the application
        #: In which the application is loaded, where that is done in the loop, and its lifespan runs.
        self._context = contextvars.copy_context()
        asyncio.set_event_loop(self.loop)
        if self.loop is made and wanted == "auto" and self.name == "asyncio" and not _why_no_uvloop():
            log.info(
                "the application has made asyncio's event loop at import, which serves; with --loop uvloop, "
                "or --interface asgi, it finds uvloop's there"
            )

    def show_waits(self, stacks: int) -> None:
        """Until it is loaded: where its tasks wait, when the master asks for stacks."""
        self._waits = Waits(self.loop, stacks)

    def loaded(self) -> None:
        """The application is, and has started."""
        self._waits.end()

    def load(self, make: Callable[[], Any]) -> Any:
        """What it returns, called in the running loop; if that is awaitable, what comes of it."""

        async def inside() -> Any:
            made = make()
            return await made if inspect.isawaitable(made) else made

        return self._run_early(inside(), self._context)

    def _run_early(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context | None) -> Any:
        """Run until it has ended, and return its result. A wake-up descriptor for signals that the
        application sets is noted for the runs that follow: uvloop begins each of them with its own."""

        async def inside() -> Any:
            set_wakeup(self._wakeup)
            before = wakeup()
            try:
                return await coroutine
            finally:
                if (after := wakeup()) != before:
                    self._wakeup = after

        return self.loop.run_until_complete(self.loop.create_task(inside(), context=context))

    def time_turns(self, heritage: Heritage, send: Callable[[Any], Any]) -> None:
        """To be called before the master is told that this worker is ready: from then on it may look."""
        config, row = heritage.config, heritage.lanes[0]
        self._turns = Turns(
            self.loop, row, heritage.watch, config.lag_limit, heritage.stacks, send, config.native
        )  # fmt: skip

    def startup(self, living: Living) -> None:
        """Raises AppError."""
        self._run_early(living.startup(self.loop, self._context), None)

    def run(self, model: Model, recorder: Recorder, living: Living | None) -> None:
        """Run until the model is done; then end what is left, and close the loop. `living`: what its
        application does in the loop is timed, as a request is."""
        loop = self.loop
        try:
            self._turns.attach(model)
            self._coupling.attach(model, self._turn_of(model, None if living is None else recorder))
            loop.call_soon(set_wakeup, self._wakeup)
            self._serving = True
            self._make_root()
            self._coupling.run_forever()
            self._serving = False
            self._root.remove_done_callback(_run_until_complete_cb)
            if living is not None:
                loop.run_until_complete(living.shutdown())
            self._cancel(None if living is None else _LEFT_SECONDS)
            if living is not None:
                self._shut_down()
        finally:
            if in_fork:
                leave(sys.exc_info()[1])
            self._coupling.close()
            if living is not None:
                recorder.pause()
            self._turns.over()

    def _make_root(self) -> None:
        """A task that is there for as long as requests are served, as where a server is one. anyio looks for
        it, by the callback that `run_until_complete` gives to its task, and keeps the threads that functions
        of the application run in until it ends; without it, until their request ends."""
        self._root = asyncio.Task(self._forever(), loop=self.loop, name="forkd")

    async def _forever(self) -> None:
        """Until it is cancelled: at the end, or with all other tasks by an application, which has another one
        then. The callback would stop the loop."""
        root = self._root
        root.add_done_callback(_run_until_complete_cb)
        try:
            await self.loop.create_future()
        except asyncio.CancelledError:
            root.remove_done_callback(_run_until_complete_cb)
            if self._serving:
                self._make_root()
            raise

    def _turn_of(self, model: Model, recorder: Recorder | None) -> Turn:
        """The turn of the model as the loop calls it. `recorder`: of the time for which the loop does not
        come round."""
        stopped, end = False, self._turns.end

        def turn(timeout: float | None) -> None:
            nonlocal stopped
            if recorder is not None:
                recorder.pause()
            end()
            model.turn(timeout)
            if recorder is not None:
                recorder.resume(NO_REQUEST)
            if model.done and not stopped:
                stopped = True  # once: the tasks that are cancelled then run in the loop again
                self.loop.stop()

        return turn

    def give_up(self) -> None:
        """The application could not start: end what it has left in the loop."""
        self._cancel(_LEFT_SECONDS)
        self._shut_down()

    def _cancel(self, seconds: float | None) -> None:
        """Cancel the tasks that are left, and wait for them."""
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        if pending:
            _, late = self.loop.run_until_complete(asyncio.wait(pending, timeout=seconds))
            if late:
                names = ", ".join(sorted(task.get_name() for task in late)[:_MAX_NAMES])
                self._log.warning(f"{len(late)} task(s) do not end when they are cancelled: {names}")

    def _shut_down(self) -> None:
        for what, end in (
            ("asynchronous generators", self.loop.shutdown_asyncgens),
            ("threads of the executor", self.loop.shutdown_default_executor),
        ):
            # Not cancelled, as wait_for would: that waits in its turn, for the threads without the loop.
            task = self.loop.create_task(end())
            self.loop.run_until_complete(asyncio.wait([task], timeout=_LEFT_SECONDS))
            if not task.done():
                self.leaves_threads = True
                self._log.warning(f"{what} do not end; the worker ends without them")

    def halt(self) -> set[int]:
        return self._coupling.halt()
