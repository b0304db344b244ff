"""Deadlines of connections in a wheel of quarter-second buckets.

Setting a deadline is an attribute store; the wheel is touched only when the new deadline falls
before the bucket in which the connection already is. A bucket that comes up is walked, and what was
extended meanwhile moves on. So a keep-alive connection costs one bucket entry per 75 s, not one per
request. Called by drivers, in children.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

NEVER = float("inf")
NOWHERE = NEVER


class Timed(Protocol):
    deadline: float  # seconds of CLOCK_MONOTONIC
    bucket: float  # where it is in the wheel, as a time; NOWHERE when it is not


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    def __init__(self) -> None:
        self._buckets: dict[float, set[T]] = {}
        #: When the first bucket comes up, seconds of CLOCK_MONOTONIC.
        self.next = NEVER

    def put(self, item: T) -> None:
        """To be called when `item.deadline` has moved to before its bucket: see `sooner`."""
        if item.bucket != NOWHERE:
            self.drop(item)
        if item.deadline == NEVER:
            return
        bucket = (int(item.deadline * 4) + 1) / 4  # rounded up: never early
        item.bucket = bucket
        self._buckets.setdefault(bucket, set()).add(item)
        if bucket < self.next:
            self.next = bucket

    def drop(self, item: T) -> None:
        """Forget `item`; its connection is closed."""
        members = self._buckets.get(item.bucket)
        if members is not None:
            members.discard(item)
            if not members:
                del self._buckets[item.bucket]
        item.bucket = NOWHERE

    def expired(self, now: float) -> list[T]:
        """Take out and return what is due; what was extended goes to its new bucket."""
        due: list[T] = []
        for bucket in [b for b in self._buckets if b <= now]:
            for item in self._buckets.pop(bucket):
                item.bucket = NOWHERE
                if item.deadline <= now:
                    due.append(item)
                else:
                    self.put(item)
        self.next = min(self._buckets, default=NEVER)
        return due
