"""The storage engine over Valkey or Redis, which other hosts may use as well.

Each key of a unit begins with its prefix, a letter for what it is, and the user's key as a hash tag: a
cluster has what belongs together in one place. A value that is no int has a token before it, which is another
after each write; an int is kept as its digits, so that INCRBY counts, and is its own token. Times are the
server's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from forkd.config.storage_url import StorageURL
from forkd.storage import valkey_scripts as lua
from forkd.storage.codec import NATIVE, encode_key
from forkd.storage.engine import (
    MAX_INT,
    MIN_INT,
    Engine,
    Entry,
    Item,
    Kind,
    Limit,
    Only,
    Packed,
    QueueSize,
    Stats,
    Value,
    Verdict,
    Waits,
    dead_letters,
)
from forkd.storage.errors import Damaged, Fenced, Full, Unavailable
from forkd.storage.limit import interval_us
from forkd.storage.owner import is_dead, own
from forkd.storage.valkey_client import Client, Script
from forkd.system.originals import monotonic, os, time

__all__ = ["ValkeyEngine"]

#: Seconds between two looks of one that waits: the first, and the longest.
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.05
_TOKEN_BYTES = 8
_MARKS = {Kind.BYTES: b"b", Kind.STR: b"s", Kind.PACKED: b"p"}
_SCRIPTS = {name: Script(getattr(lua, name)) for name in lua.__all__}
_QUEUE_PARTS = (b"n", b"d", b"t", b"r", b"l", b"h")


class ValkeyEngine:
    """See engine.Engine."""

    instant: Engine | None = None

    def __init__(self, place: StorageURL) -> None:
        """Raises Error; one server is not spoken to yet."""
        self._client = Client(place)
        self.call_seconds = place.timeout
        self._prefix = place.prefix.encode()
        self._me = own()
        self.verbs: Mapping[str, Callable[..., Any]] = {"get": self._get}

    def _name(self, letter: bytes, key: bytes) -> bytes:
        # The hash tag ends at the first brace.
        return b"%b:%b:{%b}" % (self._prefix, letter, key.replace(b"%", b"%25").replace(b"}", b"%7D"))

    def _run(self, script: str, keys: list[bytes], *values: Any, writes: bool = True) -> Any:
        return self._client.run(_SCRIPTS[script], keys, *values, writes=writes)

    # ---- cache

    def get(self, key: bytes) -> Entry | None:
        data, left = self._run("ENTRY", [self._name(b"c", key)], writes=False)
        if data is None or left == -2:
            return None
        value, token = _decode(data)
        return Entry(value, token, left / 1000 if left >= 0 else None)

    def _get(self, key: str | bytes, default: Any = None) -> Any:
        """`Storage.get`, without a script."""
        data = self._client.call("GET", self._name(b"c", encode_key(key)))
        return default if data is None else NATIVE.decode(_decode(data)[0])

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Value]:
        if not keys:
            return {}
        names = [self._name(b"c", key) for key in keys]
        found = self._client.get_many(names)
        return {key: _decode(data)[0] for key, data in zip(keys, found, strict=True) if data is not None}

    def put(
        self, key: bytes, value: Value, ttl: float | None, *,
        only: Only = Only.ANY, token: int | None = None, fence: int | None = None,
    ) -> bool:  # fmt: skip
        name, data = self._name(b"c", key), _encode(value)
        if token is not None:
            as_bytes = token.to_bytes(_TOKEN_BYTES, "big", signed=True)
            return bool(self._run("CAS", [name], as_bytes, token, data, _milliseconds(ttl)))
        if fence is not None:
            if not self._run("FENCED", [name, self._name(b"f", key)], fence, data, _milliseconds(ttl)):
                raise Fenced(f"{key!r} was written with a later token than {fence}")
            return True
        if ttl is not None and ttl <= 0:
            if only is Only.ABSENT:
                return not self._client.call("EXISTS", name)
            return bool(self._client.write("DEL", name)) or only is Only.ANY
        command: list[str | int | bytes] = ["SET", name, data]
        if ttl is not None:
            command += ["PX", max(int(ttl * 1000), 1)]
        if only is not Only.ANY:
            command.append("NX" if only is Only.ABSENT else "XX")
        return self._client.write(*command) is not None

    def put_many(self, items: Iterable[tuple[bytes, Value]], ttl: float | None) -> None:
        for key, value in items:
            type(self).put(self, key, value, ttl)

    def touch(self, key: bytes, ttl: float | None) -> bool:
        return bool(self._run("TOUCH", [self._name(b"c", key)], _milliseconds(ttl)))

    def delete(self, key: bytes) -> bool:
        return bool(self._client.write("DEL", self._name(b"c", key)))

    def incr(self, key: bytes, by: int, ttl: float | None) -> int:
        if not MIN_INT <= by <= MAX_INT:
            raise OverflowError("an int of more than 64 bits")
        name = self._name(b"c", key)
        try:
            if ttl is None:
                return int(self._client.write("INCRBY", name, by))
            return int(self._run("INCR", [name], by, _milliseconds(ttl)))
        except Unavailable as error:
            if "overflow" in str(error.__cause__):
                raise OverflowError(f"{key!r} has more than 64 bits then") from None
            if "not an integer" in str(error.__cause__):
                raise TypeError(f"{key!r} is no int") from None
            raise

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        start = self._name(b"c", prefix)[:-1]
        for name in self._client.scan(start):
            yield name[len(self._prefix) + 4 : -1].replace(b"%7D", b"}").replace(b"%25", b"%")

    def clear(self) -> None:
        for name in self._client.scan(self._name(b"c", b"")[:-1]):
            self._client.write("UNLINK", name)

    # ---- locks

    def acquire(self, name: bytes, lease: float) -> int | None:
        lock = self._name(b"l", name)
        for _ in range(2):
            found = self._run("ACQUIRE", [lock, self._name(b"t", name)], self._me, _milliseconds(lease))
            if not isinstance(found, list):
                return int(found)
            token, owner = found
            if not is_dead(owner.decode(), self._me):
                return None
            self._run("RELEASE", [lock], token)
        return None

    def renew(self, name: bytes, token: int, lease: float) -> bool:
        return bool(self._run("RENEW", [self._name(b"l", name)], token, _milliseconds(lease)))

    def release(self, name: bytes, token: int) -> bool:
        return bool(self._run("RELEASE", [self._name(b"l", name)], token))

    # ---- queues

    def _queue(self, queue: bytes) -> list[bytes]:
        # A queue has the hash tag of that whose dead letters it has.
        base = queue
        while base.endswith(b".dead") and len(base) > 5:
            base = base[:-5]
        name = self._name(b"q", base) + queue[len(base) :]
        return [b"%b:%b" % (name, part) for part in _QUEUE_PARTS]

    def push(self, queue: bytes, data: bytes, delay: float, limit: int | None) -> int:
        delay_ms = _milliseconds(max(delay, 0))
        id = int(self._run("PUSH", self._queue(queue), data, delay_ms, "" if limit is None else limit))
        if not id:
            raise Full(f"the queue {queue!r} has {limit} items")
        return id

    def pop(self, queue: bytes, visible: float, tries: int) -> Item | None:
        keys = self._queue(queue) + self._queue(dead_letters(queue))
        found = self._run("POP", keys, _milliseconds(visible), tries)
        return None if found is None else Item(int(found[0]), found[1], found[2])

    def ack(self, queue: bytes, id: int, tries: int) -> bool:
        return bool(self._run("ACK", self._queue(queue), id, tries))

    def hold(self, queue: bytes, id: int, tries: int, visible: float) -> bool:
        return bool(self._run("HOLD", self._queue(queue), id, tries, _milliseconds(visible)))

    def defer(self, queue: bytes, id: int, tries: int, delay: float) -> bool:
        return bool(self._run("DEFER", self._queue(queue), id, tries, _milliseconds(delay)))

    def size(self, queue: bytes) -> QueueSize:
        waiting, delayed, taken = self._run("SIZE", self._queue(queue), writes=False)
        dead = self._run("SIZE", self._queue(dead_letters(queue)), writes=False)[0]
        return QueueSize(waiting, delayed, taken, dead)

    # ---- limits

    def allow(self, key: bytes, limit: Limit, cost: int = 1) -> Verdict:
        interval = interval_us(limit)
        allowed, remaining, ahead = self._run(
            "ALLOW", [self._name(b"r", key)], interval, interval * limit.burst, cost
        )
        return Verdict(bool(allowed), remaining, int(ahead) / 1_000_000)

    # ---- channels

    def publish(self, channel: bytes, data: bytes) -> int:
        return int(self._client.call("PUBLISH", self._name(b"p", channel), data))

    def subscribe(self, channel: bytes) -> _Subscription:
        return _Subscription(self._client, self._name(b"p", channel))

    # ---- the engine

    def wait(self, what: Waits, name: bytes, seconds: float) -> None:
        end, pause = monotonic() + seconds, _FIRST_PAUSE_SECONDS
        while not self._may_have(what, name):
            left = end - monotonic()
            if left <= 0:
                return
            time.sleep(min(left, pause))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _may_have(self, what: Waits, name: bytes) -> bool:
        if what is Waits.QUEUE:
            return bool(self._run("WAITING", self._queue(name), writes=False))
        owner = self._client.call("HGET", self._name(b"l", name), "owner")
        return owner is None or is_dead(owner.decode(), self._me)

    def stats(self) -> Stats:
        return Stats(
            keys=sum(1 for _ in self.keys()),
            bytes=None,
            limit=None,
            evictions=None,
            stalls=None,
            details={
                f"{server} {name}": info[name]
                for server, info in self._client.servers()
                for name in ("used_memory", "maxmemory", "evicted_keys", "role")
                if name in info
            },
        )

    def check(self) -> list[str]:
        """What the servers are set up for."""
        wrong = []
        for server, info in self._client.servers():
            policy = info.get("maxmemory_policy", "noeviction")
            if policy.startswith("allkeys"):
                wrong.append(
                    f"{server}: maxmemory-policy {policy} evicts locks, queues and limits as well; "
                    "set volatile-ttl or noeviction"
                )
        return wrong

    def forget(self) -> None:
        """The package closes a copy of a socket without a shutdown(2)."""
        self._client.close()

    def close(self) -> None:
        self._client.close()


def _encode(value: Value) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    token = os.urandom(_TOKEN_BYTES)
    if isinstance(value, str):
        return _MARKS[Kind.STR] + token + value.encode()
    return _MARKS[Kind.PACKED if type(value) is Packed else Kind.BYTES] + token + value


def _decode(data: bytes) -> tuple[Value, int]:
    """The value and its token. Raises Damaged."""
    mark, token, body = data[:1], data[1 : 1 + _TOKEN_BYTES], data[1 + _TOKEN_BYTES :]
    try:
        if mark == b"b":
            value: Value = body
        elif mark == b"s":
            value = body.decode()
        elif mark == b"p":
            value = Packed(body)
        else:
            return int(data), int(data)
    except ValueError as error:
        raise Damaged(f"{len(data)} bytes that forkd.storage did not write") from error
    return value, int.from_bytes(token, "big", signed=True)


def _milliseconds(seconds: float | None) -> int | str:
    """The argument of a script; "" for none. What is more than nothing is 1 at least."""
    if seconds is None:
        return ""
    return 0 if seconds <= 0 else max(int(seconds * 1000), 1)


class _Subscription:
    """See engine.Subscription."""

    def __init__(self, client: Client, name: bytes) -> None:
        self._client = client
        self._pubsub = client.subscribe(name)

    def get(self, wait: float | None = 0) -> bytes | None:
        end = None if wait is None else monotonic() + wait
        while True:
            left = 60.0 if end is None else max(end - monotonic(), 0)
            message = self._client.message(self._pubsub, left)
            if message is not None and message["type"] == "message":
                return bytes(message["data"])
            if message is None and end is not None and monotonic() >= end:
                return None

    def fileno(self) -> int:
        return int(self._pubsub.connection._sock.fileno())

    def close(self) -> None:
        self._pubsub.close()
