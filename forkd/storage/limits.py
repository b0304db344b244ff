"""The storage of the package `limits` over a unit, for Flask-Limiter, slowapi and others that take its URI:

    import forkd.storage.limits  # makes the scheme known

    Limiter(get_remote_address, app=app, storage_uri="forkd://")

`forkd://` is the daemon's unit, `forkd://NAME` another, `forkd://?url=URL` that at a URL. All three
strategies of the package are there. (`Storage.limit` needs none of it, and one step for each look.)
"""

from __future__ import annotations

import struct
from typing import Any

from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.storage.base import TimestampedSlidingWindow

from forkd import storage
from forkd.system.originals import time

__all__ = ["ForkdStorage"]

_PREFIX = "limits:"
_ENTRY = struct.Struct("<dQ")


def _now() -> float:
    """Exact, as windows begin by it; that of `originals` is behind by up to 10 ms."""
    return time.clock_gettime(time.CLOCK_REALTIME)


class ForkdStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """See the module. Times are of the wall clock."""

    STORAGE_SCHEME = ["forkd"]  # noqa: RUF012

    def __init__(self, uri: str = "forkd://", wrap_exceptions: bool = False, **options: Any) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions, **options)
        place = uri.partition("://")[2]
        if place.startswith("?url="):
            self._unit = storage.open(place.removeprefix("?url="))
        else:
            self._unit = storage.open(name=place or None)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        return storage.Error

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        return self._unit.incr(_PREFIX + key, amount, expiry)

    def get(self, key: str) -> int:
        return int(self._unit.get(_PREFIX + key, 0))

    def get_expiry(self, key: str) -> float:
        try:
            return _now() + (self._unit.ttl(_PREFIX + key) or 0)
        except KeyError:
            return _now()

    def check(self) -> bool:
        try:
            self._unit.get(_PREFIX)
        except storage.Error:
            return False
        return True

    def reset(self) -> int:
        return sum(self._unit.delete(key) for key in list(self._unit.keys(_PREFIX)))

    def clear(self, key: str) -> None:
        self._unit.delete(_PREFIX + key)
        self._unit.delete(_PREFIX + key + "/moving")

    # ---- a moving window: when how many were let pass

    def _entries(self, key: str, since: float) -> tuple[list[tuple[float, int]], int | None]:
        data, token = self._unit.gets(_PREFIX + key + "/moving", b"")
        return [entry for entry in _ENTRY.iter_unpack(data) if entry[0] > since], token

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        while True:
            now = _now()
            entries, token = self._entries(key, now - expiry)
            if sum(count for _, count in entries) + amount > limit:
                return False
            data = b"".join(_ENTRY.pack(*entry) for entry in [*entries, (now, amount)])
            if self._unit.cas(_PREFIX + key + "/moving", data, token, expiry):
                return True  # else another was faster, so that all get on

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        now = _now()
        entries = self._entries(key, now - expiry)[0]
        return min((at for at, _ in entries), default=now), sum(count for _, count in entries)

    # ---- a sliding window: a counter each of this window and the one before

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = _now()
        before, this = self.sliding_window_keys(key, expiry, now)
        weighted = self.get(before) * (1 - now % expiry / expiry)
        if int(weighted) + self.get(this) + amount > limit:
            return False
        if int(weighted) + self.incr(this, 2 * expiry, amount) <= limit:
            return True
        self.incr(this, 2 * expiry, -amount)
        return False

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        now = _now()
        before, this = self.sliding_window_keys(key, expiry, now)
        left, count = expiry - now % expiry, self.get(before)
        return count, left if count else 0.0, self.get(this), left + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        for window in self.sliding_window_keys(key, expiry, _now()):
            self.clear(window)
