"""The asyncio loop of a worker whose application needs one.

The loop is outermost, and the model's handle set is its selector: where asyncio would wait, the model
waits, and serves its own connections before it returns what became ready for asyncio.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from typing import Any

from forkd.engine.context import Model
from forkd.system.forked import in_fork, leave
from forkd.system.handles import PatientEpoll
from forkd.system.no_memory import LOOK_SECONDS
from forkd.system.originals import EpollSelector, monotonic


class AsyncioLoop:
    """Made and run on the worker's main thread."""

    def __init__(self, model: Model) -> None:
        selector = _ModelSelector(model)
        self._loop = _Loop(selector)
        selector.loop = self._loop
        asyncio.set_event_loop(self._loop)

    def run(self) -> None:
        """Run until the model is done; then cancel the application's tasks, and close the loop."""
        loop = self._loop
        try:
            loop.run_forever()
            pending = asyncio.all_tasks(loop)
            for task in pending:
                task.cancel()
            if pending:
                loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        finally:
            if in_fork:
                leave(sys.exc_info()[1])
            loop.close()

    def halt(self) -> set[int]:
        """In a process that the application has forked: it leaves before whatever is next in the loop.
        Returns the descriptors by which the parent's other threads wake it."""
        inside = vars(self._loop)
        inside["_ready"].appendleft(asyncio.Handle(leave, (), self._loop))
        return {inside[name].fileno() for name in ("_ssock", "_csock") if inside[name]}


class _Loop(asyncio.SelectorEventLoop):
    """asyncio asks the module time for the time, which an application may have stopped."""

    time = staticmethod(monotonic)


class _ModelSelector(EpollSelector):
    """asyncio's own descriptors in an epoll that is nested in the model's handle set."""

    loop: _Loop
    _selector: Any  # of EpollSelector: the select.epoll that it calls

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model
        self._ready = self._stopped = False
        # An application has few descriptors of its own, and no way to go on without one.
        self._selector.close()
        self._selector = self._epoll = PatientEpoll()
        model.watch(self.fileno(), self._hear)

    def _hear(self) -> None:
        self._ready = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if in_fork:
            leave()
        if self._epoll.short:
            timeout = LOOK_SECONDS if timeout is None else min(timeout, LOOK_SECONDS)
        self._model.turn(timeout)
        if self._model.done and not self._stopped:
            self._stopped = True  # once: the tasks that are cancelled then run in the loop again
            self.loop.stop()
        if not self._ready and not self._epoll.short:
            return []
        self._ready = False
        return super().select(0)
