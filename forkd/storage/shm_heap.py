"""The blocks of a shard of a table, and the entries that are made of them.

All of this is for the holder of the shard's lock. Room is made by eviction: first of all that has ended,
then of values that were not read since the hand of a clock came by (second chance, an approximation of least
recently used). Nearest expiry would keep what is never read because it was written with a long ttl, and has
no answer for values without one. That all that has ended goes is looked at ten times a second at most.
Counters without an end, locks, fences, queues, items, limits and channels are never evicted.

In a process of the application's; native/storage_heap.c is the twin.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from forkd.storage.engine import Kind as Type
from forkd.storage.errors import Full, TooLarge
from forkd.storage.shm_layout import (
    ENTRY_BYTES,
    SHARD_HEADER_BYTES,
    Cell,
    Field,
    Kind,
    Layout,
)
from forkd.storage.shm_lock import Who
from forkd.system.originals import time
from forkd.system.shared_memory import BLOCK_BYTES, HEADER_BYTES

_SWEEP_NS = 100_000_000
_MASK = (1 << 64) - 1
_CLOCK_BOOTTIME = 7


def boot_ns() -> int:
    """Now. What ends goes on to end while the machine sleeps."""
    return time.clock_gettime_ns(_CLOCK_BOOTTIME)


class Broken(Exception):
    """The shard is not of the form that it has to have: it is repaired, and the call is made once more."""


class Key(NamedTuple):
    text: bytes
    hash: int
    shard: int


class Link(NamedTuple):
    """A word that names an entry: in the buckets, or in the entry before it."""

    words: memoryview
    at: int


class Shard:
    """A shard, as one of its processes has it mapped."""

    def __init__(self, memory: memoryview, number: int, layout: Layout, born: int, who: Who) -> None:
        self.at = HEADER_BYTES + number * layout.shard_bytes
        view = memory[self.at : self.at + layout.shard_bytes]
        self.who = who
        self._born = born
        self.count = layout.blocks
        self.cells = view[:SHARD_HEADER_BYTES].cast("Q")
        self.next = view[SHARD_HEADER_BYTES : layout.buckets_at].cast("I")
        self.buckets = view[layout.buckets_at : layout.buckets_at + 4 * layout.buckets].cast("I")
        self._data = view[layout.blocks_at :]
        self.words = self._data.cast("I")
        self._longs = self._data.cast("Q")
        self._signed = self._data.cast("q")

    # ---- fields of an entry

    def word(self, place: int, field: int) -> int:
        return self.words[(place * BLOCK_BYTES + field) // 4]

    def set_word(self, place: int, field: int, value: int) -> None:
        self.words[(place * BLOCK_BYTES + field) // 4] = value

    def long(self, place: int, field: int) -> int:
        return self._longs[(place * BLOCK_BYTES + field) // 8]

    def set_long(self, place: int, field: int, value: int) -> None:
        self._longs[(place * BLOCK_BYTES + field) // 8] = value & _MASK

    def signed(self, place: int, field: int) -> int:
        return self._signed[(place * BLOCK_BYTES + field) // 8]

    def kind(self, place: int) -> int:
        return self._data[place * BLOCK_BYTES]

    def type(self, place: int) -> int:
        return self._data[place * BLOCK_BYTES + Field.TYPE]

    def set_type(self, place: int, value: int) -> None:
        self._data[place * BLOCK_BYTES + Field.TYPE] = value

    def key_size(self, place: int) -> int:
        return self.word(place, Field.KIND) >> 16

    def check(self, place: int) -> int:
        """The place of an entry that a link names. Raises Broken."""
        if not 0 < place < self.count:
            raise Broken
        return place

    # ---- blocks

    def _available(self) -> int:
        high, free = self.cells[Cell.HIGH], self.cells[Cell.FREE_COUNT]
        if high >= self.count or free > high:
            raise Broken
        return free + self.count - 1 - high

    def alloc(self, size: int, spare: int) -> int:
        """A chain of blocks for so many bytes, without evicting the entry `spare`. Raises TooLarge, Full."""
        wanted = _blocks_for(size)
        if wanted >= self.count:
            raise TooLarge("larger than this table keeps")
        for _ in range(self.count):
            if self._available() >= wanted:
                break
            self.evict(spare, boot_ns())
        high, count, free = self.cells[Cell.HIGH], self.cells[Cell.FREE_COUNT], self.cells[Cell.FREE]
        if high >= self.count or count > high or count + self.count - 1 - high < wanted:
            raise Broken
        first = before = 0
        for _ in range(wanted):
            if count:
                one = free
                if not 0 < one <= high:
                    raise Broken
                free, count = self.next[one], count - 1
            else:
                high += 1
                one = high
            if before:
                self.next[before] = one
            else:
                first = one
            before = one
        self.next[before] = 0
        self.cells[Cell.FREE] = free
        self.cells[Cell.FREE_COUNT] = count
        self.cells[Cell.HIGH] = high
        return first

    def _free(self, first: int, size: int) -> None:
        count, last, high = _blocks_for(size), first, self.cells[Cell.HIGH]
        if count > self.count:
            self.cells[Cell.DIRTY] = 1
            return
        for _ in range(count - 1):
            last = self.next[last]
            if not 0 < last < min(high + 1, self.count):
                self.cells[Cell.DIRTY] = 1  # not what was written: all is looked at
                return
        self.next[last] = self.cells[Cell.FREE] & 0xFFFFFFFF
        self.cells[Cell.FREE] = first
        self.cells[Cell.FREE_COUNT] = self.cells[Cell.FREE_COUNT] + count & _MASK

    def _pieces(self, place: int, at: int, size: int) -> Iterator[memoryview]:
        """The parts of a chain. Raises Broken."""
        while size:
            if at >= BLOCK_BYTES:
                at -= BLOCK_BYTES
            else:
                start = self.check(place) * BLOCK_BYTES + at
                part = min(BLOCK_BYTES - at, size)
                yield self._data[start : start + part]
                size -= part
                at = 0
            place = self.next[self.check(place)] if size else 0

    def read(self, place: int, at: int, size: int) -> bytes:
        """So many bytes of a chain. Raises Broken."""
        return b"".join(self._pieces(place, at, size))

    def write(self, place: int, at: int, data: bytes) -> None:
        done = 0
        for piece in self._pieces(place, at, len(data)):
            piece[:] = data[done : done + len(piece)]
            done += len(piece)

    # ---- entries

    def next_token(self) -> int:
        version = self.cells[Cell.VERSION] = self.cells[Cell.VERSION] + 1 & _MASK
        return _signed(self._born + version)

    def new_entry(self, kind: Kind, key: Key, data: bytes = b"", spare: int = 0) -> int:
        """An entry that nothing links to. Raises TooLarge, Full."""
        place = self.alloc(ENTRY_BYTES + len(key.text) + len(data), spare)
        start = place * BLOCK_BYTES
        self._data[start : start + ENTRY_BYTES] = bytes(ENTRY_BYTES)
        self.set_word(place, Field.KIND, kind | len(key.text) << 16)
        self.set_long(place, Field.HASH, key.hash)
        self.set_word(place, Field.SIZE, len(data))
        self.set_long(place, Field.VERSION, self.next_token())
        self.write(place, ENTRY_BYTES, key.text + data)
        return place

    def drop(self, place: int) -> None:
        """Free an entry that nothing links to any more."""
        self._free(place, ENTRY_BYTES + self.key_size(place) + self.word(place, Field.SIZE))

    def bucket_of(self, hashed: int) -> int:
        return hashed >> 16 & len(self.buckets) - 1

    def links(self, bucket: int) -> Iterator[tuple[Link, int]]:
        """Each entry of a bucket, with what links to it. One may be removed as it comes. Raises Broken."""
        words, index = self.buckets, bucket
        for _ in range(self.count):
            place = words[index]
            if not place:
                return
            self.check(place)
            yield Link(words, index), place
            if words[index] == place:  # it is still there
                words, index = self.words, (place * BLOCK_BYTES + Field.NEXT) // 4
        raise Broken

    def find(self, kind: Kind, key: Key) -> tuple[int, Link] | None:
        """The entry of that kind and key, and what links to it. Raises Broken."""
        for link, place in self.links(self.bucket_of(key.hash)):
            if (
                self.long(place, Field.HASH) == key.hash
                and self.kind(place) == kind
                and self.key_size(place) == len(key.text)
                and self.read(place, ENTRY_BYTES, len(key.text)) == key.text
            ):
                return place, link
        return None

    def publish(self, place: int) -> None:
        """From here on the entry is there."""
        bucket = self.bucket_of(self.long(place, Field.HASH))
        self.set_word(place, Field.NEXT, self.buckets[bucket])
        self.buckets[bucket] = place
        if self.kind(place) == Kind.CACHE:
            self.add(Cell.KEYS, 1)

    def unlink(self, link: Link, place: int) -> None:
        link.words[link.at] = self.word(place, Field.NEXT)
        if self.kind(place) == Kind.CACHE:
            self.add(Cell.KEYS, -1)
        self.drop(place)

    def replace(self, link: Link, old: int, new: int) -> None:
        """One store: others see the old entry or the new one."""
        self.set_word(new, Field.NEXT, self.word(old, Field.NEXT))
        link.words[link.at] = new
        self.drop(old)

    def remove(self, place: int) -> None:
        """The same as unlink for one whose link is not at hand."""
        for link, found in self.links(self.bucket_of(self.long(place, Field.HASH))):
            if found == place:
                self.unlink(link, place)
                return
        raise Broken

    def expire_at(self, place: int, expires: int) -> None:
        self.set_long(place, Field.EXPIRES, expires)
        soonest = _signed(self.cells[Cell.SOONEST])
        if expires and (not soonest or expires < soonest):
            self.cells[Cell.SOONEST] = expires

    def has_expired(self, place: int, now: int) -> bool:
        expires = self.signed(place, Field.EXPIRES)
        return bool(expires) and expires <= now

    def is_over(self, place: int, now: int) -> bool:
        """Whether it has ended, or was a lock of a process that has."""
        if self.has_expired(place, now):
            return True
        if self.kind(place) != Kind.LOCK:
            return False
        owner = self.long(place, Field.OWNER)
        return not owner or self.who.is_over(owner)

    def add(self, cell: Cell, count: int) -> None:
        self.cells[cell] = self.cells[cell] + count & _MASK

    # ---- eviction

    def _is_evictable(self, place: int) -> bool:
        kind = self.kind(place)
        if kind == Kind.CACHE:
            return self.type(place) != Type.INT or self.signed(place, Field.EXPIRES) != 0
        return kind == Kind.MESSAGE

    def _clean(self, bucket: int, spare: int, now: int, hand: bool, soonest: int) -> tuple[int, int]:
        """Remove what has ended in a bucket, and with `hand` what was not read since it came by. How many
        went, and when the next one ends."""
        removed = 0
        for link, place in self.links(bucket):
            expires = self.signed(place, Field.EXPIRES)
            over = goes = self.has_expired(place, now)
            if not over and hand and self._is_evictable(place):
                goes = not self.word(place, Field.USED)
                self.set_word(place, Field.USED, 0)
            if goes and place != spare:
                self.add(Cell.EVICTED, not over)
                self.unlink(link, place)
                removed += 1
            elif expires and (not soonest or expires < soonest):
                soonest = expires
        return removed, soonest

    def evict(self, spare: int, now: int) -> None:
        """Make room. Raises Full when nothing may go."""
        removed = 0
        soonest, swept = _signed(self.cells[Cell.SOONEST]), _signed(self.cells[Cell.SWEPT])
        if soonest and soonest <= now and not 0 <= now - swept <= _SWEEP_NS:
            soonest = 0
            for bucket in range(len(self.buckets)):
                gone, soonest = self._clean(bucket, spare, now, False, soonest)
                removed += gone
            self.cells[Cell.SOONEST] = soonest & _MASK
            self.cells[Cell.SWEPT] = now
        for _ in range(2 * len(self.buckets) + 1):
            if removed:
                return
            hand = self.cells[Cell.HAND] & len(self.buckets) - 1
            removed, _soonest = self._clean(hand, spare, now, True, soonest)
            self.cells[Cell.HAND] = hand + 1
        if not removed:
            raise Full("there is no room, and nothing that may be evicted")


def _blocks_for(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
