"""The verbs of a unit to be awaited, on the loop that runs: `await s.aio.get("k")`.

None blocks the loop. What an engine can do at once, as shared memory can, is done in the loop's own thread;
all else in a thread of a pool. Those who wait for a lock or for an item try again and again, at growing
intervals, so that a thousand of them need no thousand threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from forkd.storage.arguments import as_bounds, as_lease, as_seconds, as_wait
from forkd.storage.channel import Subscription
from forkd.storage.codec import encode_key, pack
from forkd.storage.engine import Item, Limit, QueueSize, Stats, Verdict, dead_letters
from forkd.storage.errors import Busy, Unavailable
from forkd.storage.lock import timed_out
from forkd.storage.queue import Job
from forkd.system.originals import monotonic

__all__ = ["Aio"]

T = TypeVar("T")

#: A Storage. Its module imports this one.
Unit: TypeAlias = Any

MAX_THREADS = 16
#: Seconds between two tries of one that waits: the first, and the longest.
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.05


class NoThread(Unavailable):
    """All threads were busy, as while a server does not answer. Nothing was done."""


class Aio:
    """The awaitable form of a Storage; arguments, results and errors are those of the verb of that name."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="forkd-storage")
        self._instant: Unit = None
        self._opened = False
        #: Of the engine; None before it is opened, which takes its time.
        self._call_seconds: float | None = None

    async def run(self, verb: Callable[[Unit], T]) -> T:
        """What `verb` returns for the unit, where that blocks nothing."""
        if not self._opened:
            await self._in_thread(lambda: self.unit.engine)
            self._opened, self._instant = True, self.unit.instant()
            self._call_seconds = self.unit.engine.call_seconds
        if self._instant is not None:
            try:
                return verb(self._instant)
            except Busy:
                pass
        return await self._in_thread(partial(verb, self.unit))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        """Raises NoThread where all threads were busy for as long as a call may wait."""
        submitted = self._pool.submit(call)
        done = asyncio.wrap_future(submitted)
        if self._call_seconds is None:
            return await done
        late = False

        def give_up() -> None:
            nonlocal late
            late = submitted.cancel()  # not where a thread is at it: that has a deadline of its own

        timer = asyncio.get_running_loop().call_later(self._call_seconds, give_up)
        try:
            return await done
        except asyncio.CancelledError:
            if late:
                raise NoThread(f"no thread was free within {self._call_seconds:g} s") from None
            raise
        finally:
            timer.cancel()

    async def until(
        self, attempt: Callable[[Unit], T | None], wait: float | None, undo: Callable[[Unit, T], object]
    ) -> T | None:
        """What `attempt` returns once it is not None; None where it was within `wait` seconds. `undo` it
        where the caller is cancelled while a thread is at it."""
        end = None if wait is None else monotonic() + wait
        pause = _FIRST_PAUSE_SECONDS
        while True:
            task = asyncio.ensure_future(self.run(attempt))
            crowded: NoThread | None = None
            try:
                found = await asyncio.shield(task)
            except NoThread as error:
                found, crowded = None, error
            except asyncio.CancelledError:
                task.add_done_callback(partial(self._undo, undo))
                raise
            left = pause if end is None else min(end - monotonic(), pause)
            if crowded is not None and left <= 0:
                raise crowded
            if found is not None or left <= 0:
                return found
            await asyncio.sleep(left)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _undo(self, undo: Callable[[Unit, T], object], task: asyncio.Future[T | None]) -> None:
        if task.cancelled() or task.exception() is not None:
            return
        found = task.result()
        if found is not None:
            self._pool.submit(undo, self.unit, found)

    async def get(self, key: str | bytes, default: Any = None) -> Any:
        return await self.run(lambda s: s.get(key, default))

    async def set(
        self, key: str | bytes, value: Any, ttl: float | None = None, *, fence: int | None = None
    ) -> None:
        await self.run(lambda s: s.set(key, value, ttl, fence=fence))

    async def add(self, key: str | bytes, value: Any, ttl: float | None = None) -> bool:
        return await self.run(lambda s: s.add(key, value, ttl))

    async def replace(self, key: str | bytes, value: Any, ttl: float | None = None) -> bool:
        return await self.run(lambda s: s.replace(key, value, ttl))

    async def gets(self, key: str | bytes, default: Any = None) -> tuple[Any, int | None]:
        return await self.run(lambda s: s.gets(key, default))

    async def cas(
        self, key: str | bytes, value: Any, token: int | None, ttl: float | None = None
    ) -> bool:
        return await self.run(lambda s: s.cas(key, value, token, ttl))

    async def touch(self, key: str | bytes, ttl: float | None = None) -> bool:
        return await self.run(lambda s: s.touch(key, ttl))

    expire = touch

    async def ttl(self, key: str | bytes) -> float | None:
        return await self.run(lambda s: s.ttl(key))

    async def delete(self, key: str | bytes) -> bool:
        return await self.run(lambda s: s.delete(key))

    async def incr(self, key: str | bytes, by: int = 1, ttl: float | None = None) -> int:
        return await self.run(lambda s: s.incr(key, by, ttl))

    async def decr(self, key: str | bytes, by: int = 1, ttl: float | None = None) -> int:
        return await self.run(lambda s: s.decr(key, by, ttl))

    async def get_many(self, keys: Iterable[str | bytes]) -> dict[str | bytes, Any]:
        return await self.run(lambda s: s.get_many(list(keys)))

    async def set_many(
        self, items: Mapping[str, Any] | Mapping[bytes, Any], ttl: float | None = None
    ) -> None:
        await self.run(lambda s: s.set_many(items, ttl))

    async def keys(self, prefix: str | bytes = "") -> list[str]:
        """As a list: an iterator would read in the loop's thread."""
        return await self._in_thread(lambda: list(self.unit.keys(prefix)))

    async def clear(self) -> None:
        await self._in_thread(self.unit.clear)

    async def limit(self, key: str | bytes, rate: str | Limit, cost: int = 1) -> Verdict:
        return await self.run(lambda s: s.limit(key, rate, cost))

    async def publish(self, channel: str | bytes, data: Any) -> int:
        return await self.run(lambda s: s.publish(channel, data))

    async def stats(self) -> Stats:
        return await self._in_thread(self.unit.stats)

    async def check(self) -> list[str]:
        return await self._in_thread(self.unit.check)

    def lock(self, name: str | bytes, lease: float = 30, wait: float | None = None) -> AsyncLock:
        """`async with s.aio.lock("report", lease=30, wait=5) as token:`"""
        return AsyncLock(self, encode_key(name), as_lease(lease), as_wait(wait))

    def queue(self, name: str | bytes, tries: int = 0, limit: int | None = None) -> AsyncQueue:
        """`job = await s.aio.queue("jobs").get(wait=5)`, `await job.ack()`"""
        return AsyncQueue(self, encode_key(name), *as_bounds(tries, limit))

    async def subscribe(self, channel: str | bytes) -> AsyncSubscription:
        """`async for message in await s.aio.subscribe("news"):`"""
        return AsyncSubscription(await self._in_thread(lambda: self.unit.subscribe(channel)))

    def close(self) -> None:
        self._pool.shutdown()


