"""How long the turns of an event loop take, counted in a lane of the scoreboard. In a child, on the thread of
the loop.

The twin is native/system_turn_times.c.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from forkd.native import pick
from forkd.system.originals import monotonic_ns

if TYPE_CHECKING:
    from forkd._native import TurnTimes as NativeTurnTimes


class TurnTimes:
    def __init__(
        self, *, memory: memoryview, began: int, sum: int, late: int, bounds: tuple[int, ...], limit: int
    ) -> None:
        """Cells of the lane in `memory`: when the turn began (ns; 0: there is none); the sum of times, and
        behind it a counter for each of `bounds`, and one more; how many took longer than `limit` (ns)."""
        self._cells = memory.cast("q")
        self._began = began
        self._sum = sum
        self._late = late
        self._bounds = bounds
        self._limit = limit

    def end(self) -> None:
        """The loop has come round, and is about to wait."""
        cells, began = self._cells, self._cells[self._began]
        if began:
            took = monotonic_ns() - began
            cells[self._sum] += took
            cells[self._sum + 1 + bisect_left(self._bounds, took)] += 1
            if took > self._limit:
                cells[self._late] += 1


def make(
    wanted: bool, memory: memoryview, cells: tuple[int, int, int], bounds: tuple[int, ...], limit: int
) -> TurnTimes | NativeTurnTimes:
    """By native code, where it was built and is `wanted`. `cells`: `began`, `sum` and `late`."""
    began, sum, late = cells
    turn_times: type[TurnTimes | NativeTurnTimes] = pick("TurnTimes", TurnTimes, wanted)
    return turn_times(memory=memory, began=began, sum=sum, late=late, bounds=bounds, limit=limit)
