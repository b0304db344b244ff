"""The scoreboard: what every child is doing, in memory that it shares with the master.

One anonymous shared mmap, made by the master before the first fork. Each child *slot* (not pid) has
one row per thread, its lanes, so that a cell has one writer; lane 0 is the main thread's. The
master reads them at a scrape, for `status` and to enforce time limits. A cell is 64 bits; a store
is one aligned move, so a reader never sees half of one. When a child dies the master folds its
lanes into a base, so totals never go back and nothing grows with the number of restarts. Times are
nanoseconds of CLOCK_MONOTONIC, which is the same clock in all processes of one boot
(clock_gettime(2)).

What a child wrote is data, never trusted as an index, a size or a pid.
"""

from __future__ import annotations

import errno
import mmap
from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from forkd.native import pick
from forkd.system import turn_times
from forkd.system.cells import (
    ACCEPTED,
    BOUNDS,
    CELLS,
    CODES,
    COUNTERS,
    DURATION_BLOCKS,
    DURATION_CELLS,
    END_BUCKET,
    END_BUCKET_COUNT,
    END_CODE,
    END_DURATION,
    END_HEAD,
    END_IN_FLIGHT,
    END_REQUESTS,
    END_STATUS,
    END_TICKET,
    END_UNLISTED,
    ENDING,
    FAILURES,
    FULL_SINCE,
    HELD,
    IN_FLIGHT,
    LANES,
    LOOP_BLOCKED,
    MAIN,
    NUMBERS,
    OCCUPIED,
    QUEUES,
    REASONS,
    REQUEST,
    REQUESTS,
    STATUS_CLASSES,
    STATUSES,
    THREAD,
    THREAD_QUEUE,
    TURNS,
    UNLISTED,
    WAIT_BOUNDS,
    WAIT_CELLS,
    WAITS,
    WORKING,
)
from forkd.system.in_flight import Entries, Places, Request, make_entries, scratch_entries
from forkd.system.originals import get_ident, monotonic_ns
from forkd.system.recorder import NOT_ENDING, WITH_LINE, WITHOUT_LINE, Recorder
from forkd.system.turn_times import TurnTimes

if TYPE_CHECKING:
    from forkd._native import Places as NativePlaces
    from forkd._native import Recorder as NativeRecorder
    from forkd._native import TurnTimes as NativeTurnTimes

_BOUNDS_NS = tuple(int(bound * 1e9) for bound in BOUNDS)
_WAIT_BOUNDS_NS = tuple(int(bound * 1e9) for bound in WAIT_BOUNDS)
_ROW = (CELLS * 8 + 63) // 64 * 64  # whole cache lines: neighbours do not share one


