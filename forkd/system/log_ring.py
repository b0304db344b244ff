"""Rings of log lines in shared memory: one writer each, one reader for all, and neither waits.

One anonymous shared mmap, made by the master before the first fork. Each lane of the scoreboard has two
rings, one for each log, so that an access log whose disk hangs hides no error; the master's are those of
slot 0, and the logger has two of its own. The reader is the logger (forkd/logger), which alone writes
files.

A record is a header (bytes of text, number of the log) and whole lines. The writer copies it behind its
head and then stores the new head, one aligned 64-bit move: a writer that is killed in between has written
nothing. The reader stores its tail once the record is in the file, so a reader that is killed, or has been
replaced, loses nothing that is in a ring; it may write the last records twice. Head and tail count bytes
since the start; a ring's size is a power of two.

What a writer stored there is data. The reader takes a head for a number of bytes only if a ring can hold
so many, a size only if so many are there, and a log only if it knows it: else it forgets the ring's
content, and goes on.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from forkd.native import pick
from forkd.system.originals import Lock

if TYPE_CHECKING:
    from forkd._native import RingWriter

ERROR, ACCESS = 0, 1
_KINDS = 2
_HEADER = struct.Struct("=II")  # bytes of text, number of the log
_HEADER_BYTES = _HEADER.size
_COPY_BYTES = 16384  # of a ring, by which it is read
#: Bytes of a ring: the master's and the logger's, a worker's (which at 150,000 long lines a second is full in
#: 35 ms), and a process's that a worker forks.
_MASTER_BYTES, _WORKER_BYTES, _LANE_BYTES = 1 << 20, 1 << 20, 1 << 16
#: For so much, or half of a ring, the reader is woken at once.
_MANY_BYTES = 1 << 17
#: Text of one record, unless a line is longer.
_RECORD_BYTES = 1 << 15
_MASK = (1 << 64) - 1
_SCAN_HEADS = 64  # heads compared at once
#: Cells of the logger's, by kind: lines that it lost; since when a write has not returned (ns, or 0).
_LOST, _SINCE = 0, 2
_CELLS = 4
#: Not in Python's mmap before 3.13. Rings that are never written to cost no memory, and reserve none.
_MAP_NORESERVE = 0x4000


class Rings:
    def __init__(self, slots: int, lanes: int) -> None:
        """`slots` with that of the master, 0; `lanes` of each, with the main thread's."""
        self.count = _KINDS * (slots * lanes + 2)
        #: The first of two lanes of the logger itself: what it has to say; and after that, by the number of
        #: their log, what it read from pipes.
        self.own = slots * lanes
        self._first = (3 * self.count + _CELLS) * 8  # where the text begins
        self._slots, self._lanes = slots, lanes
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
        if sys.platform == "linux":
            flags |= _MAP_NORESERVE
        start, room = self.place(self.count - 1)
        self.memory = memoryview(mmap.mmap(-1, start + room, flags))
        # A store through a memoryview of 8-byte items is one aligned move: it cannot be torn.
        cells = self.memory[: self._first].cast("Q")
        self.heads = cells[: self.count]
        self.tails = cells[self.count : 2 * self.count]
        self.done = cells[2 * self.count : 3 * self.count]  # bytes of the first record in the file
        self._cells = cells[3 * self.count :]
        #: Wakes the reader.
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def place(self, index: int) -> tuple[int, int]:
        """The start of the ring's text, and its size."""
        lane, kind = divmod(index, _KINDS)
        slot, number = divmod(lane, self._lanes)
        lanes = _KINDS * (self._lanes - 1) * _LANE_BYTES
        of_master, of_slot = _KINDS * _MASTER_BYTES + lanes, _KINDS * _WORKER_BYTES + lanes
        if lane >= self.own:
            at = self._first + of_master + (self._slots - 1) * of_slot
            return at + (index - _KINDS * self.own) * _MASTER_BYTES, _MASTER_BYTES
        at = self._first + (of_master + (slot - 1) * of_slot if slot else 0)
        main = _WORKER_BYTES if slot else _MASTER_BYTES
        if number:
            return at + _KINDS * (
                main + (number - 1) * _LANE_BYTES
            ) + kind * _LANE_BYTES, _LANE_BYTES
        return at + kind * main, main

    def index(self, lane: int, kind: int) -> int:
        return _KINDS * lane + kind

    def kind(self, index: int) -> int:
        """The kind of log whose lines are lost there."""
        return ERROR if index >= _KINDS * self.own else index % _KINDS

    def text(self, index: int) -> memoryview:
        start, room = self.place(index)
        return self.memory[start : start + room]

    def ring_bell(self) -> None:
        try:
            os.eventfd_write(self.bell, 1)
        except BlockingIOError:
            pass  # its counter is full: it has been rung

    # ---- written by the logger, read by the master ------------------------------------------

    def lose(self, kind: int, lines: int) -> None:
        self._cells[_LOST + kind] = (self._cells[_LOST + kind] + lines) & _MASK

    def lost(self, kind: int) -> int:
        """Lines that the logger lost. It may have been handed nonsense, and says then so."""
        return int(self._cells[_LOST + kind])

    def note_write(self, kind: int, began: int) -> None:
        self._cells[_SINCE + kind] = began

    def writing_since(self, kind: int) -> int:
        """The time when a write(2) or open(2) began that has not returned: ns of CLOCK_MONOTONIC, or 0."""
        return int(self._cells[_SINCE + kind])


