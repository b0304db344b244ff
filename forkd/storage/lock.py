"""Locks: a lease with a fencing token, as `Storage.lock` makes them."""

from __future__ import annotations

from types import TracebackType

from forkd.storage.arguments import as_seconds, as_wait
from forkd.storage.engine import Waits
from forkd.storage.opened import Opened
from forkd.system.originals import monotonic

__all__ = ["MAX_WAIT_SECONDS", "Lock", "timed_out"]

#: Seconds of one wait of the engine's. A holder that lives on another host has no other end than its lease.
MAX_WAIT_SECONDS = 1.0


class Lock:
    """One lock of a unit, for one holder: `with s.lock("report", lease=30, wait=5) as token:`.

    It is free again when it is released, when its lease is over, and at once when its holder, a process of
    this host, dies. A holder that was stopped for longer than its lease does not learn of that: what it
    writes then is refused where the write has its token (`s.set(key, value, fence=token)`), which is greater
    for each holder than for those before.
    """

    def __init__(self, unit: Opened, name: bytes, lease: float, wait: float | None) -> None:
        self._unit = unit
        self._name = name
        self._lease = lease
        self._wait = wait
        #: Of the present hold; None without one.
        self.token: int | None = None

    def acquire(self, wait: float | None = -1) -> int | None:
        """Its token; None where it was not free within `wait` seconds (None: for ever; 0: at once; without
        it, as `Storage.lock` was told). Raises RuntimeError where this object holds it."""
        if self.token is not None:
            raise RuntimeError("this lock is held by this object")
        wait = as_wait(wait)
        wait = self._wait if wait is not None and wait < 0 else wait
        end = None if wait is None else monotonic() + wait
        while (token := self._unit.engine.acquire(self._name, self._lease)) is None:
            left = MAX_WAIT_SECONDS if end is None else min(end - monotonic(), MAX_WAIT_SECONDS)
            if left <= 0:
                return None
            self._unit.engine.wait(Waits.LOCK, self._name, left)
        self.token = token
        return token

    def renew(self, lease: float | None = None) -> bool:
        """Hold it for `lease` seconds from now (without it, as before). False: it was lost."""
        if self.token is None:
            return False
        lease = self._lease if lease is None else as_seconds("a lease", lease)
        return self._unit.engine.renew(self._name, self.token, lease)

    def release(self) -> bool:
        """Free it. False: it was lost before, or is not held."""
        token, self.token = self.token, None
        return token is not None and self._unit.engine.release(self._name, token)

    def __enter__(self) -> int:
        token = self.acquire()
        if token is None:
            raise timed_out(self._name, self._wait)
        return token

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def timed_out(name: bytes, wait: float | None) -> TimeoutError:
    """What a `with` raises where the lock was not free within `wait` seconds."""
    return TimeoutError(f"the lock {name.decode(errors='replace')!r} was not free within {wait:g} s")
