"""A bulkhead for a child's threads: at most N requests in the application, and N − 1 of long routes.

So one thread is always left for requests that are answered at once, however many wait for long ones (Nygard,
Release It!: bulkheads). A request that finds no room is queued here, and enters when another leaves.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from forkd.engine.connection import Connection
from forkd.session.seam import Exchange
from forkd.system.originals import Lock


class Work(NamedTuple):
    """An exchange that goes on in the application."""

    conn: Connection
    exchange: Exchange
    reached: Any  # the exchange, HIJACK, or a request that its session knows nothing of; None: mid-answer
    route: bytes  # of the request: see routes.py
    long: bool  # see routes.py


class Bulkhead:
    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self.inside = self._long = 0
        self._queue: deque[Work] = deque()
        self._long_queue: deque[Work] = deque()

    @property
    def full(self) -> bool:
        return self.inside >= self._most

    def enter(self, work: Work) -> bool:
        """Whether it may enter now; otherwise it is queued. Called by the leader only."""
        with self._lock:
            if self.inside < self._most and not (work.long and self._full_of_long):
                self.inside += 1
                self._long += work.long
                return True
            (self._long_queue if work.long else self._queue).append(work)
            return False

    def entered(self) -> None:
        """Count a thread that entered as the leader, when there was room, and leads no longer."""
        with self._lock:
            self.inside += 1

    def leave(self, long: bool) -> Work | None:
        """The caller has left; what it is to enter with next, if anything waits that may."""
        with self._lock:
            self.inside -= 1
            self._long -= long
            queue, longs = self._queue, self._long_queue
            if (
                longs
                and not self._full_of_long
                and (not queue or longs[0].exchange.lent < queue[0].exchange.lent)
            ):
                queue = longs
            if not queue or self.inside >= self._most:
                return None
            work = queue.popleft()
            self.inside += 1
            self._long += work.long
            return work

    @property
    def _full_of_long(self) -> bool:
        return self._long >= self._most - 1
