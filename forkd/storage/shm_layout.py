"""The table that the processes of a service share: what is where in its memory, and how it is made.

The memory is a header of a page, and shards. A key belongs to the shard that its hash names, and a shard
is a small table by itself, behind one lock: buckets, blocks, and the links between them, as in a file
allocation table. It has, in this order:

- cells of 64 bits (`Cell`): the lock word, counters, the list of free blocks;
- `next`, 32 bits a block: the block that follows in its chain, or in the list of free ones; 0: none;
- buckets of 32 bits: the first entry of each; an entry has the next one of its bucket;
- blocks of 128 bytes. Block 0 is none.

An entry is a chain of blocks: 64 bytes of fields (`Entry`), its key, its data. All that is kept is an
entry of some `Kind`: values, locks, fencing counters, queues and their items, limits, channels and messages.

The index is the truth: an entry is there once a bucket or another entry of its bucket links to it, which is
one store of 32 bits. All else (free blocks, counts, the lists of a queue) follows from the index, and is made
anew from it when a holder of the lock was killed in the middle of an update (shm_repair.py). So that leaves
the old value or the new.

Memory of zeros is a table without entries, and costs no page before it is used. No place and no size is read
from the table: all follow from the size of the memory, so that a process that writes nonsense there cannot
lead another out of it. In both twins; native/storage_table.h has the same numbers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from forkd.storage.engine import MAX_VALUE_BYTES
from forkd.system.shared_memory import BLOCK_BYTES, shards_of

#: In the header, which system/shared_memory.py writes. Set to 1 once a process uses the twin in Python, for
#: good: then locks are taken in the file, too.
TWINS_AT = 72
#: Words of 32 bits that change when something may be waiting for a change, by hash.
BELLS_AT, BELLS = 128, 256

SHARD_HEADER_BYTES = 256
ENTRY_BYTES = 64
#: Of a block: itself, its link, and at most as much for buckets.
_COST = BLOCK_BYTES + 4 + 4
MIN_TABLE_BYTES = 1 << 20
#: A message's key is that of its channel, with its number.
MAX_NAME_BYTES = 258
#: An item and a message have the type of their value with it.
MAX_DATA_BYTES = MAX_VALUE_BYTES + 8


class Cell(IntEnum):
    """At the beginning of a shard; 64 bits each."""

    LOCK = 0  # the holder (shm_lock.py); 0: none
    VERSION = 1  # writes so far
    FREE = 2  # the first free block that was used before
    FREE_COUNT = 3
    HIGH = 4  # the highest block that was ever used
    HAND = 5  # the bucket where the next eviction begins
    SOONEST = 6  # no entry ends before (ns); 0: none ends
    SWEPT = 7  # when all that had ended were removed (ns)
    DIRTY = 8  # not 0: it is to be repaired first
    KEYS = 9  # of the cache
    HITS = 10
    MISSES = 11
    EVICTED = 12
    STALLS = 13  # calls that gave up
    REPAIRS = 14


class Kind(IntEnum):
    """Of an entry."""

    CACHE = 1
    LOCK = 2
    FENCE = 3  # the greatest fencing token that a key was written with
    QUEUE = 4
    ITEM = 5
    LIMIT = 6
    CHANNEL = 7
    MESSAGE = 8


class Field(IntEnum):
    """Of an entry: its offset in bytes."""

    KIND = 0  # 8 bits
    TYPE = 1  # 8 bits: engine.Kind
    KEY_SIZE = 2  # 16 bits
    NEXT = 4  # 32 bits: the next entry of the bucket
    HASH = 8
    VERSION = 16  # the token of its last write
    EXPIRES = 24  # ns of CLOCK_BOOTTIME; 0: never
    NUMBER = 32  # an int; when a limit is free again; when an item is due; the last message of a channel
    OWNER = 40  # a lock's holder; an item's queue, and from bit 32 on its tries
    SIZE = 48  # 32 bits: bytes of data
    USED = 52  # 32 bits: of the cache: read since the hand came by; of an item: a list, and TAKEN
    PREV = 56  # 32 bits: of an item: before it in its list; of a queue: how many are READY
    AFTER = 60  # 32 bits: of an item: behind it; of a queue: how many are LATER; of a channel: subscriptions


class Layout(NamedTuple):
    """What follows from the size of a table."""

    shards: int
    shard_bytes: int
    blocks: int  # of a shard, with block 0
    buckets: int  # a power of two
    buckets_at: int  # in a shard
    blocks_at: int


def layout_of(size: int) -> Layout:
    """Raises ValueError when it is too small to be one."""
    if size < MIN_TABLE_BYTES:
        raise ValueError(f"a table has {MIN_TABLE_BYTES} bytes at least")
    shards, shard = shards_of(size)
    blocks = (shard - SHARD_HEADER_BYTES) // _COST
    buckets = 1 << blocks.bit_length() - 1
    return Layout(
        shards, shard, blocks, buckets, SHARD_HEADER_BYTES + 4 * blocks, shard - blocks * BLOCK_BYTES
    )
