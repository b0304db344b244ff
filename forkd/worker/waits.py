"""Where tasks wait in a loop that has nothing to do: faulthandler cannot see it, since no thread is there.

While the application is loaded and starts, the master asks for stacks once it has taken too long.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from types import FrameType
from typing import Any

from forkd.system.forked import in_fork
from forkd.system.originals import os, signal
from forkd.system.signals import STACKS, set_theirs

_MAX_TASKS, _MAX_FRAMES = 20, 100


class Waits:
    """From now on the signal writes them, too, behind the stacks of the threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stacks: int) -> None:
        """`stacks`: where faulthandler writes."""
        self._loop = loop
        self._stacks = stacks
        self._before = set_theirs(STACKS, self._answer)

    def end(self) -> None:
        if signal.getsignal(STACKS) == self._answer:
            set_theirs(STACKS, self._before)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signal. It must not raise: that would be in the middle of the application."""
        try:
            if not in_fork:
                os.write(self._stacks, _text(self._loop).encode("utf-8", "replace"))
        except Exception:
            return


def _text(loop: asyncio.AbstractEventLoop) -> str:
    current = asyncio.current_task(loop)  # whose stack is the thread's
    waiting = [task for task in asyncio.all_tasks(loop) if task is not current]
    lines = []
    for task in sorted(waiting, key=asyncio.Task.get_name)[:_MAX_TASKS]:
        lines.append(f"\nTask {task.get_name()!r} waits (most recent call first):\n")
        lines += reversed([*_frames(task.get_coro())])
    return "".join(lines)


def _frames(awaited: Any) -> Iterator[str]:
    """Those of a coroutine, and of what it awaits, outermost first."""
    for _ in range(_MAX_FRAMES):
        for kind, inner in (("cr", "cr_await"), ("ag", "ag_await"), ("gi", "gi_yieldfrom")):
            code = getattr(awaited, f"{kind}_code", None)
            if code is not None:
                frame = getattr(awaited, f"{kind}_frame", None)
                line = code.co_firstlineno if frame is None else frame.f_lineno
                yield f'  File "{code.co_filename}", line {line} in {code.co_name}\n'
                awaited = getattr(awaited, inner, None)
                break
        else:
            # What awaits an asynchronous generator, as a lifespan by contextlib does, does not name it.
            found = [one for one in gc.get_referents(awaited) if hasattr(one, "ag_frame")]
            if awaited is None or not found:
                return
            awaited = found[0]