class AsyncLock:
    """A lock.Lock to be awaited."""

    def __init__(self, aio: Aio, name: bytes, lease: float, wait: float | None) -> None:
        self._aio = aio
        self._name = name
        self._lease = lease
        self._wait = wait
        self.token: int | None = None

    async def acquire(self, wait: float | None = -1) -> int | None:
        if self.token is not None:
            raise RuntimeError("this lock is held by this object")
        wait = as_wait(wait)
        self.token = await self._aio.until(
            lambda unit: unit.engine.acquire(self._name, self._lease),
            self._wait if wait is not None and wait < 0 else wait,
            lambda unit, token: unit.engine.release(self._name, token),
        )
        return self.token

    async def renew(self, lease: float | None = None) -> bool:
        token, seconds = self.token, self._lease if lease is None else as_seconds("a lease", lease)
        if token is None:
            return False
        return await self._aio.run(lambda unit: unit.engine.renew(self._name, token, seconds))

    async def release(self) -> bool:
        token, self.token = self.token, None
        if token is None:
            return False
        return await self._aio.run(lambda unit: unit.engine.release(self._name, token))

    async def __aenter__(self) -> int:
        token = await self.acquire()
        if token is None:
            raise timed_out(self._name, self._wait)
        return token

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.release())


class AsyncJob:
    """A queue.Job to be awaited."""

    def __init__(self, aio: Aio, job: Job, receipt: tuple[bytes, int, int]) -> None:
        self._aio = aio
        self._receipt = receipt
        self.id, self.tries, self.data = job.id, job.tries, job.data

    async def ack(self) -> bool:
        return await self._aio.run(lambda unit: unit.engine.ack(*self._receipt))

    async def retry(self, delay: float = 0) -> bool:
        seconds = as_seconds("delay", delay)
        return await self._aio.run(lambda unit: unit.engine.defer(*self._receipt, seconds))

    async def extend(self, visible: float) -> bool:
        seconds = as_seconds("visible", visible)
        return await self._aio.run(lambda unit: unit.engine.hold(*self._receipt, seconds))


class AsyncQueue:
    """A queue.Queue to be awaited."""

    def __init__(self, aio: Aio, name: bytes, tries: int, limit: int | None) -> None:
        self._aio = aio
        self.name = name
        self._tries = tries
        self._limit = limit

    async def put(self, data: Any, delay: float = 0) -> int:
        seconds = as_seconds("delay", delay)
        return await self._aio.run(
            lambda unit: unit.engine.push(self.name, pack(unit.codec.encode(data)), seconds, self._limit)
        )

    async def get(self, wait: float | None = 0, visible: float = 30) -> AsyncJob | None:
        def undo(unit: Unit, item: Item) -> bool:
            return bool(unit.engine.defer(self.name, item.id, item.tries, 0))

        seconds = as_seconds("visible", visible)
        item = await self._aio.until(
            lambda unit: unit.engine.pop(self.name, seconds, self._tries), as_wait(wait), undo
        )
        if item is None:
            return None
        job = Job(self._aio.unit, self.name, item)
        return AsyncJob(self._aio, job, (self.name, item.id, item.tries))

    async def size(self) -> QueueSize:
        return await self._aio.run(lambda unit: unit.engine.size(self.name))

    @property
    def dead(self) -> AsyncQueue:
        return AsyncQueue(self._aio, dead_letters(self.name), 0, None)


class AsyncSubscription:
    """A channel.Subscription to be awaited, by one reader at a time."""

    def __init__(self, source: Subscription) -> None:
        self._source = source

    async def get(self, wait: float | None = None) -> Any:
        wait = as_wait(wait)
        end = None if wait is None else monotonic() + wait
        while (message := self._source.get(0)) is None:
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                return None
            await self._readable(left)
        return message

    async def _readable(self, seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(self._source.fileno(), wake)
        try:
            await asyncio.wait([ready], timeout=seconds)
        finally:
            loop.remove_reader(self._source.fileno())

    def close(self) -> None:
        self._source.close()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            message = await self.get()
            if message is not None:
                yield message

    async def __aenter__(self) -> AsyncSubscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
