"""The recorder of a thread: it writes the requests of that thread to its lane of the scoreboard, and to their
entries among those in flight. In a child.

The cells are described in system/cells.py, the entries in system/in_flight.py; the master reads both. The
twin is native/system_recorder.c.
"""

from __future__ import annotations

from bisect import bisect_left
from struct import Struct
from typing import TYPE_CHECKING

from forkd.system.cells import (
    CODES,
    DURATION_BLOCKS,
    END_HEAD,
    ENDING,
    HELD,
    IN_FLIGHT,
    REQUEST,
    REQUESTS,
    STATUSES,
    UNLISTED,
)
from forkd.system.in_flight import (
    BEGAN,
    ENTRY_BYTES,
    ENTRY_CELLS,
    FACTS,
    FACTS_AT,
    NAME,
    NAME_AT,
    NAMED,
    SOCKET,
    Places,
)
from forkd.system.originals import monotonic_ns

if TYPE_CHECKING:
    from forkd.system.log_ring import Writer

#: ENDING.
NOT_ENDING, WITHOUT_LINE, WITH_LINE = range(3)
#: The cells from END_HEAD to END_UNLISTED, in their order.
_NOTE = Struct("@Q9q")
_NOTE_AT = END_HEAD * 8


class Recorder:
    """Writes one lane. For the thread that has it."""

    def __init__(
        self, *, memory: memoryview, bounds: tuple[int, ...], places: Places, own: int, **_: object
    ) -> None:
        """The memory of the lane; upper bounds of durations, ns; the entries of the process, and which of
        them is the lane's own."""
        self._memory = memory
        self._cells = memory.cast("q")
        self._bounds = bounds
        self._places = places
        self._entries, self._entry_cells = places.memory, places.cells
        self._own = own
        self._held = 0  # the entry of the request that holds the thread; 0: none has one

    def begin(self, line: bytes, client: str = "", fd: int = -1) -> int:
        """A request enters the application. `fd`: of its client's socket. Returns its ticket: the number of
        its entry; or, where it has none, the time with a minus before it."""
        cells, entry_cells = self._cells, self._entry_cells
        now, place = monotonic_ns(), self._own
        if entry_cells[place * ENTRY_CELLS + BEGAN]:
            place = self._places.take()
        if place:
            FACTS.pack_into(
                self._entries, place * ENTRY_BYTES + FACTS_AT, fd + 1, client.encode("ascii", "replace"), line
            )
            entry_cells[place * ENTRY_CELLS + BEGAN] = now
        else:
            cells[UNLISTED] += 1
        cells[IN_FLIGHT] += 1
        self._held = cells[HELD] = place
        cells[REQUEST] = now
        return place or -now

    def identify(self, ticket: int, id: str) -> None:
        """The request that has just begun has this name. Its entry has it once it says whose it is."""
        if ticket > 0:
            cells, cell = self._entry_cells, ticket * ENTRY_CELLS
            NAME.pack_into(self._entries, ticket * ENTRY_BYTES + NAME_AT, id.encode("ascii", "replace"))
            cells[cell + NAMED] = cells[cell + BEGAN]

    def answer(self, ticket: int) -> None:
        """Bytes of an answer to it may be sent from here on."""
        if ticket > 0:
            self._entry_cells[ticket * ENTRY_CELLS + SOCKET] = 0

    def pause(self) -> None:
        """The application gave control back: what it has returned may be sent from here on."""
        if self._held:
            self._entry_cells[self._held * ENTRY_CELLS + SOCKET] = 0
            self._held = 0
        self._cells[REQUEST] = 0

    def resume(self, ticket: int) -> None:
        """The application is entered again for the next piece of the response, perhaps by another thread
        than before."""
        self._held = self._cells[HELD] = max(0, ticket)
        self._cells[REQUEST] = monotonic_ns()

    def took(self, ticket: int) -> int:
        """For how long the request is in flight, ns."""
        return monotonic_ns() - (-ticket if ticket < 0 else self._entry_cells[ticket * ENTRY_CELLS + BEGAN])

    def end(
        self,
        ticket: int,
        status: int,
        took: int,
        ring: Writer | None = None,
        log: int = 0,
        line: bytes = b"",
    ) -> bool:
        """The request is answered with `status`, after `took` ns; its line goes to `log`, by way of `ring`.
        Returns whether it has ended: not when the ring does not take the line.

        It is ended once, whenever the process is killed. The line is staged in the ring, what is to be stored
        is noted, and then the line is published: from that store of the ring's head on the request has ended.
        At last the cells are stored. The process that finds the note of a dead one knows by the head of the
        ring whether the end was reached, and stores the same again (`Row.complete`); without a line, it is
        reached with the note. No other process writes to the ring meanwhile."""
        head: int | None = 0
        if ring is not None and (ring.shut or (head := ring.stage(log, line)) is None):
            return False
        if not 0 <= status < STATUSES:
            status = 0
        cells, code, total = self._cells, CODES + status, DURATION_BLOCKS[status // 100]
        bucket = bisect_left(self._bounds, took)
        in_bucket = total + 1 + bucket
        codes, requests = cells[code] + (status > 0), cells[REQUESTS] + 1
        duration, count = cells[total] + took, cells[in_bucket] + 1
        in_flight, unlisted = cells[IN_FLIGHT] - 1, cells[UNLISTED] - (ticket < 0)
        cells[REQUEST] = self._held = 0
        _NOTE.pack_into(
            self._memory, _NOTE_AT,
            head, status, ticket, codes, requests, duration, bucket, count, in_flight, unlisted,
        )  # fmt: skip
        cells[ENDING] = WITHOUT_LINE if ring is None else WITH_LINE
        if ring is not None and head is not None:
            ring.publish(head)
        cells[code] = codes
        cells[REQUESTS] = requests
        cells[total] = duration
        cells[in_bucket] = count
        cells[IN_FLIGHT] = in_flight
        if ticket > 0:
            self._entry_cells[ticket * ENTRY_CELLS + BEGAN] = 0
        else:
            cells[UNLISTED] = unlisted
        cells[ENDING] = NOT_ENDING
        if ticket > 0 and ticket != self._own:
            self._places.give_back(ticket)
        return True

    def add(self, cell: int, n: int = 1, /) -> None:
        """A counter grows by `n`. It is a row of system/cells.py, or one of the cells of a row."""
        self._cells[cell] += n