class Row:
    """One lane. One thread of the child in the slot writes it; the master reads it."""

    def __init__(
        self, memory: memoryview, index: int = 0, number: int = 0, entries: Entries | None = None
    ) -> None:
        self.index = index  # its place among all lanes
        self._memory = memory
        self.cells = memory[: CELLS * 8].cast("q")
        self.entries = scratch_entries() if entries is None else entries
        self.place = 1 + number  # its entry; `number` is that among the lanes of its slot

    # ---- written by the child -------------------------------------------------------------

    def recorder(
        self, wanted: bool, places: Places | NativePlaces | None = None
    ) -> Recorder | NativeRecorder:
        """What writes requests of the calling thread to this row: native code where it was built and is
        `wanted`, else its twin (system/recorder.py).

        `places`: those of the process, if it has several lanes."""
        self.cells[THREAD] = get_ident()
        if places is None:
            places = self.entries.places(wanted)
        make: Callable[..., Recorder | NativeRecorder] = pick("Recorder", Recorder, wanted)
        return make(
            memory=self._memory[: CELLS * 8], numbers=NUMBERS, bounds=_BOUNDS_NS, places=places,
            own=self.place,
        )  # fmt: skip

    def add(self, cell: int, n: int = 1, /) -> None:
        """As the recorder's, of what is no request's."""
        self.cells[cell] += n

    def waited(self, queue: int, ns: int) -> None:
        """A connection or a task has left that one of QUEUES, and was in it for so long."""
        total = WAITS + queue * WAIT_CELLS
        self.cells[total] += max(0, ns)
        self.cells[total + 1 + bisect_left(_WAIT_BOUNDS_NS, ns)] += 1

    def occupy(self, queued: float | None) -> None:
        """This thread of a pool has a task from now on, which was `queued` then (seconds of
        CLOCK_MONOTONIC), if it was."""
        now = monotonic_ns()
        self.cells[OCCUPIED] = now
        if queued is not None:
            self.waited(THREAD_QUEUE, now - int(queued * 1e9))

    def vacate(self) -> None:
        self.cells[OCCUPIED] = 0

    def turn_times(self, wanted: bool, limit: int) -> TurnTimes | NativeTurnTimes:
        """What counts the turns of the event loop: by native code where that is `wanted`. `limit`: ns."""
        memory, cells = self._memory[: CELLS * 8], (WORKING, TURNS, LOOP_BLOCKED)
        return turn_times.make(wanted, memory, cells, _WAIT_BOUNDS_NS, limit)

    def failed(self, number: int) -> None:
        """accept(2) failed with that errno."""
        name = errno.errorcode.get(number, "other")
        self.cells[FAILURES + REASONS.index(name if name in REASONS else "other")] += 1

    # ---- once its process is dead ---------------------------------------------------------

    def complete(self, head: int) -> None:
        """Store what an end had noted that was reached. `head`: of the ring that its lines went to."""
        cells = self.cells
        ending, status, bucket = cells[ENDING], cells[END_STATUS], cells[END_BUCKET]
        in_ring = ending == WITH_LINE and (head - cells[END_HEAD]) & _MASK < 1 << 63
        sane = 0 <= status < STATUSES and 0 <= bucket <= len(BOUNDS)
        if (in_ring or ending == WITHOUT_LINE) and sane:
            total = _durations_of(status)
            cells[CODES + status] = cells[END_CODE]
            cells[REQUESTS] = cells[END_REQUESTS]
            cells[total] = cells[END_DURATION]
            cells[total + 1 + bucket] = cells[END_BUCKET_COUNT]
            cells[IN_FLIGHT] = cells[END_IN_FLIGHT]
            cells[UNLISTED] = cells[END_UNLISTED]
            self.entries.clear(cells[END_TICKET])
        cells[ENDING] = NOT_ENDING

    def finish(self, status: int, took: int) -> None:
        """A request that it had in flight is over, with `status`; 0: it has none."""
        cells, total = self.cells, _durations_of(status)
        cells[REQUESTS] += 1
        cells[CODES + status] += status > 0
        cells[total] += took
        cells[total + 1 + bisect_left(_BOUNDS_NS, took)] += 1

    # ---- read by the master ---------------------------------------------------------------

    def line(self) -> bytes:
        """The request line last entered, cut at 159 bytes."""
        return self.entries.line(self.cells[HELD])

    def held(self) -> Request | None:
        """The request that holds the lane's thread."""
        place, now = self.cells[HELD], monotonic_ns()
        if self.since(REQUEST, now) is None or not self.entries.is_place(place):
            return None
        return self.entries.request(place, now)

    def since(self, cell: int, now_ns: int) -> float | None:
        """Seconds since the time in `cell`, or None when it is 0 or nonsense."""
        value = self.cells[cell]
        return (now_ns - value) / 1e9 if 0 < value <= now_ns else None


