"""The greatest lengths of the accept queues that the master has seen. In the master.

It looks by itself: once a second in the watchdog's tick; when a client has waited for 2 ms and as long as
anybody does, which the doorbell hears, or when it accepts itself, then every 10 ms at most; and whenever
a scrape asks for the present length. No scrape changes what the next one hears. What comes and goes
between two looks is not seen: the kernel keeps no such mark.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import monotonic

from forkd.system.sockets import Listener

#: For how long a length is recent.
RECENT_SECONDS = 60.0
#: Between two looks, at least.
_PERIOD_SECONDS = 0.01


class HighWater:
    """By the name of the listener, which a reload and an upgrade keep."""

    def __init__(self) -> None:
        self._looked = 0.0
        self._ever: dict[str, int] = {}
        #: When, and how long; each is longer than all that come after it.
        self._recent: dict[str, deque[tuple[float, int]]] = {}

    def look(self, listeners: Iterable[Listener]) -> None:
        now = monotonic()
        if now < self._looked + _PERIOD_SECONDS:
            return
        self._looked = now
        for listener in listeners:
            self.saw(listener.name, listener.waiting()[0], now)

    def saw(self, name: str, length: int, now: float) -> None:
        """It was so long then (CLOCK_MONOTONIC, seconds)."""
        recent = self._recent.setdefault(name, deque())
        while recent and recent[-1][1] <= length:
            recent.pop()
        recent.append((now, length))
        self._ever[name] = max(length, self._ever.get(name, 0))

    def recent(self, name: str, now: float) -> int:
        """The greatest length of the last RECENT_SECONDS."""
        recent = self._recent.get(name, deque())
        while recent and recent[0][0] <= now - RECENT_SECONDS:
            recent.popleft()
        return recent[0][1] if recent else 0

    def ever(self, name: str) -> int:
        """The greatest length since the service was started."""
        return self._ever.get(name, 0)

    def keep(self, listeners: Iterable[Listener]) -> None:
        """Forget all others: addresses come and go with reloads."""
        names = {listener.name for listener in listeners}
        for known in (self._ever, self._recent):
            for name in known.keys() - names:
                del known[name]

    def export(self) -> dict[str, list[int]]:
        """For the next master: the two lengths by name."""
        now = monotonic()
        return {name: [self.recent(name, now), ever] for name, ever in self._ever.items()}

    def absorb(self, marks: dict[str, list[int]]) -> None:
        """Go on from another master's, whose recent lengths are of now."""
        now = monotonic()
        for name, (recent, ever) in marks.items():
            self.saw(name, recent, now)
            self._ever[name] = max(ever, self._ever[name])
