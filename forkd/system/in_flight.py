"""Requests in flight: an entry for each in memory that the children share with the master.

Each slot of the scoreboard has one entry for each lane, and a pool for what its child has in flight besides:
requests whose answer waits for a slow client, generators between two pieces, streams. A request is in
flight from the store of its time, the first cell of its entry, until that is 0 again. Requests that find
the pool taken have no entry; their lane counts them.

Written by the child (system/recorder.py), and read by its parent when it is dead.
What a child wrote is data, never trusted as an index, a size or a time.
"""

from __future__ import annotations

import mmap
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

from forkd.native import pick
from forkd.system.originals import Lock

if TYPE_CHECKING:
    from forkd._native import Places as NativePlaces

#: As many requests of a child have names; the others are counted. The default of --worker-connections: with
#: that an event loop is never held by a request without a name, however many wait beside it.
POOL_ENTRIES = 4096
#: Cells of 8 bytes at the beginning of an entry.
BEGAN = 0  # ns of CLOCK_MONOTONIC; 0: the entry is free
#: Its client's descriptor, plus one, as long as nothing of an answer can have been sent there; else 0.
SOCKET = 1
#: Where an entry has the client's address and the request line, each with its size in a byte before it.
_CLIENT, _CLIENT_BYTES = 16, 48
_LINE, _LINE_BYTES = 64, 160
#: Whose name it has there: BEGAN of that request.
NAMED = 28
_ID, _ID_BYTES = 232, 144
ENTRY_BYTES = 384
ENTRY_CELLS = ENTRY_BYTES // 8
#: All of an entry but BEGAN and a name: SOCKET, client and line, which are cut to their room.
FACTS, FACTS_AT = struct.Struct(f"@q{_CLIENT_BYTES}p{_LINE_BYTES}p"), 8 * SOCKET
NAME, NAME_AT = struct.Struct(f"@{_ID_BYTES}p"), _ID
#: Not in Python's mmap before 3.13. Entries that are never written to cost no memory, and reserve none.
_MAP_NORESERVE = 0x4000

#: What a conversation of a TCP protocol has for a request line.
STREAM = b"stream"


class Request(NamedTuple):
    """One that was in flight when its process died."""

    began: int  # ns of CLOCK_MONOTONIC
    client: str  # address; empty for a unix socket
    line: bytes
    place: int
    held: int = 0  # since when it held a thread, ns; 0: it was between two steps
    thread: int = 0  # which one, as get_ident() has it; 0: it is in another process
    untouched: bool = False  # nothing of an answer was sent
    id: str = ""  # its name, if it has one

    @property
    def is_stream(self) -> bool:
        return self.line == STREAM


class Entries:
    """The entries of one slot. The first is none: its first cell says how much of the pool was ever taken."""

    def __init__(self, memory: memoryview, lanes: int) -> None:
        self.memory = memory
        self.cells = memory.cast("q")
        self.first = 1 + lanes  # of the pool
        self.count = len(memory) // ENTRY_BYTES

    def id(self, place: int) -> str:
        """The name of the request in flight there; "" if it has none."""
        cell = place * ENTRY_CELLS
        if not self.is_place(place) or self.cells[cell + NAMED] != self.cells[cell + BEGAN]:
            return ""
        return self._get(place * ENTRY_BYTES + _ID, _ID_BYTES).decode("ascii", "replace")

    def began(self, place: int) -> int:
        return self.cells[place * ENTRY_CELLS + BEGAN]

    def socket(self, place: int) -> int:
        """The descriptor of the client that waits for the first byte of an answer; or -1."""
        return self.cells[place * ENTRY_CELLS + SOCKET] - 1

    def clear(self, place: int) -> None:
        """It is free; nothing, where that is no entry."""
        if self.is_place(place):
            self.cells[place * ENTRY_CELLS + BEGAN] = 0

    def is_place(self, place: int) -> bool:
        return 0 < place < self.count

    def line(self, place: int) -> bytes:
        return self._get(place * ENTRY_BYTES + _LINE, _LINE_BYTES) if self.is_place(place) else b""

    def request(self, place: int, now: int) -> Request | None:
        """The request in flight there, unless it is nonsense."""
        began = self.began(place)
        if not 0 < began <= now:
            return None
        client = self._get(place * ENTRY_BYTES + _CLIENT, _CLIENT_BYTES)
        return Request(
            began, client.decode("ascii", "replace"), self.line(place), place,
            untouched=self.socket(place) >= 0, id=self.id(place),
        )  # fmt: skip

    def of_pool(self) -> range:
        """The entries of the pool that were ever taken."""
        used = min(max(0, self.cells[BEGAN]), self.count - self.first)
        return range(self.first, self.first + used)

    def reset(self, lanes: int) -> None:
        """The child is gone, which has used so many lanes."""
        for place in (*range(1, 1 + min(lanes, self.first - 1)), *self.of_pool()):
            self.clear(place)
        self.cells[BEGAN] = 0

    def places(self, native: bool, pool: bool = True) -> Places | NativePlaces:
        """The table of free entries, for a child. `pool`: it may use that; no other process does."""
        count = self.count - self.first if pool else 0
        make = pick("Places", Places, native)
        return make(
            memory=self.memory, entry=ENTRY_BYTES, client=_CLIENT, client_room=_CLIENT_BYTES, line=_LINE,
            line_room=_LINE_BYTES, id=_ID, id_room=_ID_BYTES, first=self.first, count=count,
        )  # fmt: skip

    def _get(self, at: int, room: int) -> bytes:
        return bytes(self.memory[at + 1 : at + 1 + min(self.memory[at], room - 1)])


class Places:
    """The free entries of the pool: private to a process, shared by its threads. The twin of
    native/system_in_flight.c's."""

    def __init__(self, *, memory: memoryview, first: int, count: int, **_: int) -> None:
        """The memory of all entries; those of the pool are from `first` on. The others are places in an
        entry, which native code takes from here."""
        self.memory = memory
        self.cells = memory.cast("q")
        self._first = first
        self._most = count
        self._taken = 0  # ever, at once
        self._free: list[int] = []
        self._lock = Lock()

    def take(self) -> int:
        """One of the pool; 0 when all are taken."""
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._taken >= self._most:
                return 0
            self._taken += 1
            self.cells[BEGAN] = self._taken
            return self._first + self._taken - 1

    def give_back(self, place: int) -> None:
        if place >= self._first:
            self._free.append(place)


def make_entries(slots: int, lanes: int) -> list[Entries]:
    """The entries of each slot, whose child has so many lanes."""
    size = (1 + lanes + POOL_ENTRIES) * ENTRY_BYTES
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    if sys.platform == "linux":
        flags |= _MAP_NORESERVE
    view = memoryview(mmap.mmap(-1, size * slots, flags))
    return [Entries(view[size * slot : size * (slot + 1)], lanes) for slot in range(slots)]


def scratch_entries() -> Entries:
    """Entries for one lane, in private memory."""
    return Entries(memoryview(bytearray((2 + POOL_ENTRIES) * ENTRY_BYTES)), 1)