class Writer:
    """One ring, in the process that writes it. Not for two threads at once. The twin of RingWriter in
    native/system_log_ring.c."""

    shut = False  # lines were lost, and the loss is to be logged before others follow

    def __init__(self, rings: Rings, index: int) -> None:
        self._rings = rings
        self._heads, self._tails = rings.heads, rings.tails
        self.use(index)

    def use(self, index: int, *_: int) -> None:
        """Write to that one from now on, where the last writer has left off."""
        self._index = index
        self._text = self._rings.text(index)
        self.room = len(self._text)

    @property
    def head(self) -> int:
        """Bytes that were ever written."""
        return self._heads[self._index]

    @property
    def free(self) -> int:
        """Bytes for headers and text; 0 where the indices are nonsense, until the reader has put that
        right."""
        return max(0, self.room - (self._heads[self._index] - self._tails[self._index] & _MASK))

    def stage(self, log: int, text: bytes) -> int | None:
        """Copy a record of whole lines behind the head, where no reader sees it. Returns the head that
        publishes it; None when there is no room."""
        index, room, size = self._index, self.room, _HEADER_BYTES + len(text)
        head = self._heads[index]
        if (head - self._tails[index] & _MASK) + size > room:
            return None
        data = _HEADER.pack(len(text), log) + text
        at = head & (room - 1)
        if size <= room - at:
            self._text[at : at + size] = data
        else:
            self._text[at:] = data[: room - at]
            self._text[: size - room + at] = data[room - at :]
        return (head + size) & _MASK

    def publish(self, head: int) -> None:
        """The record is the reader's, by this one store. Does not ring."""
        self._heads[self._index] = head

    def put(self, log: int, text: bytes) -> bool:
        """Add a record of whole lines; False when there is no room. Does not ring."""
        head = self.stage(log, text)
        if head is None:
            return False
        self.publish(head)
        return True


