"""All that follows from the index of a shard, made anew: free blocks, counts, and the lists of queues.

For the holder of the shard's lock: where it took the lock over from a process that was killed in the
middle of an update, or has found that the shard is not of its form. What an update had not published is
free again; an entry that is not whole goes, and with it what its bucket has behind it, since there is no
telling what that is.

In a process of the application's; native/storage_repair.c is the twin.
"""

from __future__ import annotations

from forkd.storage.shm_heap import Broken, Shard, boot_ns
from forkd.storage.shm_layout import (
    ENTRY_BYTES,
    MAX_DATA_BYTES,
    MAX_NAME_BYTES,
    Cell,
    Field,
    Kind,
)
from forkd.storage.shm_queue import enlist
from forkd.system.shared_memory import BLOCK_BYTES

_IS_QUEUE = 2  # of a block: a queue begins there


def repair(shard: Shard) -> None:
    cells = shard.cells
    cells[Cell.DIRTY] = 1
    seen = bytearray(shard.count)
    items: list[tuple[int, int, int, int]] = []  # due (0: now), id, place, queue
    keys = soonest = 0
    now = boot_ns()
    for bucket in range(len(shard.buckets)):
        words, index = shard.buckets, bucket
        while place := words[index]:
            if not _mark(shard, bucket, place, seen):
                words[index] = 0
                break
            kind, expires = shard.kind(place), shard.signed(place, Field.EXPIRES)
            keys += kind == Kind.CACHE
            if expires and (not soonest or expires < soonest):
                soonest = expires
            if kind == Kind.QUEUE:  # its lists are empty
                seen[place] = _IS_QUEUE
                shard.set_long(place, Field.NUMBER, 0)
                shard.set_long(place, Field.OWNER, 0)
                shard.set_word(place, Field.PREV, 0)
                shard.set_word(place, Field.AFTER, 0)
            elif kind == Kind.ITEM:
                due, version = shard.signed(place, Field.NUMBER), shard.long(place, Field.VERSION)
                items.append((due if due > now else 0, version, place, shard.word(place, Field.OWNER)))
            words, index = shard.words, (place * BLOCK_BYTES + Field.NEXT) // 4
    high = max(seen.rfind(1), seen.rfind(_IS_QUEUE), 0)
    first = count = 0
    for place in range(high, 0, -1):
        if not seen[place]:
            shard.next[place] = first
            first = place
            count += 1
    cells[Cell.HIGH] = high
    cells[Cell.FREE] = first
    cells[Cell.FREE_COUNT] = count
    cells[Cell.KEYS] = keys
    cells[Cell.SOONEST] = soonest & ((1 << 64) - 1)
    shard.add(Cell.REPAIRS, 1)
    _relist(shard, sorted(items), seen, now)
    cells[Cell.DIRTY] = 0


def _mark(shard: Shard, bucket: int, place: int, seen: bytearray) -> bool:
    """Mark the blocks of an entry. Whether it is whole, and none of them was marked already."""
    if not 0 < place < shard.count or seen[place]:
        return False
    key, size = shard.key_size(place), shard.word(place, Field.SIZE)
    if not 0 < shard.kind(place) <= max(Kind) or not 0 < key <= MAX_NAME_BYTES or size > MAX_DATA_BYTES:
        return False
    if shard.bucket_of(shard.long(place, Field.HASH)) != bucket:
        return False
    at = place
    for _ in range(-(-(ENTRY_BYTES + key + size) // BLOCK_BYTES)):
        if not 0 < at < shard.count or seen[at]:
            return False  # its blocks stay marked, and unused until the next repair
        seen[at] = 1
        at = shard.next[at]
    return True


def _relist(
    shard: Shard, items: list[tuple[int, int, int, int]], seen: bytearray, now: int
) -> None:
    """The lists of queues, from their items; one without a queue goes."""
    for _, _, place, queue in items:
        try:
            if queue >= shard.count or seen[queue] != _IS_QUEUE:
                raise Broken
            enlist(shard, queue, place, now)
        except Broken:
            shard.remove(place)
