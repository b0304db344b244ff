"""The master's loop: one epoll over descriptors, and named timers on the monotonic clock.

None of the descriptors can be done without: where epoll has no room for one it is polled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from forkd.system.handles import READ, PatientEpoll
from forkd.system.originals import monotonic

#: What a call returns that has changed nothing which the owner of the loop derives anything from.
QUIET: Final = "quiet"


class Timers:
    """A name has one timer at most: setting it again moves it."""

    def __init__(self) -> None:
        self._timers: dict[str, tuple[float, Callable[[], object]]] = {}

    def set(self, name: str, when: float, call: Callable[[], object]) -> None:
        self._timers[name] = (when, call)

    def cancel(self, name: str) -> None:
        self._timers.pop(name, None)

    def until(self, now: float) -> float | None:
        """Seconds until the first timer; None when there is none."""
        if not self._timers:
            return None
        return max(0.0, min(when for when, _ in self._timers.values()) - now)

    def fire(self, now: float) -> object:
        """Call what is due. A timer that sets itself again is called at the next turn. Returns QUIET if all
        of them did."""
        news: object = QUIET
        due = [name for name, (when, _) in self._timers.items() if when <= now]
        for name in due:
            timer = self._timers.pop(name, None)
            if timer is not None and timer[1]() is not QUIET:
                news = None
        return news


class Loop:
    """Callbacks of descriptors and timers. Single-threaded; callbacks must not block."""

    def __init__(self) -> None:
        self.timers = Timers()
        self._handles = PatientEpoll()
        self._calls: dict[int, Callable[[], object]] = {}
        #: Called inside the `except` of a callback that raised; the owner logs it.
        self.failed: Callable[[], None] = lambda: None
        #: Called with the error of an accept(2); returns the seconds until the next try. The owner logs it.
        self.pause: Callable[[OSError], float] = lambda error: 0.25

    def watch(self, fd: int, call: Callable[[], object], mask: int = READ) -> None:
        """Call `call` whenever `fd` is ready for `mask`; again with another mask to change it."""
        if fd in self._calls:
            self._handles.modify(fd, mask)
        else:
            self._handles.add(fd, mask)
        self._calls[fd] = call

    def unwatch(self, fd: int) -> None:
        """To be called before `fd` is closed. Harmless when it is not watched."""
        self.timers.cancel(f"snooze {fd}")
        if self._calls.pop(fd, None) is not None:
            self._handles.remove(fd)

    def snooze(self, fd: int, error: OSError) -> None:
        """Look away from `fd` for a moment: a listener, when accept(2) fails because descriptors or memory
        are exhausted. Clients that wait there keep it readable, and the loop would spin."""
        self.look_away(fd, self.pause(error))

    def look_away(self, fd: int, seconds: float) -> None:
        """Watch `fd` again after that time."""
        call = self._calls[fd]
        self.unwatch(fd)
        self.timers.set(f"snooze {fd}", monotonic() + seconds, lambda: self.watch(fd, call))

    def turn(self) -> bool:
        """Wait for the next descriptor or timer, and call what is due. Returns whether anything may have
        changed: something was called, and not all of it was QUIET."""
        news = False
        for fd, _ in self._handles.wait(self.timers.until(monotonic())):
            call = self._calls.get(fd)  # an earlier call of this turn may have ended this one
            if call is not None:
                news = self._guarded(call) or news
        return self._guarded(self._fire) or news

    def _fire(self) -> object:
        return self.timers.fire(monotonic())

    def _guarded(self, call: Callable[[], object]) -> bool:
        """One callback's failure is a bug, and must not take the service with it."""
        try:
            return call() is not QUIET
        except Exception:
            self.failed()
            return True

    def close(self) -> None:
        self._handles.close()
        self._calls.clear()
