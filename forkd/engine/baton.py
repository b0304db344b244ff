"""The baton of the leader of a child's threads ("passing the baton", Andrews 1991): the connection, or the
exchange apart from its connection, for which it is inside the application.

The leader holds that and releases it again; one follower watches meanwhile, and may seize it, and
so the leadership, when the leader stands still. `hold`, `release` and `seize` are atomic. The native twin
(native/engine_baton.c) watches without the interpreter's lock: then a fast application pays next to nothing
for being watched.
"""

from __future__ import annotations

from typing import Protocol

from forkd.engine.connection import Connection
from forkd.native import pick
from forkd.session.seam import Multiplexed
from forkd.system.originals import Empty, SimpleQueue

Entered = Connection | Multiplexed

#: What `watch` has seen.
NOTHING, GIVEN, STILL = range(3)

_CALM_LOOKS = 50  # looks at a free baton after which the watcher sleeps until it is held
_MAX_LOOKS = 200  # after which `watch` returns in any case


class Baton(Protocol):
    def hold(self, entered: Entered) -> None:
        """The leader enters the application."""

    def release(self, entered: Entered) -> bool:
        """The leader has come back. Returns whether it still leads: no watcher took that very one (by then
        another leader may hold the baton for another)."""
        ...

    def seize(self) -> Entered | None:
        """Overtake the leader that `watch` has seen stand still. None when it has moved on since then, be it
        to the next one: the watcher may have waited for the interpreter's lock for milliseconds."""
        ...

    def pass_on(self) -> None:
        """The leader gives leadership away: the watcher shall have it."""

    def end(self) -> None:
        """There is nothing to watch any more."""

    def watch(self, tick: float) -> int:
        """Look each `tick` seconds, until leadership is GIVEN, or the leader stands STILL from one look to
        the next; NOTHING: look again, with another tick if need be. By one thread at a time."""
        ...


class PythonBaton:
    def __init__(self, calm: int, looks: int) -> None:
        self._calm = calm
        self._looks = looks
        self._held: list[Entered] = []
        #: How often one was held: by that the watcher sees whether the leader stands still.
        self._entries = 0
        self._still = 0  # the entry that `watch` has seen stand still
        self._asleep = False  # the watcher is, or is about to be
        self._given = self._ended = False
        self._news: SimpleQueue[None] = SimpleQueue()

    def hold(self, entered: Entered) -> None:
        self._entries += 1
        self._held.append(entered)
        if self._asleep:
            self._asleep = False
            self._news.put(None)

    def release(self, entered: Entered) -> bool:
        try:
            self._held.remove(entered)
        except ValueError:
            return False
        return True

    def seize(self) -> Entered | None:
        if self._entries != self._still:
            return None
        try:
            return self._held.pop()
        except IndexError:
            return None

    def pass_on(self) -> None:
        self._given = True
        self._news.put(None)

    def end(self) -> None:
        self._ended = True
        self._news.put(None)

    def watch(self, tick: float) -> int:
        calm, seen = 0, -1
        for _ in range(self._looks):
            if self._given or self._ended or self._heard(tick):
                break
            entries = self._entries
            if self._held:
                calm = 0
                if entries == seen:
                    self._still = entries
                    return STILL
            else:
                calm += 1
                if calm > self._calm:
                    self._sleep()
                    return NOTHING
            seen = entries
        # Cleared only when it was seen: `pass_on` may come between a look and a store, and is not repeated.
        if self._given:
            self._given = False
            return GIVEN
        return NOTHING

    def _sleep(self) -> None:
        self._asleep = True
        # Looked at after that: a thread that puts something in after this look sees it.
        if not (self._held or self._given or self._ended):
            self._news.get()
        self._asleep = False

    def _heard(self, seconds: float) -> bool:
        try:
            self._news.get(timeout=seconds)
        except Empty:
            return False
        return True


def make(native: bool) -> Baton:
    """`native`: by native code, where it was built."""
    return pick("Baton", PythonBaton, native)(calm=_CALM_LOOKS, looks=_MAX_LOOKS)
