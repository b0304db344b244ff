"""The storage unit as an application has it: `Storage`, with a verb for each thing that may be done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from forkd.storage.arguments import as_bounds, as_end, as_int, as_lease, as_wait
from forkd.storage.channel import Subscription
from forkd.storage.codec import as_bytes, encode_key, pack
from forkd.storage.engine import Limit, Only, Stats, Verdict
from forkd.storage.limit import parse_limit
from forkd.storage.lock import Lock
from forkd.storage.opened import Opened
from forkd.storage.queue import Queue

if TYPE_CHECKING:
    from forkd.storage.awaitable import Aio

__all__ = ["Storage"]

class Storage(Opened):
    """One storage unit: a cache, counters, locks, queues, limits and channels.

    Keys and names are str of 1 to 250 bytes in UTF-8, or bytes. Values are bytes, int (64 bits) or str, up to
    1 MiB, and come back with their type; anything else needs a serializer. A `ttl` is in seconds, None: no
    end, as is more than 31 years. Times to wait are in seconds, None: for ever.

    Every call may raise Error: Stalled where another process has stopped in the middle of an update,
    Unavailable where a server or a disk fails; both after a second, unless the place says otherwise.
    """

    _aio: Aio | None = None

    @property
    def aio(self) -> Aio:
        """The same verbs to be awaited, on the loop that runs; none of them blocks it."""
        if self._aio is None:
            # Here, since asyncio takes long to import, and many an application has no use for it.
            from forkd.storage.awaitable import Aio

            self._aio = Aio(self)
        return self._aio

    # ---- cache

    def get(self, key: str | bytes, default: Any = None) -> Any:
        """The value, or `default`."""
        entry = self.engine.get(encode_key(key))
        return default if entry is None else self.codec.decode(entry.value)

    def set(
        self, key: str | bytes, value: Any, ttl: float | None = None, *, fence: int | None = None
    ) -> None:
        """Write it. With `fence`, the token of a lock: raises Fenced where the key was written with a greater
        one before. Raises TooLarge, Full."""
        fence = None if fence is None else as_int("fence", fence)
        self.engine.put(encode_key(key), self.codec.encode(value), as_end(ttl), fence=fence)

    def add(self, key: str | bytes, value: Any, ttl: float | None = None) -> bool:
        """Write it where there is none; whether that was so."""
        return self.engine.put(encode_key(key), self.codec.encode(value), as_end(ttl), only=Only.ABSENT)

    def replace(self, key: str | bytes, value: Any, ttl: float | None = None) -> bool:
        """Write it where there is one; whether that was so."""
        return self.engine.put(encode_key(key), self.codec.encode(value), as_end(ttl), only=Only.PRESENT)

    def gets(self, key: str | bytes, default: Any = None) -> tuple[Any, int | None]:
        """The value and a token for `cas`; `default` and None where there is none."""
        entry = self.engine.get(encode_key(key))
        return (default, None) if entry is None else (self.codec.decode(entry.value), entry.token)

    def cas(self, key: str | bytes, value: Any, token: int | None, ttl: float | None = None) -> bool:
        """Compare and set: write it where the key was not written since `gets` returned this token (None:
        where it is still not there); whether that was so."""
        if token is None:
            return self.add(key, value, ttl)
        token = as_int("token", token)
        return self.engine.put(encode_key(key), self.codec.encode(value), as_end(ttl), token=token)

    def touch(self, key: str | bytes, ttl: float | None = None) -> bool:
        """Give it a new end; whether it is there."""
        return self.engine.touch(encode_key(key), as_end(ttl))

    #: By the name that Redis has for it.
    expire = touch

    def ttl(self, key: str | bytes) -> float | None:
        """Seconds until its end, None for no end. Raises KeyError."""
        entry = self.engine.get(encode_key(key))
        if entry is None:
            raise KeyError(key)
        return entry.ttl

    def delete(self, key: str | bytes) -> bool:
        """Whether it was there."""
        return self.engine.delete(encode_key(key))

    def incr(self, key: str | bytes, by: int = 1, ttl: float | None = None) -> int:
        """Add to a counter; the new value. A missing one counts from 0, and gets `ttl`; one that is there
        keeps its end. Raises TypeError where the value is no int, OverflowError."""
        return self.engine.incr(encode_key(key), as_int("by", by), as_end(ttl))

    def decr(self, key: str | bytes, by: int = 1, ttl: float | None = None) -> int:
        """`incr` by the negative."""
        return self.engine.incr(encode_key(key), -as_int("by", by), as_end(ttl))

    def get_many(self, keys: Iterable[str | bytes]) -> dict[str | bytes, Any]:
        """Those that are there. Each is read atomically, not all of them."""
        names = {encode_key(key): key for key in keys}
        decode = self.codec.decode
        return {names[key]: decode(value) for key, value in self.engine.get_many(list(names)).items()}

    def set_many(self, items: Mapping[str, Any] | Mapping[bytes, Any], ttl: float | None = None) -> None:
        """Write them. Each is written atomically, not all of them."""
        encode = self.codec.encode
        self.engine.put_many([(encode_key(key), encode(value)) for key, value in items.items()], as_end(ttl))

    def keys(self, prefix: str | bytes = "") -> Iterator[str]:
        """Those that begin with `prefix`, in no order. What comes and goes meanwhile may be missed."""
        for key in self.engine.keys(as_bytes(prefix)):
            yield key.decode(errors="surrogateescape")

    def clear(self) -> None:
        """Delete all values; locks, queues and limits stay."""
        self.engine.clear()

    def __getitem__(self, key: str | bytes) -> Any:
        entry = self.engine.get(encode_key(key))
        if entry is None:
            raise KeyError(key)
        return self.codec.decode(entry.value)

    def __setitem__(self, key: str | bytes, value: Any) -> None:
        self.engine.put(encode_key(key), self.codec.encode(value), None)

    def __delitem__(self, key: str | bytes) -> None:
        if not self.engine.delete(encode_key(key)):
            raise KeyError(key)

    def __contains__(self, key: str | bytes) -> bool:
        return self.engine.get(encode_key(key)) is not None

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    # ---- locks, queues, limits, channels

    def lock(self, name: str | bytes, lease: float = 30, wait: float | None = None) -> Lock:
        """A lock for one holder at a time: `with s.lock("report", lease=30, wait=5) as token:`. It is free
        again after `lease` seconds, or when its holder dies. Raises TimeoutError where `wait` is over."""
        return Lock(self, encode_key(name), as_lease(lease), as_wait(wait))

    def queue(self, name: str | bytes, tries: int = 0, limit: int | None = None) -> Queue:
        """A queue of items that are delivered at least once. After `tries` deliveries without an
        acknowledgement an item goes to the queue of dead letters (0: never). With `limit` items `put` raises
        Full."""
        return Queue(self, encode_key(name), *as_bounds(tries, limit))

    def limit(self, key: str | bytes, rate: str | Limit, cost: int = 1) -> Verdict:
        """Count one for a rate limit such as "100/minute": whether it may pass, how many more may, and in how
        many seconds one more may. What may not pass is not counted."""
        limit = parse_limit(rate) if isinstance(rate, str) else rate
        if not 0 < as_int("cost", cost) <= limit.burst:
            raise ValueError(f"a cost of {cost} never passes; the burst is {limit.burst}")
        return self.engine.allow(encode_key(key), limit, cost)

    def publish(self, channel: str | bytes, data: Any) -> int:
        """Send a message to those that subscribe now; how many there were, as far as that can be told."""
        return self.engine.publish(encode_key(channel), pack(self.codec.encode(data)))

    def subscribe(self, channel: str | bytes) -> Subscription:
        """The messages of a channel from now on."""
        return Subscription(self.engine.subscribe(encode_key(channel)), self.codec)

    # ---- the unit

    def stats(self) -> Stats:
        """How much there is, and what was counted."""
        return self.engine.stats()

    def check(self) -> list[str]:
        """What is wrong with what is stored, in words."""
        return self.engine.check()

    def instant(self) -> Storage | None:
        """The same unit over the engine's `instant`, whose calls raise Busy where these would wait; None
        where there is none. For `aio`."""
        engine = self.engine.instant
        return None if engine is None else Storage(lambda: engine, self._name, self.codec)

    def close(self) -> None:
        if self._aio is not None:
            self._aio.close()
            self._aio = None
        super().close()

    def forget(self) -> None:
        self._aio = None
        super().forget()
