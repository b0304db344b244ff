"""A table that processes share, as an object: each method finds the shard of its key, holds it, and calls
what is done there. What is found damaged is repaired, and tried once more.

Keys are bytes or str, times are seconds. Raises what storage/errors.py has: Stalled where a neighbour has
stopped in the middle of an update, Damaged where a repair has not helped, Full, TooLarge.

In a process of the application's; native/storage_table.c, storage_methods.c and storage_verbs.c are the twin.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from mmap import mmap
from typing import Any, TypeVar

from forkd.native import pick
from forkd.storage import shm_cache, shm_lease, shm_queue
from forkd.storage.arguments import LONGEST_SECONDS, as_end, as_int
from forkd.storage.engine import MAX_KEY_BYTES, MAX_VALUE_BYTES, Only, Packed, Value
from forkd.storage.engine import Kind as Type
from forkd.storage.errors import Busy, Damaged, Error, Fenced, Full, Stalled, TooLarge
from forkd.storage.shm_cache import AT_ONCE, Plain, Terms
from forkd.storage.shm_heap import Broken, Key, Shard, boot_ns
from forkd.storage.shm_layout import MAX_DATA_BYTES, Cell, Layout, layout_of
from forkd.storage.shm_lock import ShardLock, Who
from forkd.storage.shm_repair import repair
from forkd.system.originals import os
from forkd.system.shared_memory import read_header

T = TypeVar("T")

_DEAD = b".dead"
_ERRORS = (TooLarge, Full, Stalled, Fenced, Busy, Damaged)
_MASK = (1 << 64) - 1


def open_table(
    memory: mmap, page: mmap | None, slot: int, fd: int, *, instant: bool = False, native: bool = True,
    header: bytes | None = None,
) -> Table:
    """The table in `memory`, a mapping of `fd`. `page`: of incarnations, with `slot` in it, or None with slot
    0. `instant`: its calls raise Busy where they would wait. `header`: as it was made; without it that in the
    memory, which others may have written over. Raises Damaged when it is no table."""
    try:
        born, seed = read_header(memory[:64] if header is None else header, len(memory))
    except ValueError as error:
        raise Damaged(f"shared memory is no table of this forkd: {error}") from error
    made = pick("Table", Table, native)
    layout = tuple(layout_of(len(memory)))
    return made(memory, page, slot, fd, instant, layout, born, seed, _ERRORS, Packed)


class Table:
    """See the module."""

    def __init__(
        self,
        memory: mmap,
        page: mmap | None,
        slot: int,
        fd: int,
        instant: bool,
        layout: tuple[int, ...],
        born: int,
        seed: bytes,
        _errors: tuple[type[Exception], ...],
        _packed: type[Packed],
    ) -> None:
        view = memoryview(memory)
        who = Who(None if page is None else memoryview(page).cast("Q"), slot, os.getpid())
        self._lock = ShardLock(view, fd, who, instant)
        laid_out = Layout(*layout)
        self._shards = [Shard(view, number, laid_out, born, who) for number in range(laid_out.shards)]
        self._hash = lru_cache(4096)(_Hash(seed))

    # ---- arguments

    def _key(self, name: str | bytes) -> Key:
        text = name.encode() if isinstance(name, str) else name
        if not isinstance(text, bytes):
            raise TypeError("a key is a str or bytes")
        if not text:
            raise ValueError("a key is empty")
        if len(text) > MAX_KEY_BYTES:
            raise TooLarge(f"a key of {len(text)} bytes; the most is {MAX_KEY_BYTES}")
        hashed = self._hash(text)
        return Key(text, hashed, (hashed & 0xFFFF) % len(self._shards))

    def _queue(self, name: str | bytes) -> Key:
        """In the shard of the queue that it has the dead letters of."""
        key = self._key(name)
        root = key.text
        while len(root) > len(_DEAD) and root.endswith(_DEAD):
            root = root[: -len(_DEAD)]
        return key._replace(shard=(self._hash(root) & 0xFFFF) % len(self._shards))

    def _dead(self, name: Key) -> Key:
        text = name.text + _DEAD
        return Key(text, self._hash(text), name.shard)

    def _held(self, number: int, call: Callable[[Shard], T]) -> T:
        shard = self._shards[number]
        self._lock.hold(shard.cells, shard.at)
        try:
            if shard.cells[Cell.DIRTY]:
                repair(shard)
            try:
                return call(shard)
            except Broken:
                repair(shard)
                return call(shard)
        except Broken as error:
            raise Damaged("shared memory was written over") from error
        except (Error, TypeError, OverflowError):
            raise  # nothing was changed
        except BaseException:  # of a handler of a signal: what it came from is as after a kill
            shard.cells[Cell.DIRTY] = 1
            raise
        finally:
            self._lock.let_go(shard.cells, shard.at)

    # ---- the cache

    def get(self, name: str | bytes) -> tuple[Value, int, float | None] | None:
        """The value, its token, and the seconds that are left."""
        key = self._key(name)
        found = self._held(key.shard, lambda shard: shm_cache.get(shard, key))
        if found is None:
            return None
        value, token, expires = found
        return _value_of(value), token, _left(expires) if expires else None

    def read(self, key: str | bytes, default: Any = None) -> Any:
        """As Storage.get."""
        found = self.get(key)
        return default if found is None else found[0]

    def put(
        self,
        name: str | bytes,
        value: Value,
        ttl: float | None,
        only: int,
        token: int | None,
        fence: int | None,
    ) -> bool:
        """Whether it was written."""
        key, plain = self._key(name), _plain(value)
        token = None if token is None else as_int("token", token)
        fence = None if fence is None else as_int("fence", fence)
        terms = Terms(_expires(ttl), only, token, fence)
        return self._held(key.shard, lambda shard: shm_cache.put(shard, key, plain, terms))

    def set(
        self, key: str | bytes, value: Any, ttl: float | None = None, *, fence: int | None = None
    ) -> None:
        """As Storage.set."""
        if isinstance(value, bytearray | memoryview):
            value = bytes(value)
        self.put(key, value, ttl, Only.ANY, None, fence)

    def touch(self, name: str | bytes, ttl: float | None) -> bool:
        key, expires = self._key(name), _expires(ttl)
        return self._held(key.shard, lambda shard: shm_cache.touch(shard, key, expires))

    def delete(self, name: str | bytes) -> bool:
        return self.touch(name, 0)

    def incr(self, key: str | bytes, by: int = 1, ttl: float | None = None) -> int:
        """As Storage.incr."""
        found, expires, by = self._key(key), _expires(ttl), as_int("by", by)
        return self._held(found.shard, lambda shard: shm_cache.incr(shard, found, by, expires))

    def scan(self, number: int, bucket: int, count: int, clear: bool) -> list[bytes]:
        """The keys of so many buckets of a shard, from that one on; with `clear` they go."""
        if not 0 <= number < len(self._shards) or not 0 <= bucket <= self._buckets - count:
            raise ValueError("there is no such bucket")
        found = []
        for one in range(bucket, bucket + count):
            found += self._held(number, lambda shard, one=one: shm_cache.scan(shard, one, clear))  # type: ignore[misc]
        return found

    @property
    def _buckets(self) -> int:
        return len(self._shards[0].buckets)

    # ---- locks and limits

    def acquire(self, name: str | bytes, lease: float) -> int | None:
        key = self._key(name)
        return self._held(key.shard, lambda shard: shm_lease.acquire(shard, key, _ns(lease)))

    def renew(self, name: str | bytes, token: int, lease: float) -> bool:
        key = self._key(name)
        return self._held(key.shard, lambda shard: shm_lease.renew(shard, key, token, _ns(lease)))

    def release(self, name: str | bytes, token: int) -> bool:
        key = self._key(name)
        done = self._held(key.shard, lambda shard: shm_lease.release(shard, key, token))
        if done:
            self._lock.ring(key.hash)
        return done

    def allow(
        self, name: str | bytes, seconds: float, burst: float, cost: float
    ) -> tuple[bool, int, float]:
        """With so many seconds between two: whether it passes, how many more would, seconds until one may."""
        key = self._key(name)
        if not seconds > 0 or not seconds * burst <= LONGEST_SECONDS:
            raise ValueError("a limit that is none")
        allowed, remaining, retry = self._held(
            key.shard, lambda shard: shm_lease.allow(shard, key, seconds * 1e9, burst, cost)
        )
        return allowed, int(remaining + 1e-6 if remaining > 0 else 0), retry

    # ---- queues and channels

    def push(self, queue: str | bytes, data: bytes, delay: float, limit: int | None) -> int:
        key = self._queue(queue)
        if limit is not None and limit < 0:
            raise ValueError("a limit is not negative")
        if len(data) > MAX_DATA_BYTES:
            raise TooLarge("larger than this table keeps")
        number = self._held(
            key.shard, lambda shard: shm_queue.push(shard, key, data, _ns(delay), limit)
        )
        self._lock.ring(key.hash)
        return number

    def pop(self, queue: str | bytes, visible: float, tries: int) -> tuple[int, bytes, int] | None:
        """Its id, data, and how many times it was taken."""
        key = self._queue(queue)
        dead = self._dead(key)
        return self._held(
            key.shard, lambda shard: shm_queue.pop(shard, key, dead, _ns(visible), tries)
        )

    def ack(self, queue: str | bytes, id: int, tries: int) -> bool:
        key = self._queue(queue)
        return self._held(key.shard, lambda shard: shm_queue.ack(shard, key, id, tries))

    def defer(self, queue: str | bytes, id: int, tries: int, delay: float, held: bool) -> bool:
        """Whether it was taken by that receipt."""
        key = self._queue(queue)
        done = self._held(
            key.shard, lambda shard: shm_queue.defer(shard, key, id, tries, _ns(delay), held)
        )
        if done:
            self._lock.ring(key.hash)
        return done

    def size(self, queue: str | bytes) -> tuple[int, int, int, int]:
        """Waiting, delayed, taken, dead."""
        key = self._queue(queue)
        dead = self._dead(key)
        return self._held(key.shard, lambda shard: shm_queue.sizes(shard, key, dead))

    def publish(self, channel: str | bytes, data: bytes) -> int:
        """To how many subscriptions."""
        key = self._key(channel)
        if len(data) > MAX_DATA_BYTES:
            raise TooLarge("larger than this table keeps")
        count = self._held(key.shard, lambda shard: shm_queue.publish(shard, key, data))
        if count:
            self._lock.ring(key.hash)
        return count

    def join(self, channel: str | bytes, by: int) -> int:
        """One subscription more or less; the number of the last message."""
        key = self._key(channel)
        return self._held(key.shard, lambda shard: shm_queue.join(shard, key, by))

    def message(self, channel: str | bytes, after: int) -> tuple[int, bytes | None]:
        """The next message after that number, with its own; or the number of the last."""
        key = self._key(channel)
        return self._held(key.shard, lambda shard: shm_queue.next_message(shard, key, after))

    # ---- waiting

    def bell(self, name: str | bytes) -> int:
        """A number that changes with what may be waited for under that name."""
        return self._lock.bell(self._key(name).hash)

    def sleep(self, name: str | bytes, seen: int, seconds: float) -> None:
        """Until the bell is no more as it was seen, for a tenth of a second at most."""
        self._lock.sleep(self._key(name).hash, seen, seconds)

    def held_for(self, name: str | bytes) -> float | None:
        """Seconds until the lease of its holder ends; None: it is free."""
        key = self._key(name)
        due = self._held(key.shard, lambda shard: shm_lease.due(shard, key))
        return None if due is None else _left(due)

    def due_in(self, queue: str | bytes) -> float | None:
        """Seconds until its next item is due; None: it has none."""
        key = self._queue(queue)
        due = self._held(key.shard, lambda shard: shm_queue.due(shard, key))
        return None if due is None else _left(due)

    # ---- the table

    def cells(self, number: int) -> bytes:
        """What a shard begins with."""
        return bytes(self._shards[number].cells.cast("B")[: 8 * len(Cell)])

    def repair(self, number: int) -> bool:
        """Make all that follows from the index of a shard anew; whether it was as it had to be."""

        def compare(shard: Shard) -> bool:
            before = _counts(shard)
            repair(shard)
            return _counts(shard) == before

        return self._held(number, compare)


def _counts(shard: Shard) -> tuple[int, int]:
    cells = shard.cells
    return cells[Cell.KEYS], cells[Cell.HIGH] - cells[Cell.FREE_COUNT]


class _Hash:
    """SipHash-1-3 (Aumasson, Bernstein), with the seed of the table: a client that names keys cannot make
    them fall into one bucket."""

    def __init__(self, seed: bytes) -> None:
        first, second = (int.from_bytes(seed[at : at + 8], "little") for at in (0, 8))
        self._state = (
            first ^ 0x736F6D6570736575, second ^ 0x646F72616E646F6D,
            first ^ 0x6C7967656E657261, second ^ 0x7465646279746573,
        )  # fmt: skip

    def __call__(self, text: bytes) -> int:
        v0, v1, v2, v3 = self._state
        whole = len(text) & -8
        last = int.from_bytes(text[whole:], "little") | (len(text) & 0xFF) << 56
        for at in range(0, whole, 8):
            word = int.from_bytes(text[at : at + 8], "little")
            v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ word)
            v0 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ last)
        v0 ^= last
        v2 ^= 0xFF
        for _ in range(3):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        return v0 ^ v1 ^ v2 ^ v3


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = v0 + v1 & _MASK
    v1 = _rotate(v1, 13) ^ v0
    v0 = _rotate(v0, 32)
    v2 = v2 + v3 & _MASK
    v3 = _rotate(v3, 16) ^ v2
    v0 = v0 + v3 & _MASK
    v3 = _rotate(v3, 21) ^ v0
    v2 = v2 + v1 & _MASK
    v1 = _rotate(v1, 17) ^ v2
    return v0, v1, _rotate(v2, 32), v3


def _ns(seconds: float) -> int:
    return int(min(max(seconds, 0), LONGEST_SECONDS) * 1e9)


def _expires(ttl: float | None) -> int:
    """When something with that ttl ends; 0: never."""
    ttl = as_end(ttl)
    if ttl is None:
        return 0
    return boot_ns() + _ns(ttl) if ttl > 0 else AT_ONCE


def _left(expires: int) -> float:
    return max(0, expires - boot_ns()) / 1e9


def _plain(value: Value) -> Plain:
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise OverflowError("an int of more than 64 bits")
        return Plain(Type.INT, value, b"")
    if isinstance(value, str):
        kind, data = Type.STR, value.encode()
    elif isinstance(value, bytes):
        kind, data = Type.PACKED if type(value) is Packed else Type.BYTES, bytes(value)
    else:
        raise TypeError("a value is bytes, an int or a str")
    if len(data) > MAX_VALUE_BYTES:
        raise TooLarge(f"a value of {len(data)} bytes; the most is {MAX_VALUE_BYTES}")
    return Plain(kind, 0, data)


def _value_of(plain: Plain) -> Value:
    if plain.type == Type.INT:
        return plain.number
    if plain.type == Type.STR:
        try:
            return plain.data.decode()
        except UnicodeDecodeError as error:
            raise Damaged("shared memory was written over") from error
    return Packed(plain.data) if plain.type == Type.PACKED else plain.data
