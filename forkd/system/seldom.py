"""Leave to log something once in a while, for a process and those that it forks later."""

from __future__ import annotations

import mmap

from forkd.system.originals import monotonic


class Seldom:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Shared: where each connection has a process, none of them would remember.
        self._last = memoryview(mmap.mmap(-1, 8)).cast("d")
        self._last[0] = -seconds

    def leave(self) -> bool:
        """Whether it is so many seconds since the last True. Two processes may both get one at an instant."""
        now = monotonic()
        if now - self._last[0] < self._seconds:
            return False
        self._last[0] = now
        return True
