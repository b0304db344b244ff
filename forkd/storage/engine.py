"""What an engine of the storage unit is: the verbs that each back end has, on encoded keys and plain values.

Users hold a `Storage`, which encodes keys, applies the serializer and makes locks, queues and
limits of these verbs. An engine is used by any thread of its process and by no other process: whoever forks
opens anew. Each call is atomic: others see all of it or nothing, and it waits at most a second for its
neighbours (Stalled) or for its server (Unavailable), but for `wait`, which is there to wait.

Keys are 1 to MAX_KEY_BYTES bytes. Times are seconds from now; a `ttl` of None has no end. A counter (an int
without ttl) and what is not in the cache (a lock, a fencing counter, an item of a queue, a limit) is never
evicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

__all__ = [
    "MAX_INT", "MAX_KEY_BYTES", "MAX_VALUE_BYTES", "MIN_INT", "Engine", "Entry", "Item", "Kind", "Limit",
    "Only", "Packed", "QueueSize", "Stats", "Subscription", "Value", "Verdict", "Waits", "dead_letters",
]  # fmt: skip

MAX_KEY_BYTES = 250
MAX_VALUE_BYTES = 1 << 20
MIN_INT, MAX_INT = -(1 << 63), (1 << 63) - 1

#: A str is kept as UTF-8, an int as 64 bits with a sign. An engine returns the type that was put.
Value = bytes | int | str


class Packed(bytes):
    """Bytes that a serializer made, to be told from a value that was bytes. An engine returns it as such."""

    __slots__ = ()


class Kind(IntEnum):
    """The type of a value, as engines write it beside its bytes."""

    BYTES = 0
    INT = 1
    STR = 2
    PACKED = 3


class Only(IntEnum):
    """On which condition a put writes."""

    ANY = 0
    ABSENT = 1  # add
    PRESENT = 2  # replace


class Waits(IntEnum):
    """What `Engine.wait` waits for."""

    LOCK = 0
    QUEUE = 1


class Entry(NamedTuple):
    """A value of the cache."""

    value: Value
    token: int  # another after each write of this key; of no meaning but for `put(token=...)`
    ttl: float | None  # seconds that are left


class Item(NamedTuple):
    """A taken item of a queue. `id` and `tries` together are its receipt."""

    id: int
    data: bytes
    tries: int  # how many times it was taken, with this one


class QueueSize(NamedTuple):
    """How many items of a queue are in which state."""

    waiting: int
    delayed: int
    taken: int
    dead: int  # waiting in the queue of dead letters


class Limit(NamedTuple):
    """A rate: `amount` in `period` seconds on average, `burst` at once."""

    amount: int
    period: float
    burst: int


class Verdict(NamedTuple):
    """Whether a rate limit lets one more pass."""

    allowed: bool
    remaining: int  # how many more would pass at once
    retry_after: float  # seconds until one more may pass, where this one may not; else 0


class Stats(NamedTuple):
    """How much there is, and what this engine has counted since it was made. `None`: cannot be told."""

    keys: int | None  # of the cache
    bytes: int | None  # in use
    limit: int | None  # bytes that may be in use
    evictions: int | None  # of all processes
    stalls: int | None  # calls of all processes that gave up after a second
    details: Mapping[str, int | float | str]  # what else this engine has to tell


class Subscription(Protocol):
    """The messages of a channel from now on, as far as there is room for them."""

    def get(self, wait: float | None = 0) -> bytes | None:
        """The next message; None where none came within `wait` seconds (None: for ever)."""

    def fileno(self) -> int:
        """A descriptor that is readable when `get` may have something."""

    def close(self) -> None: ...


class Engine(Protocol):
    """A back end. See the module for what holds of each call."""

    #: A view of this engine whose calls raise Busy at once where these would wait for a neighbour; None where
    #: each call waits for a disk or a server. An event loop calls it in its own thread.
    instant: Engine | None

    #: How long a call waits for a neighbour, or for one answer of a server.
    call_seconds: float

    #: Verbs of `Storage` that the engine has complete, e.g. in C, by name: these take the user's arguments
    #: (`get(key: str | bytes, default=None)`) and take their place in a Storage without a serializer.
    verbs: Mapping[str, Callable[..., Any]]

    # ---- cache

    def get(self, key: bytes) -> Entry | None: ...

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Value]:
        """Those that are there. Atomic for each key, not for all."""

    def put(
        self, key: bytes, value: Value, ttl: float | None, *,
        only: Only = Only.ANY, token: int | None = None, fence: int | None = None,
    ) -> bool:
        """Whether it was written. `token` (of an Entry): only where the key was not written since. `fence`:
        raises Fenced where it is lower than the greatest that this key was written with. A `ttl` of 0 or
        less writes what is expired at once, which is a delete. Raises TooLarge, Full."""  # fmt: skip

    def put_many(self, items: Iterable[tuple[bytes, Value]], ttl: float | None) -> None: ...

    def touch(self, key: bytes, ttl: float | None) -> bool:
        """Give it another end; whether it is there."""

    def delete(self, key: bytes) -> bool: ...

    def incr(self, key: bytes, by: int, ttl: float | None) -> int:
        """The new value. A missing key counts from 0 and gets `ttl`; one that is there keeps its end. Raises
        TypeError where it is no int, OverflowError where 64 bits are too few."""

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        """Those of the cache, in no order. What is there all the while comes once at least."""

    def clear(self) -> None:
        """Delete the cache, and nothing else."""

    # ---- locks

    def acquire(self, name: bytes, lease: float) -> int | None:
        """Its fencing token, greater than each before of that name; None where it has a living holder."""

    def renew(self, name: bytes, token: int, lease: float) -> bool:
        """Whether it was still held by this token, and now is for `lease` seconds more."""

    def release(self, name: bytes, token: int) -> bool:
        """Whether it was still held by this token. Those who wait are woken."""

    # ---- queues: each item is delivered at least once

    def push(self, queue: bytes, data: bytes, delay: float, limit: int | None) -> int:
        """The item's id. Raises TooLarge, and Full where the queue has `limit` items by now."""

    def pop(self, queue: bytes, visible: float, tries: int) -> Item | None:
        """The oldest that is due, hidden from others for `visible` seconds. One that was taken `tries` times
        and not acknowledged goes to dead_letters(queue) in place of that; 0: never."""

    def ack(self, queue: bytes, id: int, tries: int) -> bool:
        """Delete a taken item; whether it was still taken by this receipt."""

    def hold(self, queue: bytes, id: int, tries: int, visible: float) -> bool:
        """Hide a taken item for `visible` seconds from now; whether it was still taken by this receipt."""

    def defer(self, queue: bytes, id: int, tries: int, delay: float) -> bool:
        """Put a taken item back, due in `delay` seconds; whether it was still taken by this receipt."""

    def size(self, queue: bytes) -> QueueSize: ...

    # ---- limits

    def allow(self, key: bytes, limit: Limit, cost: int = 1) -> Verdict:
        """GCRA, the generic cell rate algorithm (ITU-T I.371), in one atomic step."""

    # ---- channels: each message is delivered at most once

    def publish(self, channel: bytes, data: bytes) -> int:
        """To how many subscriptions; those of other processes as far as they can be counted."""

    def subscribe(self, channel: bytes) -> Subscription: ...

    # ---- the engine

    def wait(self, what: Waits, name: bytes, seconds: float) -> None:
        """Return when this lock or queue may have changed, or the time is over."""

    def stats(self) -> Stats: ...

    def check(self) -> list[str]:
        """What is wrong with what is stored, in words."""

    def forget(self) -> None:
        """In a child after a fork, once, in place of `close`: let go of what is the parent's, without harm to
        it."""

    def close(self) -> None: ...


def dead_letters(queue: bytes) -> bytes:
    """The name of the queue to which another's dead letters go."""
    return queue + b".dead"
