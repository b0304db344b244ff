"""uWSGI's calls for its caches and locks over a storage unit, for an application that moves from there:

    from forkd.storage import uwsgi  # in place of: import uwsgi

They have the arguments and the results of uWSGI's. A cache's name is the name of a unit; locks are numbered.
A lock is held for LEASE seconds at most, and is free when its holder dies. What has no counterpart (signals,
mules, the spooler, sharedarea) is not here: s.queue and s.publish do that work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from forkd import storage

__all__ = [
    "cache_clear", "cache_dec", "cache_del", "cache_div", "cache_exists", "cache_get", "cache_inc",
    "cache_keys", "cache_mul", "cache_num", "cache_set", "cache_update", "is_locked", "lock", "unlock",
]  # fmt: skip

LEASE = 60.0

_held: dict[int, storage.Lock] = {}


@functools.cache
def _unit(cache: str | None) -> storage.Storage:
    return storage.open(name=cache or None)


def _ttl(expires: int) -> int | None:
    return expires or None  # 0 has no end


def cache_get(key: str, cache: str | None = None) -> bytes | None:
    value = _unit(cache).get(key)
    return value if value is None or isinstance(value, bytes) else str(value).encode()


def cache_set(key: str, value: bytes, expires: int = 0, cache: str | None = None) -> bool | None:
    """Only where there is none: True, or None."""
    return _unit(cache).add(key, value, _ttl(expires)) or None


def cache_update(key: str, value: bytes, expires: int = 0, cache: str | None = None) -> bool:
    _unit(cache).set(key, value, _ttl(expires))
    return True


def cache_del(key: str, cache: str | None = None) -> bool | None:
    return _unit(cache).delete(key) or None


def cache_exists(key: str, cache: str | None = None) -> bool | None:
    return key in _unit(cache) or None


def cache_clear(cache: str | None = None) -> bool:
    _unit(cache).clear()
    return True


def cache_keys(cache: str | None = None) -> list[bytes]:
    return [key.encode(errors="surrogateescape") for key in _unit(cache)]


def cache_num(key: str, cache: str | None = None) -> int:
    """A counter's value; 0 where there is none."""
    value = _unit(cache).get(key, 0)
    return value if isinstance(value, int) else 0


def cache_inc(key: str, by: int = 1, expires: int = 0, cache: str | None = None) -> bool:
    _unit(cache).incr(key, by, _ttl(expires))
    return True


def cache_dec(key: str, by: int = 1, expires: int = 0, cache: str | None = None) -> bool:
    return cache_inc(key, -by, expires, cache)


def cache_mul(key: str, by: int = 2, expires: int = 0, cache: str | None = None) -> bool:
    return _changed(key, lambda value: value * by, expires, cache)


def cache_div(key: str, by: int = 2, expires: int = 0, cache: str | None = None) -> bool:
    return _changed(key, lambda value: value // by, expires, cache)


def _changed(key: str, change: Callable[[int], int], expires: int, cache: str | None) -> bool:
    unit = _unit(cache)
    while True:
        value, token = unit.gets(key, 0)
        if unit.cas(key, change(value), token, _ttl(expires)):
            return True


def lock(number: int = 0) -> None:
    """Wait for the lock. It is of the process, as uWSGI's."""
    held = _unit(None).lock(f"uwsgi:{number}", lease=LEASE)
    held.acquire()
    _held[number] = held


def unlock(number: int = 0) -> None:
    held = _held.pop(number, None)
    if held is not None:
        held.release()


def is_locked(number: int = 0) -> bool:
    probe = _unit(None).lock(f"uwsgi:{number}", lease=1)
    return probe.acquire(0) is None or not probe.release()
