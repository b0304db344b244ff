"""uvloop as the loop of a worker: the model waits in its place, as in asyncio's (selector_coupling.py).

libuv's own epoll is nested in the model's handle set, so each --io has it. A round of libuv's looks at its
descriptors without waiting, calls what is ready, and then comes here (system/libuv.py).
"""

from __future__ import annotations

import gc
from collections import deque
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from forkd.engine.context import Model
from forkd.system.forked import in_fork, leave
from forkd.system.libuv import Rounds, call_before_waiting
from forkd.worker.coupling import Turn


class UvloopCoupling:
    name = "uvloop"

    def __init__(self, made: Any = None) -> None:
        """`made`: a loop of uvloop's that the application has made, and that has not run."""
        self.loop: Any = import_module("uvloop").new_event_loop() if made is None else made
        self._rounds: Rounds | None = None
        self._error: BaseException | None = None

    def attach(self, model: Model, turn: Turn) -> None:
        model.watch(self.loop._get_backend_id(), _hear)
        self._turn = turn
        self._rounds = Rounds(self.loop, self._round)
        self._patience = self._rounds.patience

    def _round(self) -> None:
        """libuv has no exceptions: one ends the loop, and is raised behind that."""
        if in_fork:
            self._leave()
        if self._error is not None:
            return
        try:
            self._turn(self._patience())
        except BaseException as error:
            self._error = error
            self.loop.stop()

    def run_forever(self) -> None:
        self.loop.run_forever()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        if self._rounds is not None:
            self._rounds.close()
        self.loop.close()

    def halt(self) -> set[int]:
        """Its queue and its timers have no names in Python, and are found by the garbage collector's."""
        timers = import_module("uvloop.loop").TimerHandle
        own = {self.loop._get_backend_id()}
        self._last = call_before_waiting(self.loop, self._leave)
        for found in gc.get_referents(self.loop):
            if hasattr(found, "fileno"):  # the ends of its own socket pair
                own.add(found.fileno())
            elif type(found) is set:
                for timer in [each for each in found if isinstance(each, timers)]:
                    timer.cancel()
            elif type(found) is deque:
                with suppress(RuntimeError):  # it is closed, or this is another thread, in debug mode
                    self.loop.call_soon(leave)
                    found.rotate(1)
        return own

    def _leave(self) -> NoReturn:
        """With what has ended the loop, if anything has: a callback has raised SystemExit."""
        found = gc.get_referents(self.loop)
        leave(next((each for each in found if isinstance(each, BaseException)), None))


def _hear() -> None:
    """libuv looks itself what is ready there."""