def _durations_of(status: int) -> int:
    """Where the sum of the durations of that status is; its buckets follow."""
    return DURATION_BLOCKS[status // 100 if 0 < status < STATUSES else 0]


def scratch_row() -> Row:
    """A row that is not read."""
    return Row(memoryview(bytearray(_ROW)))


class Scoreboard:
    """All rows, and the base that dead children's counters were folded into. Lives in the master."""

    def __init__(self, slots: int, threads: int = 1) -> None:
        """`threads`: of each child, besides its main thread; the highest that a reload may ask for."""
        self.slots = slots
        self.threads = threads
        lanes = threads + 1
        self._memory = mmap.mmap(-1, _ROW * lanes * (slots + 1))
        view = memoryview(self._memory)
        entries = make_entries(slots + 1, lanes)
        rows = [
            Row(view[_ROW * i : _ROW * (i + 1)], i, i % lanes, entries[i // lanes])
            for i in range(lanes * (slots + 1))
        ]
        #: By slot: the lanes of its child, the main thread's first.
        self.lanes = [rows[lanes * slot : lanes * (slot + 1)] for slot in range(slots + 1)]
        self._base = [0] * CELLS
        self._accepted = [0] * (slots + 1)  # per slot, since that metric names the worker
        self._cpu_ns = [0] * (slots + 1)  # per slot, of those that are gone

    def used(self, slot: int) -> list[Row]:
        """The lanes of `slot` that its child has written to."""
        lanes = self.lanes[slot]
        return lanes[: 1 + max(0, lanes[0].cells[LANES])]

    def fold(self, slot: int) -> None:
        """The child in `slot` is gone: keep its counters, clear its lanes for the next one."""
        used = self.used(slot)
        used[0].entries.reset(len(used))
        for row in used:
            cells = row.cells
            for index in COUNTERS:
                self._base[index] += cells[index] & _SANE
            self._accepted[slot] += cells[ACCEPTED] & _SANE
            for index in range(CELLS):
                cells[index] = 0

    def gauge(self, slot: int, cell: int) -> int:
        """A gauge of the child in `slot`, or 0 when a child wrote nonsense there."""
        value = sum(row.cells[cell] for row in self._writers(slot, cell))
        return value if 0 <= value < 1 << 32 else 0

    def counter(self, slot: int, cell: int) -> int:
        """A counter of the living child in `slot`."""
        return sum(row.cells[cell] & _SANE for row in self._writers(slot, cell))

    def _writers(self, slot: int, cell: int) -> list[Row]:
        """The lanes of `slot` that may have something in that cell."""
        return self.lanes[slot][:1] if cell in MAIN else self.used(slot)

    def working(self, slot: int, now_ns: int) -> float | None:
        """Seconds since the main thread of `slot` woke to work; None while it waits."""
        return self.lanes[slot][0].since(WORKING, now_ns)

    def full(self, slot: int, now_ns: int) -> float | None:
        """Seconds for which the child in `slot` has neither a place left nor an idle connection; or None."""
        return self.lanes[slot][0].since(FULL_SINCE, now_ns)

    def longest(self, slot: int, now_ns: int) -> tuple[float, bytes] | None:
        """The request that has held a thread of `slot` for the longest: (seconds, its line)."""
        held = [(since, row) for row in self.used(slot) if (since := row.since(REQUEST, now_ns))]
        if not held:
            return None
        seconds, row = max(held, key=lambda pair: pair[0])
        return seconds, row.line()

    def export(self, cpu_ns: Mapping[int, int] | None = None) -> list[list[int]]:
        """All counters so far: totals by cell, accepts by slot, and processor time by slot. For the next
        master. `cpu_ns`: of the living, by slot."""
        living = cpu_ns or {}
        totals = [0] * CELLS
        for index in COUNTERS:
            totals[index] = self.total(index)
        slots = range(self.slots + 1)
        return [
            totals,
            [self.accepted(slot) for slot in slots],
            [self._cpu_ns[slot] + living.get(slot, 0) for slot in slots],
        ]

    def absorb(self, later: list[list[int]], earlier: list[list[int]] | None = None) -> None:
        """Add what another master's scoreboard exported, less what was absorbed before."""
        mine = self._base, self._accepted, self._cpu_ns  # an older version has no third
        for base, now, before in zip(mine, later, earlier or [[], [], []], strict=False):
            for index in range(min(len(base), len(now))):
                base[index] += now[index] - (before[index] if index < len(before) else 0)

    def total(self, cell: int) -> int:
        """A counter over all children, dead and alive."""
        return self._base[cell] + sum(self.counter(slot, cell) for slot in range(self.slots + 1))

    def accepted(self, slot: int) -> int:
        return self._accepted[slot] + self.counter(slot, ACCEPTED)

    def spend(self, slot: int, cpu_ns: int) -> None:
        """The child that was in `slot` has used so much processor time."""
        self._cpu_ns[slot] += cpu_ns

    def cpu_ns(self, slot: int) -> int:
        """Of those that were in `slot`, and are gone."""
        return self._cpu_ns[slot]

    def codes(self) -> dict[int, int]:
        """Requests by status code; only codes that occurred."""
        totals = self._base[CODES:FAILURES]
        for slot in range(self.slots + 1):
            for row in self.used(slot):
                for code, count in enumerate(row.cells[CODES:FAILURES].tolist()):
                    if count:
                        totals[code] += count & _SANE
        return {code: total for code, total in enumerate(totals) if total}

    def failures(self) -> dict[str, int]:
        """Failures of accept(2), by reason."""
        return {reason: self.total(FAILURES + i) for i, reason in enumerate(REASONS)}

    def durations(self) -> dict[str, tuple[list[tuple[str, float]], float]]:
        """By class of status, "none" where there is no status: the cumulative histogram as (upper bound,
        count) and the sum in seconds."""
        return {
            name: _histogram(self._totals(first, DURATION_CELLS), BOUNDS)
            for name, first in zip(("none", *STATUS_CLASSES), DURATION_BLOCKS, strict=True)
        }

    def waits(self) -> dict[str, tuple[list[tuple[str, float]], float]]:
        """The same of the waits in each of QUEUES."""
        return {
            name: _histogram(self._totals(WAITS + queue * WAIT_CELLS, WAIT_CELLS), WAIT_BOUNDS)
            for queue, name in enumerate(QUEUES)
        }

    def turns(self) -> tuple[list[tuple[str, float]], float]:
        """The same of the turns of event loops."""
        return _histogram(self._totals(TURNS, WAIT_CELLS), WAIT_BOUNDS)

    def _totals(self, first: int, count: int) -> list[int]:
        """As `total`, for so many counters from `first` on."""
        totals = self._base[first : first + count]
        for slot in range(self.slots + 1):
            for row in self.used(slot):
                for index, value in enumerate(row.cells[first : first + count].tolist()):
                    if value:
                        totals[index] += value & _SANE
        return totals


def _histogram(
    cells: list[int], bounds: tuple[float, ...]
) -> tuple[list[tuple[str, float]], float]:
    """Of a sum in ns and the buckets behind it."""
    names = [*(str(bound) for bound in bounds), "+Inf"]
    counts = accumulate(cells[1:])
    return list(zip(names, map(float, counts), strict=True)), cells[0] / 1e9


_MASK = (1 << 64) - 1
#: No honest counter reaches 2**52; the mask bounds what a child gone mad can add to a total.
_SANE = (1 << 52) - 1
