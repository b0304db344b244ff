"""The turns of a worker's event loop: how long they take, and what the loop is at when one takes too long.

A turn is all that is done between two waits: the model's part, and what is ready in the loop. The master
looks at it while it lasts (master/lag.py), and asks by a signal. faulthandler answers in the signal's handler
itself, with the stack; `Turns` at the next bytecode of the thread, with the request or the task. A wait in
the kernel breaks off for that and goes on; a C function that holds the thread has to return first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import FrameType
from typing import Any

from forkd.app.asgi.steps import line_of
from forkd.ipc.messages import Blocked
from forkd.system.cells import WORKING
from forkd.system.forked import in_fork
from forkd.system.originals import monotonic_ns
from forkd.system.scoreboard import Row
from forkd.system.signals import LOOP_STACK, handle, write_stacks
from forkd.system.watch import Watch

_NEVER_NS = 1 << 62


class Turns:
    def __init__(
        self, loop: asyncio.AbstractEventLoop, row: Row, watch: Watch, limit: float, stacks: int,
        send: Callable[[Blocked], Any], native: bool,
    ) -> None:  # fmt: skip
        """`limit`: seconds (--lag-limit); 0: the master does not look. `stacks`: where faulthandler writes.
        `send` tells the master."""
        self._loop = loop
        #: Called when the loop has come round, and is about to wait.
        self.end = row.turn_times(native, int(limit * 1e9) or _NEVER_NS).end
        self._cells = row.cells
        self._watch = watch
        self._limit_ns = int(limit * 1e9) or _NEVER_NS
        self._send = send
        if limit:
            handle(LOOP_STACK, self._answer)
            write_stacks(LOOP_STACK, stacks, all_threads=False)

    def attach(self, model: Any) -> None:
        """From now on the model begins the turns."""
        if self._limit_ns == _NEVER_NS:
            return
        looks, ring, demultiplex = self._watch.looks, self._watch.ring, model.demultiplex

        def begin(events: Any) -> None:
            if not looks[0]:
                ring()
            demultiplex(events)

        model.demultiplex = begin

    def over(self) -> None:
        """The loop has ended: what the process waits for from here on holds no turn."""
        self.end()
        self._cells[WORKING] = 0

    def _answer(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signal. It must not raise: that would be in the middle of the application."""
        began = self._cells[WORKING]
        if in_fork or not began or monotonic_ns() - began < self._limit_ns:
            return  # it has come round by now
        line = line_of.get(b"").decode("latin-1")
        self._send(Blocked(line, "" if line else _task_of(self._loop)))


def _task_of(loop: asyncio.AbstractEventLoop) -> str:
    """Whose step the loop is at; empty where it is at a callback."""
    try:
        task = asyncio.current_task(loop)
        return "" if task is None else f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '')})"
    except Exception:  # of a class of the application's
        return ""
