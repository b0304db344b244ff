"""Queues: items that are delivered at least once, as `Storage.queue` makes them."""

from __future__ import annotations

from typing import Any

from forkd.storage.arguments import as_seconds, as_wait
from forkd.storage.codec import pack, unpack
from forkd.storage.engine import Item, QueueSize, Waits, dead_letters
from forkd.storage.lock import MAX_WAIT_SECONDS
from forkd.storage.opened import Opened
from forkd.system.originals import monotonic

__all__ = ["Job", "Queue"]


class Job:
    """A taken item. It is due for others once `visible` seconds are over and it was not acknowledged."""

    __slots__ = ("_name", "_unit", "data", "id", "tries")

    def __init__(self, unit: Opened, name: bytes, item: Item) -> None:
        self._unit = unit
        self._name = name
        self.id = item.id
        #: How many times it was taken, with this one.
        self.tries = item.tries
        self.data: Any = unit.codec.decode(unpack(item.data))

    def ack(self) -> bool:
        """It is done: delete it. False: its time was over, and it is done once more."""
        return self._unit.engine.ack(self._name, self.id, self.tries)

    def retry(self, delay: float = 0) -> bool:
        """Put it back, due in `delay` seconds. False: as for `ack`."""
        return self._unit.engine.defer(self._name, self.id, self.tries, as_seconds("delay", delay))

    def extend(self, visible: float) -> bool:
        """Keep it for `visible` seconds from now. False: as for `ack`."""
        return self._unit.engine.hold(self._name, self.id, self.tries, as_seconds("visible", visible))


class Queue:
    """One queue of a unit.

    An item is delivered at least once: one that is not acknowledged within its time, because its taker died,
    is delivered again; after `tries` deliveries it goes to the queue `dead`. In the order of `put`, but for
    delays and what is delivered again.
    """

    def __init__(self, unit: Opened, name: bytes, tries: int, limit: int | None) -> None:
        self._unit = unit
        self.name = name
        self._tries = tries
        self._limit = limit

    def put(self, data: Any, delay: float = 0) -> int:
        """Add an item, due in `delay` seconds. Returns its number. Raises Full, TooLarge."""
        delay = as_seconds("delay", delay)
        return self._unit.engine.push(self.name, pack(self._unit.codec.encode(data)), delay, self._limit)

    def get(self, wait: float | None = 0, visible: float = 30) -> Job | None:
        """Take the oldest item that is due, for `visible` seconds. None: there was none within `wait` seconds
        (None: for ever)."""
        wait, visible = as_wait(wait), as_seconds("visible", visible)
        end = None if wait is None else monotonic() + wait
        while (item := self._unit.engine.pop(self.name, visible, self._tries)) is None:
            left = MAX_WAIT_SECONDS if end is None else min(end - monotonic(), MAX_WAIT_SECONDS)
            if left <= 0:
                return None
            self._unit.engine.wait(Waits.QUEUE, self.name, left)
        return Job(self._unit, self.name, item)

    def size(self) -> QueueSize:
        """How many items are waiting, delayed, taken and dead."""
        return self._unit.engine.size(self.name)

    def __len__(self) -> int:
        """How many are waiting, delayed or taken."""
        size = self.size()
        return size.waiting + size.delayed + size.taken

    def __bool__(self) -> bool:
        return True

    @property
    def dead(self) -> Queue:
        """Where items go that were delivered too often."""
        return Queue(self._unit, dead_letters(self.name), 0, None)
