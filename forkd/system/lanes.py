"""The lanes of a child with several threads: which one each thread writes. In a child.

A request may begin in one thread and end in another, so a gauge of one lane may be negative; the sum over
the lanes is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from forkd.native import pick
from forkd.system.cells import GAUGES, LANES
from forkd.system.originals import Lock, ThreadLocal
from forkd.system.recorder import Recorder
from forkd.system.scoreboard import Row

if TYPE_CHECKING:
    from forkd._native import Recorder as NativeRecorder


class Lanes:
    """Those of one child. Each thread writes its own through `recorder`."""

    def __init__(self, rows: list[Row], native: bool) -> None:
        self._native = native
        self._places = rows[0].entries.places(native)
        self.recorder: OwnLane = pick("OwnLane", OwnLane, native)()
        self._recorders: list[Recorder | NativeRecorder] = []  # kept alive for it
        self._main = rows[0]
        self.become(self._main)
        self._most = len(rows) - 1
        self._free = rows[:0:-1]  # the first is taken first, and one given back before a fresh one
        self._lock = Lock()

    def bind(self) -> Row:
        """Give the calling thread a lane of its own, for its life."""
        row = self.take()
        assert row is not None  # as many as threads
        self.become(row)
        return row

    def take(self) -> Row | None:
        """A free lane, for a process that the caller forks; None when all are taken."""
        with self._lock:
            if not self._free:
                return None
            row = self._free.pop()
            cells, used = self._main.cells, self._most - len(self._free)
            cells[LANES] = max(cells[LANES], used)
            return row

    def give_back(self, row: Row) -> None:
        """Its process is gone: counters stay, gauges end."""
        for cell in GAUGES:
            row.cells[cell] = 0
        row.entries.clear(row.place)
        self._free.append(row)

    def leave_pool(self) -> None:
        """In a process that was forked: the pool is that of the others."""
        self._places = self._main.entries.places(self._native, pool=False)

    def become(self, row: Row) -> None:
        """The calling thread writes to `row` from now on."""
        recorder = row.recorder(self._native, self._places)
        self._recorders.append(recorder)
        self.recorder.become(recorder)


class OwnLane(ThreadLocal):
    """In each thread, the methods of the lane that it has become. Twin: native/system_recorder.c."""

    begin: Callable[..., int]
    identify: Callable[[int, str], None]
    answer: Callable[[int], None]
    pause: Callable[[], None]
    resume: Callable[[int], None]
    took: Callable[[int], int]
    end: Callable[..., bool]
    add: Callable[..., None]
    #: The last that any thread of this process has become.
    _latest: ClassVar[Recorder | NativeRecorder]

    def become(self, recorder: Recorder | NativeRecorder) -> None:
        self.begin, self.pause, self.resume = recorder.begin, recorder.pause, recorder.resume
        self.took, self.end, self.add = recorder.took, recorder.end, recorder.add
        self.identify, self.answer = recorder.identify, recorder.answer
        OwnLane._latest = recorder

    def __getattr__(self, name: str) -> Any:
        """A thread that the application has started has no lane, and may move bytes: a handler may give its
        socket to one."""
        if name == "add":
            return self._latest.add
        raise AttributeError(f"{name}: this thread has no lane")
