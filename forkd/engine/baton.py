"""The stake of the leader of a child's threads: the connection it is inside the application for.

The leader puts the connection in and drops it again; one follower watches meanwhile, and may take it, and so
the leadership, when the leader stands still. `put`, `drop` and `take` are atomic. The native twin
(native/engine_baton.c) watches without the interpreter's lock: then a fast application pays next to nothing
for being watched.
"""

from __future__ import annotations

from typing import Protocol

from forkd.engine.connection import Connection
from forkd.native import native as _native
from forkd.system.originals import Empty, SimpleQueue

#: What `watch` has seen.
NOTHING, GIVEN, STILL = range(3)

_CALM_LOOKS = 50  # looks at an empty stake after which the watcher sleeps until there is something in it
_MAX_LOOKS = 200  # after which `watch` returns in any case


class Stake(Protocol):
    def put(self, conn: Connection) -> None:
        """The leader enters the application."""

    def drop(self, conn: Connection) -> bool:
        """The leader has come back. Returns whether it still leads: no watcher took that very connection (by
        then the stake may hold that of another leader)."""
        ...

    def take(self) -> Connection | None:
        """Overtake the leader; None when it has just come back."""
        ...

    def give(self) -> None:
        """The leader gives leadership away: the watcher shall have it."""

    def end(self) -> None:
        """There is nothing to watch any more."""

    def watch(self, tick: float) -> int:
        """Look each `tick` seconds, until leadership is GIVEN, or the leader stands STILL from one look to
        the next; NOTHING: look again, with another tick if need be. By one thread at a time."""
        ...


class PythonStake:
    def __init__(self, calm: int, looks: int) -> None:
        self._calm = calm
        self._looks = looks
        self._held: list[Connection] = []
        #: How often it was put in: by that the watcher sees whether the leader stands still.
        self._entries = 0
        self._asleep = False  # the watcher is, or is about to be
        self._given = self._ended = False
        self._news: SimpleQueue[None] = SimpleQueue()

    def put(self, conn: Connection) -> None:
        self._entries += 1
        self._held.append(conn)
        if self._asleep:
            self._asleep = False
            self._news.put(None)

    def drop(self, conn: Connection) -> bool:
        try:
            self._held.remove(conn)
        except ValueError:
            return False
        return True

    def take(self) -> Connection | None:
        try:
            return self._held.pop()
        except IndexError:
            return None

    def give(self) -> None:
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
                    return STILL
            else:
                calm += 1
                if calm > self._calm:
                    self._sleep()
                    return NOTHING
            seen = entries
        # Cleared only when it was seen: `give` may come between a look and a store, and is not repeated.
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


def make(native: bool) -> Stake:
    """`native`: by native code, where it was built."""
    kind = _native.Stake if native and _native is not None else PythonStake
    stake: Stake = kind(_CALM_LOOKS, _MAX_LOOKS)
    return stake
