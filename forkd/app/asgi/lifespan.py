"""ASGI's lifespan: one task for as long as a worker serves, which is told of the beginning and of the end.

Run in the worker's loop: `startup` before it accepts, `shutdown` when its last connection is gone.
"""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any

from forkd.errors import AppError
from forkd.session.seam import Log
from forkd.system.forked import in_fork, leave

_SPEC = {"version": "3.0", "spec_version": "2.0"}
_STARTUP, _SHUTDOWN = "lifespan.startup", "lifespan.shutdown"


class Phase(Enum):
    OFF = auto()  # --lifespan off, or the application has none
    STARTING = auto()
    STARTED = auto()
    STOPPING = auto()
    STOPPED = auto()


class Lifespan:
    def __init__(
        self, app: Callable[..., Coroutine[Any, Any, None]], mode: str, log: Log, failed: Callable[[], None]
    ) -> None:
        """`mode`: of --lifespan. `failed` is called when the task ends while the worker serves."""
        self._app = app
        self._mode = mode
        self._log = log
        self._failed = failed
        self.phase = Phase.OFF
        self.state: dict[str, Any] = {}
        self._messages: list[dict[str, Any]] = []  # for the application
        self._waiting: list[asyncio.Future[None]] = []
        self._received = self._foreign = False
        self._serving = False  # the worker has gone on from the startup
        self._error = ""  # what it has said of its failure
        self._task: asyncio.Task[None] | None = None
        self._change: asyncio.Future[None] | None = None  # whoever waits for the next phase

    async def startup(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Until the application has started. What it sets in `context`, which it runs in, stays there. Raises
        AppError when it fails."""
        if self._mode == "off":
            return
        self.phase, self._change = Phase.STARTING, loop.create_future()
        self._messages.append({"type": _STARTUP})
        scope = {"type": "lifespan", "asgi": _SPEC.copy(), "state": self.state}
        self._task = asyncio.Task(self._run(scope), loop=loop, context=context, name="lifespan")
        await self._change
        if self._error:
            raise AppError(self._error)
        self._serving = True

    async def shutdown(self, seconds: float) -> None:
        """Until it has ended, or so many seconds are over."""
        if self.phase is not Phase.STARTED or self._task is None or self._task.done():
            return
        self.phase, self._change = Phase.STOPPING, self._task.get_loop().create_future()
        self._put({"type": _SHUTDOWN})
        done, _ = await asyncio.wait(
            [self._task, self._change], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )  # fmt: skip
        if not done:
            self._log.error(f"{_SHUTDOWN} has taken more than {seconds:g} s; the worker ends without it")

    # ---- the task -------------------------------------------------------------------------

    async def _run(self, scope: dict[str, Any]) -> None:
        failure: BaseException | None = None
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as raised:  # also SystemExit, which would end the loop where it stands
            failure = raised
        if in_fork:
            leave(failure)
        serves = self.phase is Phase.STARTED and self._serving
        if isinstance(failure, asyncio.CancelledError) and not (serves or self.phase is Phase.STARTING):
            return
        self._ended(failure)

    def _ended(self, failure: BaseException | None) -> None:
        text = "" if failure is None else "".join(traceback.format_exception(failure)).rstrip()
        match self.phase:
            case Phase.STARTING:
                self._not_started(text)
            case Phase.STARTED if self._serving:
                how = "failed" if text else "returned"
                self._log.error(f"the lifespan has {how}; the worker is replaced\n{text}".rstrip())
                self._failed()
            case Phase.STARTED if text:
                self._error = f"the application's lifespan has failed behind its startup\n{text}"
            case Phase.STARTED:
                # Many of a few lines do so. Its successor would, too.
                self._log.warning("the lifespan has returned, and will not be told of the shutdown")
            case Phase.STOPPING:
                if failure is not None:
                    self._log.error(f"{_SHUTDOWN} has failed\n{text}")
        if self.phase is not Phase.OFF:
            self.phase = Phase.STOPPED

    def _not_started(self, text: str) -> None:
        """It ended before it had said that it has started: does it know what a lifespan is?"""
        if self._mode == "on":
            how = f"failed\n{text}" if text else "returned without lifespan.startup.complete"
            self._turn(Phase.STOPPED, f"--lifespan on: the application's lifespan has {how}")
        elif text and self._received and not self._foreign:
            self._turn(Phase.STOPPED, f"the application's {_STARTUP} has failed\n{text}")
        else:
            self.state.clear()
            self._turn(Phase.OFF)

    def _turn(self, phase: Phase, error: str = "") -> None:
        self.phase, self._error = phase, error
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    async def _receive(self) -> dict[str, Any]:
        while not self._messages:
            if self.phase is Phase.STOPPED and asyncio.current_task() is self._task:
                self._turn(Phase.STOPPED, self._error)  # nothing will come: as if it had returned
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                self._waiting.remove(waiter)
        self._received = True
        return self._messages.pop(0)

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        match self.phase, kind.removeprefix("lifespan."):
            case Phase.STARTING, "startup.complete":
                self._turn(Phase.STARTED)
            case Phase.STARTING, "startup.failed":
                self._error = f"the application's {_STARTUP} has failed: {message.get('message', '')}"
                self._turn(Phase.STOPPED, self._error)
            case Phase.STOPPING, "shutdown.complete":
                self.phase = Phase.STOPPED
            case Phase.STOPPING, "shutdown.failed":
                self._log.error(f"{_SHUTDOWN} has failed: {message.get('message', '')}")
                self.phase = Phase.STOPPED
            case _:
                self._foreign = self._foreign or not kind.startswith("lifespan.")
                raise RuntimeError(f"{kind!r} has no place in a lifespan that is {self.phase.name.lower()}")

    def _put(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
