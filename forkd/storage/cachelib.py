"""cachelib's cache over a storage unit, for Flask-Caching, Flask-Session and others that take one:

    CACHE_TYPE = "forkd.storage.cachelib.ForkdCache"  # of Flask-Caching
    SESSION_CACHELIB = ForkdCache()                   # of Flask-Session

Values are pickled by cachelib's own serializer, and an int of 64 bits is kept as it is, so that `inc` counts;
`cache.serializer = cachelib.serializers.JSONSerializer()` takes the place of pickle.
"""

from __future__ import annotations

import datetime
from typing import Any

from cachelib import BaseCache
from cachelib.serializers import SimpleSerializer

from forkd import storage

__all__ = ["ForkdCache"]


class ForkdCache(BaseCache):
    """See the module. `location`: "" for the daemon's unit, the name of another, or the URL of one."""

    serializer: Any = SimpleSerializer()

    def __init__(
        self,
        location: str = "",
        default_timeout: int | datetime.timedelta = 300,
        key_prefix: str = "",
        **options: Any,
    ) -> None:
        super().__init__(default_timeout, **options)
        self._unit = storage.open(location) if ":" in location else storage.open(name=location or None)
        self._prefix = key_prefix

    @classmethod
    def factory(cls, app: Any, config: Any, args: list[Any], kwargs: dict[str, Any]) -> ForkdCache:
        """As Flask-Caching makes one: CACHE_LOCATION, CACHE_KEY_PREFIX, CACHE_DEFAULT_TIMEOUT."""
        kwargs.setdefault("location", config.get("CACHE_LOCATION", ""))
        kwargs.setdefault("key_prefix", config.get("CACHE_KEY_PREFIX", ""))
        return cls(*args, **kwargs)

    def _key(self, key: Any) -> str:
        return self._prefix + str(key() if callable(key) else key)

    def _ttl(self, timeout: int | datetime.timedelta | None) -> int | None:
        # 0 has no end.
        return self._normalize_timeout(timeout) or None

    def _packed(self, value: Any) -> bytes | int:
        if type(value) is int and value.bit_length() < 64:
            return value
        return bytes(self.serializer.dumps(value))

    def _plain(self, value: bytes | int | None) -> Any:
        return value if value is None or isinstance(value, int) else self.serializer.loads(value)

    def get(self, key: str) -> Any:
        return self._plain(self._unit.get(self._key(key)))

    def get_many(self, *keys: str) -> list[Any]:
        found = self._unit.get_many([self._key(key) for key in keys])
        return [self._plain(found.get(self._key(key))) for key in keys]

    def set(self, key: str, value: Any, timeout: int | datetime.timedelta | None = None) -> bool:
        self._unit.set(self._key(key), self._packed(value), self._ttl(timeout))
        return True

    def add(self, key: str, value: Any, timeout: int | datetime.timedelta | None = None) -> bool:
        return self._unit.add(self._key(key), self._packed(value), self._ttl(timeout))

    def delete(self, key: str) -> bool:
        return self._unit.delete(self._key(key))

    def has(self, key: str) -> bool:
        return self._key(key) in self._unit

    def clear(self) -> bool:
        """Those of the prefix; without one all values of the unit."""
        if not self._prefix:
            self._unit.clear()
        for key in list(self._unit.keys(self._prefix)) if self._prefix else ():
            self._unit.delete(key)
        return True

    def inc(self, key: str, delta: int = 1) -> int:
        return self._unit.incr(self._key(key), delta, self._ttl(None))

    def dec(self, key: str, delta: int = 1) -> int:
        return self._unit.decr(self._key(key), delta, self._ttl(None))