class RingSink:
    """The sink of a log, as `Sink`, where the logger writes the file. Used by any thread."""

    def __init__(
        self, rings: Rings, lane: int, kind: int, log: int, *, native: bool = False
    ) -> None:
        """`lane`: which of the scoreboard's, counted over all slots. `log`: its number. `native`: native
        code may write to the ring, too."""
        #: Called with the number of lines that have just been lost.
        self.lost: Callable[[int], object] = lambda lines: None
        #: Asked, when there is room again, for what to write in the place of so many lines.
        self.gap: Callable[[int], bytes] = lambda lines: b""
        self._rings, self._kind, self.log = rings, kind, log
        index = rings.index(lane, kind)
        make: Callable[..., Writer | RingWriter]
        make = pick("RingWriter", lambda **_: Writer(rings, index), native)
        start, room = rings.place(index)
        self.ring = make(memory=rings.memory, count=rings.count, index=index, start=start, room=room)
        self._missing = 0  # lines lost since the last gap
        self.heard = self.ring.head  # what the bell has been rung for
        #: For so many bytes the reader is woken at once.
        self.many_bytes = min(_MANY_BYTES, self.ring.room // 2)
        self._lock = Lock()

    @property
    def waiting(self) -> bool:
        """Whether `retry` has something to do."""
        return self._missing > 0

    @property
    def unheard(self) -> int:
        """Bytes that the bell has not been rung for."""
        return self.ring.head - self.heard

    def write(self, data: bytes, at_once: bool = True) -> None:
        """As `LineSink`. Each wake-up of the logger costs as much as a few hundred lines."""
        with self._lock:
            if self._missing and not self._resume():
                self._lose(data)
                return
            for piece in _pieces(data):
                if not self.ring.put(self.log, piece):
                    self._lose(piece)
        if at_once or self.unheard >= self.many_bytes:
            self._ring_bell()

    def end_request(self, recorder: Any, ticket: int, status: int, took: int, line: bytes) -> None:
        """End a request that has this line; see recorder.py's `end`. The bell is rung later."""
        with self._lock:
            if self._missing:
                self._resume()
            if not recorder.end(ticket, status, took, self.ring, self.log, line):
                recorder.end(ticket, status, took)
                self._lose(line)

    def retry(self) -> None:
        """Log what was lost, if there is room again, and wake the reader for what was written."""
        with self._lock:
            told = bool(self._missing and self._resume())
        if told or self.unheard:
            self._ring_bell()

    def head_of(self, lane: int) -> int:
        """The head of a lane's ring for the same kind of log: bytes that were ever written there."""
        return self._rings.heads[self._rings.index(lane, self._kind)]

    def forked(self, lane: int, lost: Callable[[int], object]) -> None:
        """In a process forked from the one that wrote so far: it has a lane of its own."""
        self.lost = lost
        index = self._rings.index(lane, self._kind)
        self.ring.use(index, *self._rings.place(index))
        self.ring.shut = False
        self._missing, self.heard = 0, self.ring.head
        self.many_bytes = min(_MANY_BYTES, self.ring.room // 2)

    def end(self) -> None:
        """The process ends. What is in the ring is the logger's."""
        self.retry()

    def close(self) -> None:
        """Do nothing: in a child, the master's ring is not the child's to close."""

    def _ring_bell(self) -> None:
        self.heard = self.ring.head  # before: for what comes meanwhile the bell is rung once more
        self._rings.ring_bell()

    def _resume(self) -> bool:
        # Half of it must be free: then one gap is logged, and not one for each line that finds a place.
        if self.ring.free < self.ring.room // 2:
            return False
        missing, self._missing = self._missing, 0
        self.ring.shut = False
        gap = self.gap(missing)
        return not gap or self.ring.put(self.log, gap)

    def _lose(self, data: bytes) -> None:
        lines = data.count(b"\n")
        self._missing += lines
        self.ring.shut = True
        self.lost(lines)


def _pieces(data: bytes) -> Iterator[bytes]:
    """Whole lines, so many at a time as a record has."""
    while len(data) > _RECORD_BYTES:
        end = data.rfind(b"\n", 0, _RECORD_BYTES) + 1 or data.find(b"\n") + 1 or len(data)
        yield data[:end]
        data = data[end:]
    if data:
        yield data


class Taken(NamedTuple):
    """The first records of a ring, which are for one log."""

    ring: int
    used: int  # bytes in the ring
    skip: int  # bytes of the first that are in the file already
    text: bytes  # of all, without those


class Reader:
    """All rings, in the logger. One thread."""

    def __init__(self, rings: Rings, *, native: bool = True) -> None:
        self._rings = rings
        self._records = pick("records", records, native)
        # A copy: a writer could change those that it sees.
        self._tails = array("Q", rings.tails.tobytes())

    def filled(self) -> list[int]:
        """The rings that have something."""
        rings, tails = self._rings, self._tails
        mine, heads = tails.tobytes(), rings.heads.tobytes()
        if mine == heads:
            return []
        step = 8 * _SCAN_HEADS
        found = []
        for at in range(0, len(heads), step):
            if heads[at : at + step] != mine[at : at + step]:
                first = at // 8
                last = min(first + _SCAN_HEADS, rings.count)
                found += [i for i in range(first, last) if rings.heads[i] != tails[i]]
        return found

    def passed(self, index: int, head: int) -> bool:
        """Whether all that was before `head` has been taken."""
        return (self._tails[index] - head) & _MASK < 1 << 63

    def log_of(self, index: int) -> int | None:
        """The log that the first record is for; None when there is none that makes sense."""
        header = self._header(index, self._tails[index], self._pending(index))
        return None if header is None else header[1]

    def take(self, index: int, most: int) -> Taken:
        """The first records, all for one log, of up to `most` bytes, and one at least; none when what is
        there makes no sense. They stay until `advance`."""
        first, used, text = self._records(
            self._rings.text(index), self._tails[index], self._pending(index), most
        )
        skip = min(self._rings.done[index], first)
        return Taken(index, used, skip, text[skip:])

    def advance(self, taken: Taken, written: int) -> int:
        """Note that so many bytes of `taken.text` are in the file. Returns how many of the text were."""
        written, index, tail = min(written, len(taken.text)), taken.ring, 0
        left = 0
        if written == len(taken.text):
            tail = taken.used
        else:
            left = written + taken.skip
            while header := self._header(index, self._tails[index] + tail, taken.used - tail):
                if left < header[0]:
                    break
                left -= header[0]
                tail += _HEADER.size + header[0]
        rings = self._rings
        if tail:
            # Before the tail: a logger that is killed here writes lines twice rather than not at all.
            rings.done[index] = 0
            self._move(index, self._tails[index] + tail)
        rings.done[index] = left
        return written

    def end_torn_line(self, index: int) -> int:
        """The file that has half a line of the first record is closed: its rest must not tear one in the
        next. Returns how many lines that are lost: 0 or 1."""
        taken = self.take(index, 0)
        if not taken.skip:
            return 0
        before = self._read(index, self._tails[index] + _HEADER.size + taken.skip - 1, 1)
        if before == b"\n":
            return 0
        end = taken.text.find(b"\n") + 1 or len(taken.text)
        self.advance(taken, end)
        return 1

    def forget(self, index: int) -> None:
        """The ring's content makes no sense, as only a writer gone mad makes it."""
        self._rings.done[index] = 0
        self._move(index, self._rings.heads[index])

    def _move(self, index: int, tail: int) -> None:
        self._tails[index] = self._rings.tails[index] = tail & _MASK

    def _pending(self, index: int) -> int:
        return (self._rings.heads[index] - self._tails[index]) & _MASK

    def _header(self, index: int, at: int, pending: int) -> tuple[int, int] | None:
        """(bytes of text, log) of the record at `at`; None for nonsense, and at the end."""
        return _header(self._rings.text(index), at, pending)

    def _read(self, index: int, at: int, size: int) -> bytes:
        return _read(self._rings.text(index), at, size)


def records(ring: memoryview, at: int, pending: int, most: int) -> tuple[int, int, bytes]:
    """The records at `at`, all for one log, of up to `most` bytes, and one at least; none where what is there
    makes no sense: (size of the first one's text, bytes of all in the ring, their text). `pending`: bytes
    from there to the head. The twin of native/system_log_ring.c's."""
    pieces: list[bytes] = []
    first = used = size = 0
    here, begin, unpack = b"", 0, _HEADER.unpack_from  # a copy of what is at `begin`, since slices cost more
    header = _header(ring, at, pending)
    log = header[1] if header else 0
    while header and header[1] == log and not (pieces and size + header[0] > most):
        text, end = used + _HEADER_BYTES, used + _HEADER_BYTES + header[0]
        if end + _HEADER_BYTES > begin + len(here):
            begin, here = used, _read(ring, at + used, min(pending - used, end - used + _COPY_BYTES))
        pieces.append(here[text - begin : end - begin])
        first, used = first or header[0], end
        size += header[0]
        header = None
        if pending - used > _HEADER_BYTES:
            header = unpack(here, used - begin)
            if not 0 < header[0] <= pending - used - _HEADER_BYTES:
                header = None
    return first, used, b"".join(pieces)


def _header(ring: memoryview, at: int, pending: int) -> tuple[int, int] | None:
    if not _HEADER.size < pending <= len(ring):
        return None
    size, log = _HEADER.unpack(_read(ring, at, _HEADER.size))
    return (size, log) if 0 < size <= pending - _HEADER.size else None


def _read(ring: memoryview, at: int, size: int) -> bytes:
    at &= len(ring) - 1
    end = min(size, len(ring) - at)
    data = bytes(ring[at : at + end])
    return data if end == size else data + bytes(ring[: size - end])
