"""The storage engine over a file of sqlite's: what is acknowledged outlives every process of the service.

`?sync=normal`: a power cut may lose the last writes, and never tears one. `?sync=full`: it loses none. Times
are those of the wall clock, so that they hold over a restart of the machine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from forkd.storage.bells import Bell, Bells
from forkd.storage.codec import NATIVE, encode_key
from forkd.storage.engine import (
    MAX_INT,
    MIN_INT,
    Engine,
    Entry,
    Item,
    Limit,
    Only,
    Packed,
    QueueSize,
    Stats,
    Value,
    Verdict,
    Waits,
    dead_letters,
)  # fmt: skip
from forkd.storage.errors import Fenced, Full
from forkd.storage.limit import judge
from forkd.storage.owner import is_dead, own
from forkd.storage.sqlite_file import MAX_WAIT_SECONDS, File
from forkd.system.originals import monotonic, monotonic_ns, os, time

__all__ = ["SqliteEngine"]

#: Messages that are kept for those who are behind.
MAX_MESSAGES = 1024
#: Seconds between two looks of one that waits: the first, and the longest.
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.02
_KEYS_AT_ONCE = 512

_GET = "SELECT value, packed, ends, token FROM cache WHERE key = ?"
_INSERT = """INSERT INTO cache (key, value, packed, ends, token) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET """
_NEW = "value = excluded.value, packed = excluded.packed, ends = excluded.ends, token = excluded.token"
_PUT = _INSERT + _NEW
_ADD = f"{_INSERT}{_NEW} WHERE cache.ends <= ?"
_LIVE = "(ends IS NULL OR ends > ?)"
_REPLACE = f"UPDATE cache SET value = ?, packed = ?, ends = ?, token = ? WHERE key = ? AND {_LIVE}"
_CAS = _REPLACE + " AND token = ?"
_INCR = f"""{_INSERT}
    value = CASE WHEN cache.ends <= ?6 THEN excluded.value ELSE cache.value + ?2 END,
    packed = 0, token = excluded.token,
    ends = CASE WHEN cache.ends <= ?6 THEN excluded.ends ELSE cache.ends END
    WHERE cache.ends <= ?6 OR cache.value BETWEEN ?7 AND ?8 RETURNING value"""
_TOUCH = f"UPDATE cache SET ends = ? WHERE key = ? AND {_LIVE}"
_DELETE = f"DELETE FROM cache WHERE key = ? AND {_LIVE}"
_KEYS = f"SELECT key FROM cache WHERE key > ? AND key < ? AND {_LIVE} ORDER BY key LIMIT {_KEYS_AT_ONCE}"
_FENCE = """INSERT INTO fences VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET token = excluded.token
    WHERE token <= excluded.token"""

_LOCK = "SELECT token, owner, ends FROM locks WHERE name = ?"
_SET_LOCK = """INSERT INTO locks VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET
    token = excluded.token, owner = excluded.owner, ends = excluded.ends"""
_RENEW = "UPDATE locks SET ends = ? WHERE name = ? AND token = ? AND ends > ?"

_PUSH = "INSERT INTO items (queue, due, taken, tries, data) VALUES (?, ?, 0, 0, ?)"
_LENGTH = "SELECT count(*) FROM (SELECT 1 FROM items WHERE queue = ? LIMIT ?)"
# What is due is at 0, so that it is taken in the order of its numbers, whatever the clock did.
_DUE = "UPDATE items SET due = 0, taken = 0 WHERE queue = ? AND due > 0 AND due <= ?"
_FIRST = "SELECT id, tries, data FROM items WHERE queue = ? AND due = 0 ORDER BY id LIMIT 1"
_ANY_DUE = "SELECT 1 FROM items WHERE queue = ? AND due <= ? LIMIT 1"
_TAKE = "UPDATE items SET due = ?, taken = 1, tries = tries + 1 WHERE id = ?"
_BURY = "UPDATE items SET queue = ?, due = 0, taken = 0, tries = 0 WHERE id = ?"
_RECEIPT = "WHERE id = ? AND queue = ? AND taken = 1 AND tries = ?"
_ACK = f"DELETE FROM items {_RECEIPT}"
_HOLD = f"UPDATE items SET due = ? {_RECEIPT}"
_DEFER = f"UPDATE items SET due = ?, taken = 0 {_RECEIPT}"
_SIZE = """SELECT total(due <= ?1), total(due > ?1 AND NOT taken), total(due > ?1 AND taken) FROM items
    WHERE queue = ?2"""

_LIMIT = "SELECT arrival FROM limits WHERE key = ?"
_SET_LIMIT = "INSERT INTO limits VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET arrival = excluded.arrival"

_SOME = "LIMIT 64"
_MESSAGE = "INSERT INTO messages (channel, data) VALUES (?, ?)"
_FORGET = "DELETE FROM messages WHERE id <= ?"
_NEXT = "SELECT id, data FROM messages WHERE channel = ? AND id > ? ORDER BY id LIMIT 1"
_LAST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'messages'"


class SqliteEngine:
    """See engine.Engine."""

    instant: Engine | None = None
    call_seconds = MAX_WAIT_SECONDS

    def __init__(self, path: str, full_sync: bool, limit: int) -> None:
        """`limit`: bytes that the file may have. Nothing is opened yet."""
        self.verbs: Mapping[str, Callable[..., Any]] = {"get": self._get}
        self._file = File(path, full_sync, limit, _tidy)
        self._limit = limit
        self._bells = Bells(path + ".channels")
        self._me = own()

    # ---- cache

    def get(self, key: bytes) -> Entry | None:
        row = self._file.row(_GET, (key,))
        if row is None:
            return None
        value, packed, ends, token = row
        if ends is None:
            return Entry(Packed(value) if packed else value, token, None)
        left = ends - time.time()
        return Entry(Packed(value) if packed else value, token, left) if left > 0 else None

    def _get(self, key: str | bytes, default: Any = None) -> Any:
        """`Storage.get`, with a quarter less to do."""
        row = self._file.row(_GET, (encode_key(key),))
        if row is None:
            return default
        value, packed, ends, _ = row
        if ends is not None and ends <= time.time():
            return default
        return NATIVE.decode(Packed(value)) if packed else value

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Value]:
        read = type(self).get  # not what counts each call
        return {key: entry.value for key in keys if (entry := read(self, key)) is not None}

    def put(
        self, key: bytes, value: Value, ttl: float | None, *,
        only: Only = Only.ANY, token: int | None = None, fence: int | None = None,
    ) -> bool:  # fmt: skip
        now = time.time()
        ends = None if ttl is None else now + ttl
        row = (value, type(value) is Packed, ends, monotonic_ns())
        values: tuple[Any, ...]
        if only is Only.ABSENT:
            sql, values = _ADD, (key, *row, now)
        elif token is not None:
            sql, values = _CAS, (*row, key, now, token)
        elif only is Only.PRESENT:
            sql, values = _REPLACE, (*row, key, now)
        else:
            sql, values = _PUT, (key, *row)
        if fence is None:
            return self._file.write(lambda db: db.execute(sql, values).rowcount) > 0

        def fenced(db: sqlite3.Connection) -> int:
            if not db.execute(_FENCE, (key, fence)).rowcount:
                raise Fenced(f"{key!r} was written with a later token than {fence}")
            return db.execute(sql, values).rowcount

        return self._file.write(fenced, begin=True) > 0

    def put_many(self, items: Iterable[tuple[bytes, Value]], ttl: float | None) -> None:
        ends = None if ttl is None else time.time() + ttl
        rows = [(key, value, type(value) is Packed, ends, monotonic_ns()) for key, value in items]
        self._file.write(lambda db: db.executemany(_PUT, rows), begin=True)

    def touch(self, key: bytes, ttl: float | None) -> bool:
        now = time.time()
        return self._change(_TOUCH, (None if ttl is None else now + ttl, key, now))

    def delete(self, key: bytes) -> bool:
        return self._change(_DELETE, (key, time.time()))

    def incr(self, key: bytes, by: int, ttl: float | None) -> int:
        if not MIN_INT <= by <= MAX_INT:
            raise OverflowError("an int of more than 64 bits")
        now = time.time()
        least, most = (MIN_INT - by, MAX_INT) if by < 0 else (MIN_INT, MAX_INT - by)
        row = (key, by, 0, None if ttl is None else now + ttl, monotonic_ns(), now, least, most)

        def add(db: sqlite3.Connection) -> int:
            found = db.execute(_INCR, row).fetchall()
            if found:
                return int(found[0][0])
            if isinstance(db.execute(_GET, (key,)).fetchone()[0], int):
                raise OverflowError(f"{key!r} has more than 64 bits then")
            raise TypeError(f"{key!r} is no int")

        return self._file.write(add)

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        # The keys that begin with it are those between it and the next bytes of its length, 0xff dropped.
        stem = prefix.rstrip(b"\xff")
        end = stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\xff" * 256
        if prefix and self.get(prefix) is not None:
            yield prefix
        last = prefix
        while rows := self._file.read(_KEYS, (last, end, time.time())):
            for (key,) in rows:
                yield key
            last = rows[-1][0]

    def clear(self) -> None:
        self._file.write(lambda db: db.execute("DELETE FROM cache"), frees=True)

    # ---- locks

    def acquire(self, name: bytes, lease: float) -> int | None:
        # Without the writers' lock first: those who wait look here again and again.
        if self._is_held(self._file.read(_LOCK, (name,))):
            return None

        def take(db: sqlite3.Connection) -> int | None:
            rows = db.execute(_LOCK, (name,)).fetchall()
            if self._is_held(rows):
                return None
            # By the clock, too: a power cut may have taken the last tokens (?sync=normal).
            now = time.time()
            token = max(rows[0][0] + 1 if rows else 0, int(now * 1_000_000))
            db.execute(_SET_LOCK, (name, token, self._me, now + lease))
            return token

        return self._file.write(take, begin=True)

    def _is_held(self, rows: list[Any]) -> bool:
        return bool(rows) and rows[0][2] > time.time() and not is_dead(rows[0][1], self._me)

    def renew(self, name: bytes, token: int, lease: float) -> bool:
        now = time.time()
        return self._change(_RENEW, (now + lease, name, token, now))

    def release(self, name: bytes, token: int) -> bool:
        return self._change(_RENEW, (0, name, token, time.time()))

    # ---- queues

    def push(self, queue: bytes, data: bytes, delay: float, limit: int | None) -> int:
        row = (queue, time.time() + delay if delay > 0 else 0, data)
        if limit is None:
            return self._file.write(lambda db: int(db.execute(_PUSH, row).lastrowid or 0))

        def bounded(db: sqlite3.Connection) -> int:
            if db.execute(_LENGTH, (queue, limit)).fetchone()[0] >= limit:
                raise Full(f"the queue {queue!r} has {limit} items")
            return int(db.execute(_PUSH, row).lastrowid or 0)

        return self._file.write(bounded, begin=True)

    def pop(self, queue: bytes, visible: float, tries: int) -> Item | None:
        if not self._is_due(queue):
            return None

        def take(db: sqlite3.Connection) -> Item | None:
            db.execute(_DUE, (queue, time.time()))
            while (row := db.execute(_FIRST, (queue,)).fetchone()) is not None:
                if not tries or row[1] < tries:
                    db.execute(_TAKE, (time.time() + visible, row[0]))
                    return Item(row[0], row[2], row[1] + 1)
                db.execute(_BURY, (dead_letters(queue), row[0]))
            return None

        return self._file.write(take, begin=True, frees=True)

    def _is_due(self, queue: bytes) -> bool:
        return bool(self._file.read(_ANY_DUE, (queue, time.time())))

    def ack(self, queue: bytes, id: int, tries: int) -> bool:
        return self._change(_ACK, (id, queue, tries))

    def hold(self, queue: bytes, id: int, tries: int, visible: float) -> bool:
        return self._change(_HOLD, (time.time() + visible, id, queue, tries))

    def defer(self, queue: bytes, id: int, tries: int, delay: float) -> bool:
        return self._change(_DEFER, (time.time() + delay if delay > 0 else 0, id, queue, tries))

    def size(self, queue: bytes) -> QueueSize:
        now = time.time()
        waiting, delayed, taken = map(int, self._file.read(_SIZE, (now, queue))[0])
        dead = self._file.read(_SIZE, (now, dead_letters(queue)))[0][0]
        return QueueSize(waiting, delayed, taken, int(dead))

    # ---- limits

    def allow(self, key: bytes, limit: Limit, cost: int = 1) -> Verdict:
        def step(db: sqlite3.Connection) -> Verdict:
            row = db.execute(_LIMIT, (key,)).fetchone()
            arrival, verdict = judge(row[0] if row else 0, int(time.time() * 1_000_000), limit, cost)
            if arrival is not None:
                db.execute(_SET_LIMIT, (key, arrival))
            return verdict

        return self._file.write(step, begin=True)

    # ---- channels

    def publish(self, channel: bytes, data: bytes) -> int:
        def add(db: sqlite3.Connection) -> None:
            last = db.execute(_MESSAGE, (channel, data)).lastrowid
            db.execute(_FORGET, ((last or 0) - MAX_MESSAGES,))

        self._file.write(add, begin=True)
        return self._bells.ring(channel)

    def subscribe(self, channel: bytes) -> _Subscription:
        return _Subscription(self._file, channel, self._bells.listen(channel))

    # ---- the engine

    def wait(self, what: Waits, name: bytes, seconds: float) -> None:
        end, pause = monotonic() + seconds, _FIRST_PAUSE_SECONDS
        while True:
            if what is Waits.LOCK and not self._is_held(self._file.read(_LOCK, (name,))):
                return
            if what is Waits.QUEUE and self._is_due(name):
                return
            left = end - monotonic()
            if left <= 0:
                return
            time.sleep(min(left, pause))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def stats(self) -> Stats:
        read = self._file.read
        pages, free = read("PRAGMA page_count")[0][0], read("PRAGMA freelist_count")[0][0]
        page = read("PRAGMA page_size")[0][0]
        counts = dict(read("SELECT name, count FROM counts"))
        return Stats(
            keys=read(f"SELECT count(*) FROM cache WHERE {_LIVE}", (time.time(),))[0][0],
            bytes=(pages - free) * page,
            limit=self._limit,
            evictions=counts.get("evictions", 0),
            stalls=self._file.stalls,
            details={
                "file_bytes": os.stat(self._file.path).st_size,
                "locks": read("SELECT count(*) FROM locks WHERE ends > ?", (time.time(),))[0][0],
                "queue_items": read("SELECT count(*) FROM items")[0][0],
                "limits": read("SELECT count(*) FROM limits")[0][0],
            },
        )

    def check(self) -> list[str]:
        return [text for (text,) in self._file.read("PRAGMA quick_check") if text != "ok"]

    def forget(self) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._bells.close()

    def _change(self, sql: str, values: tuple[Any, ...]) -> bool:
        """Whether the statement changed a row, and took no room for another."""
        return self._file.write(lambda db: db.execute(sql, values).rowcount, frees=True) > 0


def _tidy(db: sqlite3.Connection) -> None:
    """Delete some of what is over."""
    now = time.time()
    db.execute(f"DELETE FROM cache WHERE rowid IN (SELECT rowid FROM cache WHERE ends <= ? {_SOME})", (now,))
    db.execute(
        f"DELETE FROM limits WHERE key IN (SELECT key FROM limits WHERE arrival < ? {_SOME})",
        (now * 1_000_000,),
    )


class _Subscription:
    """The messages of a channel, from the next one on. See engine.Subscription."""

    def __init__(self, file: File, channel: bytes, bell: Bell) -> None:
        self._file = file
        self._channel = channel
        self._bell = bell
        self._last = file.read(_LAST)[0][0]

    def get(self, wait: float | None = 0) -> bytes | None:
        end = None if wait is None else monotonic() + wait
        while (found := self._next()) is None:
            self._bell.drain()
            # Once more: it may have come before the bell was drained.
            if (found := self._next()) is not None:
                break
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                return None
            self._bell.wait(left)
        return found

    def _next(self) -> bytes | None:
        rows = self._file.read(_NEXT, (self._channel, self._last))
        if not rows:
            return None
        self._last, data = rows[0]
        return bytes(data)

    def fileno(self) -> int:
        return self._bell.fileno()

    def close(self) -> None:
        self._bell.close()
