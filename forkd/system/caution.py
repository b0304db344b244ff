"""A mark in shared memory that some worker of a generation has had slow requests lately, for all its workers.

Two cells of shared memory, which every worker may write. A worker that is about to take several connections
at a time looks whether it should (engine/batch.py): a slow request holds those that were taken with it, and
the worker that meets the next one need not be the one that has met the last.

One request that took a while does not count: the processor may have been needed elsewhere. Two of them
shortly one after the other count, and so does one that took longer than that explains. The longer they take,
the longer it is until the next one shows, and the longer workers are cautious. Times are seconds of
CLOCK_MONOTONIC, the same clock in all processes. What a worker wrote is data: an impossible time counts as
none.
"""

from __future__ import annotations

import mmap

#: Seconds that a request has to take to count here.
SLOW_SECONDS = 0.02
#: Seconds that need no second request.
_CERTAIN_SECONDS = 0.2
#: Seconds within which the second of two has to come.
_PAIR_SECONDS = 1.0
#: Seconds of caution, and more of them for each second that the request took, to at most so many.
_CAUTION_SECONDS = 1.0
_CAUTION_FACTOR = 10
_MAX_CAUTION_SECONDS = 60.0


class Caution:
    def __init__(self) -> None:
        # A store through a memoryview of 8-byte items is one aligned move: it cannot be torn.
        cells = memoryview(mmap.mmap(-1, 2 * 8)).cast("d")
        self._last = cells[0:1]
        self._ends = cells[1:2]

    def slow(self, now: float, took: float) -> None:
        """A request of the calling worker has just taken so long: SLOW_SECONDS or more."""
        if took >= _CERTAIN_SECONDS or 0 <= now - self._last[0] < _PAIR_SECONDS:
            self._ends[0] = now + min(_CAUTION_SECONDS + _CAUTION_FACTOR * took, _MAX_CAUTION_SECONDS)
        self._last[0] = now

    def advised(self, now: float) -> bool:
        return 0 < self._ends[0] - now <= _MAX_CAUTION_SECONDS
