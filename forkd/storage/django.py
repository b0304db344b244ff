"""Django's cache over a storage unit:

    CACHES = {"default": {"BACKEND": "forkd.storage.django.ForkdCache", "LOCATION": ""}}

LOCATION is "" for the daemon's unit, the name of another, or the URL of one. Values are pickled, as by
Django's own back ends; OPTIONS = {"serializer": "json"} takes a module or an object with dumps and loads in
place of that. What is bytes, str or an int of 64 bits is kept as it is.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.utils.module_loading import import_string

from forkd import storage
from forkd.system.originals import os

__all__ = ["ForkdCache"]

_log = logging.getLogger(__name__)
_warned = 0  # the process that has told of it


@functools.cache
def _unit(location: str, serializer: str) -> storage.Storage:
    """One for all threads: Django makes a cache for each."""
    module, _, name = serializer.rpartition(".")
    loaded = import_string(serializer) if module else __import__(name)
    if ":" in location:
        return storage.open(location, serializer=loaded)
    return storage.open(name=location or None, serializer=loaded)


def _warn(text: str) -> None:
    """Once for each process: a page that is too large comes again and again."""
    global _warned
    if _warned != os.getpid():
        _warned = os.getpid()
        _log.warning("%s: not kept in the cache (told once)", text)


class ForkdCache(BaseCache):  # type: ignore[misc]
    """See the module. A value that is too large is not kept, as memcached does not: its key is deleted, and
    a warning is logged, once for each process. A lost server raises Unavailable."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._unit = _unit(location, params.get("OPTIONS", {}).get("serializer", "pickle"))

    def _key(self, key: str, version: int | None) -> str:
        key = self.make_and_validate_key(key, version=version)
        if len(key.encode()) <= storage.MAX_KEY_BYTES:
            return key
        return "sha256:" + hashlib.sha256(key.encode()).hexdigest()

    def get_backend_timeout(self, timeout: Any = DEFAULT_TIMEOUT) -> float | None:
        """Seconds; None for no end, 0 for one that is over at once."""
        timeout = self.default_timeout if timeout == DEFAULT_TIMEOUT else timeout
        return None if timeout is None else max(timeout, 0)

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        try:
            return self._unit.add(self._key(key, version), value, self.get_backend_timeout(timeout))
        except storage.TooLarge as error:
            _warn(str(error))
            return False

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._unit.get(self._key(key, version), default)

    def set(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        self._keep(self._key(key, version), value, self.get_backend_timeout(timeout))

    def _keep(self, name: str, value: Any, seconds: float | None) -> bool:
        """Whether it could be kept."""
        try:
            self._unit.set(name, value, seconds)
        except storage.TooLarge as error:
            self._unit.delete(name)  # what is older than the value must not be taken for it
            _warn(str(error))
            return False
        return True

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        name, seconds = self._key(key, version), self.get_backend_timeout(timeout)
        return self._unit.delete(name) if seconds == 0 else self._unit.touch(name, seconds)

    def delete(self, key: str, version: int | None = None) -> bool:
        return self._unit.delete(self._key(key, version))

    def has_key(self, key: str, version: int | None = None) -> bool:
        return self._key(key, version) in self._unit

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        names = {self._key(key, version): key for key in keys}
        return {names[str(name)]: value for name, value in self._unit.get_many(names).items()}

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        """The keys of what is too large."""
        names = {key: self._key(key, version) for key in data}
        seconds = self.get_backend_timeout(timeout)
        try:
            self._unit.set_many({name: data[key] for key, name in names.items()}, seconds)
        except storage.TooLarge:
            return [key for key, name in names.items() if not self._keep(name, data[key], seconds)]
        return []

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        for key in keys:
            self.delete(key, version)

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Raises ValueError where it is not there. Atomic, but for that look."""
        name = self._key(key, version)
        if name not in self._unit:
            raise ValueError(f"Key {key!r} not found")
        return self._unit.incr(name, delta)

    def clear(self) -> None:
        """All values of the unit, also those of others; no lock, queue or limit."""
        self._unit.clear()

