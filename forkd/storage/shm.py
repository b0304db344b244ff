"""The engine in shared memory: a table that the master has made, in a process that it has forked.

Time is that of CLOCK_BOOTTIME. What is there is lost when the service stops; it outlives each process of it,
a reload, an upgrade, and under systemd the master.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from forkd.storage.engine import (
    Engine,
    Entry,
    Item,
    Limit,
    Only,
    QueueSize,
    Stats,
    Subscription,
    Value,
    Verdict,
    Waits,
)
from forkd.storage.errors import Error
from forkd.storage.shm_channel import ChannelReader
from forkd.storage.shm_layout import Cell, layout_of
from forkd.storage.shm_lock import STALL_SECONDS, pid_of
from forkd.storage.shm_table import Table, open_table
from forkd.system.shared import Mapped, table_of
from forkd.system.shared_memory import BLOCK_BYTES

#: Of a table that are read at a time.
_SLICE_BUCKETS = 256
_CELLS = struct.Struct(f"<{len(Cell)}Q")


class Shm:
    """Implements `Engine`."""

    call_seconds = STALL_SECONDS

    def __init__(self, mapped: Mapped, instant: bool = False) -> None:
        """Raises Damaged."""
        memory, page, slot, fd, native, header = mapped
        self._layout = layout_of(len(memory))
        self._table: Table = open_table(
            memory, page, slot, fd, instant=instant, native=native, header=header
        )
        table = self._table
        self.instant: Engine | None = None if instant else Shm(mapped, instant=True)
        self.verbs: Mapping[str, Callable[..., Any]] = {
            "get": table.read, "set": table.set, "incr": table.incr,
        }  # fmt: skip
        # What needs nothing but the table's own.
        self.touch = table.touch
        self.delete = table.delete
        self.incr = table.incr
        self.acquire = table.acquire
        self.renew = table.renew
        self.release = table.release
        self.push = table.push
        self.ack = table.ack
        self.publish = table.publish

    @classmethod
    def open(cls, name: str) -> Shm:
        """The unit of that name of the service that this process is of. Raises Error, OSError."""
        mapped = table_of(name)
        if mapped is None:
            raise Error(
                f"the storage unit {name} is in shared memory, which a service shares with its own "
                "processes alone, and this is none of them"
            )
        return cls(mapped)

    # ---- the cache

    def get(self, key: bytes) -> Entry | None:
        found = self._table.get(key)
        return None if found is None else Entry(*found)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Value]:
        read = self._table.read
        return {key: value for key in keys if (value := read(key)) is not None}

    def put(
        self, key: bytes, value: Value, ttl: float | None, *,
        only: Only = Only.ANY, token: int | None = None, fence: int | None = None,
    ) -> bool:  # fmt: skip
        return self._table.put(key, value, ttl, only, token, fence)

    def put_many(self, items: Iterable[tuple[bytes, Value]], ttl: float | None) -> None:
        for key, value in items:
            self._table.set(key, value, ttl)

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        for keys in self._scan(clear=False):
            yield from (key for key in keys if key.startswith(prefix))

    def clear(self) -> None:
        for _ in self._scan(clear=True):
            pass

    def _scan(self, clear: bool) -> Iterator[list[bytes]]:
        buckets = self._layout.buckets
        for shard in range(self._layout.shards):
            for first in range(0, buckets, _SLICE_BUCKETS):
                yield self._table.scan(shard, first, min(_SLICE_BUCKETS, buckets - first), clear)

    # ---- queues, limits, channels

    def pop(self, queue: bytes, visible: float, tries: int) -> Item | None:
        found = self._table.pop(queue, visible, tries)
        return None if found is None else Item(*found)

    def hold(self, queue: bytes, id: int, tries: int, visible: float) -> bool:
        return self._table.defer(queue, id, tries, visible, True)

    def defer(self, queue: bytes, id: int, tries: int, delay: float) -> bool:
        return self._table.defer(queue, id, tries, delay, False)

    def size(self, queue: bytes) -> QueueSize:
        return QueueSize(*self._table.size(queue))

    def allow(self, key: bytes, limit: Limit, cost: int = 1) -> Verdict:
        return Verdict(*self._table.allow(key, limit.period / limit.amount, limit.burst, cost))

    def subscribe(self, channel: bytes) -> Subscription:
        return ChannelReader(self._table, channel)

    # ---- the engine

    def wait(self, what: Waits, name: bytes, seconds: float) -> None:
        table = self._table
        seen = table.bell(name)  # before it is looked at: what changes after that ends the sleep
        left = table.held_for(name) if what == Waits.LOCK else table.due_in(name)
        if left is None and what == Waits.LOCK:
            return
        table.sleep(name, seen, seconds if left is None else min(seconds, left))

    def stats(self) -> Stats:
        shards = [self._cells(number) for number in range(self._layout.shards)]

        def total(cell: Cell) -> int:
            return sum(cells[cell] for cells in shards)

        blocks = self._layout.shards * (self._layout.blocks - 1)
        used = total(Cell.HIGH) - total(Cell.FREE_COUNT)
        return Stats(
            keys=total(Cell.KEYS), bytes=used * BLOCK_BYTES, limit=blocks * BLOCK_BYTES,
            evictions=total(Cell.EVICTED), stalls=total(Cell.STALLS),
            details={
                "hits": total(Cell.HITS), "misses": total(Cell.MISSES), "repairs": total(Cell.REPAIRS),
                "shards": self._layout.shards,
            },
        )  # fmt: skip

    def _cells(self, number: int) -> tuple[int, ...]:
        return _CELLS.unpack(self._table.cells(number))

    def check(self) -> list[str]:
        wrong = []
        for number in range(self._layout.shards):
            if holder := pid_of(self._cells(number)[Cell.LOCK]):
                wrong.append(f"shard {number} is held by process {holder}")
            try:
                if not self._table.repair(number):
                    wrong.append(f"the counts of shard {number} were wrong; they are repaired")
            except Error as error:
                wrong.append(f"shard {number}: {error}")
        return wrong

    def forget(self) -> None:
        """Nothing is the parent's: a child has the same table, and no slot."""

    def close(self) -> None:
        """Nothing: the table is the process's, and other units may use it."""
