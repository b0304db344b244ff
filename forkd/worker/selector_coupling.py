"""asyncio's own loop in a worker: the model is its selector."""

from __future__ import annotations

import asyncio
import selectors
import sys
from types import FrameType
from typing import Any

from forkd.engine.context import Model
from forkd.system.forked import in_fork, leave
from forkd.system.handles import PatientEpoll
from forkd.system.no_memory import LOOK_SECONDS
from forkd.system.originals import EpollSelector, monotonic
from forkd.worker.coupling import Turn


class SelectorCoupling:
    """asyncio's loop, whose selector is the model."""

    name = "asyncio"

    def __init__(self, made: asyncio.SelectorEventLoop | None = None) -> None:
        """`made`: a loop that the application has made, and that has not run."""
        self._selector = _ModelSelector()
        self.loop: asyncio.AbstractEventLoop
        self.loop = _Loop(self._selector) if made is None else _converted(made, self._selector)
        self.attach = self._selector.attach
        self.close = self.loop.close

    def run_forever(self) -> None:
        self.loop.run_forever()

    def halt(self) -> set[int]:
        inside = vars(self.loop)
        inside["_ready"].appendleft(asyncio.Handle(leave, (), self.loop))
        own = {inside[name].fileno() for name in ("_ssock", "_csock") if inside[name]}
        return own if self._selector.attached else own | {self._selector.fileno()}


class _Loop(asyncio.SelectorEventLoop):
    """asyncio asks the module time for the time, which an application may have stopped."""

    time = staticmethod(monotonic)


def _converted(loop: asyncio.SelectorEventLoop, selector: _ModelSelector) -> asyncio.SelectorEventLoop:
    """That loop, as one of `_Loop` with this selector."""
    inside = vars(loop)
    before = inside["_selector"]
    for key in before.get_map().values():
        selector.register(key.fileobj, key.events, key.data)
    before.close()
    inside["_selector"] = selector
    loop.__class__ = _Loop
    return loop


class _ModelSelector(EpollSelector):
    """asyncio's own descriptors in an epoll that is nested in the model's handle set."""

    _selector: Any  # of EpollSelector: the select.epoll that it calls

    def __init__(self) -> None:
        super().__init__()
        self._turn: Turn | None = None
        self._ready = False
        # An application has few descriptors of its own, and no way to go on without one.
        self._selector.close()
        self._selector = self._epoll = PatientEpoll()

    def attach(self, model: Model, turn: Turn) -> None:
        self._turn = turn
        model.watch(self.fileno(), self._hear)

    @property
    def attached(self) -> bool:
        return self._turn is not None

    def _hear(self) -> None:
        self._ready = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if in_fork:
            leave()
        turn = self._turn
        if turn is None or _entered_again():
            return super().select(timeout)
        if self._epoll.short:
            timeout = LOOK_SECONDS if timeout is None else min(timeout, LOOK_SECONDS)
        turn(timeout)
        if not self._ready and not self._epoll.short:
            return []
        self._ready = False
        return super().select(0)


def _entered_again() -> bool:
    """Whether the loop was entered again in the middle of a step, a callback or a turn (nest_asyncio, a
    debugger), which waits for something of its own: no connection's session may run on top of it."""
    here = globals()
    # This function, `select`, asyncio's _run_once and run_forever, and then `run_forever` here.
    if sys._getframe(4).f_globals is here:
        return False
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code is _STEP or code is _SELECT:
            return True
        if frame.f_globals is here:
            return False
        frame = frame.f_back
    return False


_STEP, _SELECT = asyncio.Handle._run.__code__, _ModelSelector.select.__code__
