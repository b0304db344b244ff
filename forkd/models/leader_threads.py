"""Leader/Followers within a child: `--threads N` threads take turns at the child's handle set.

1. One thread leads: it waits, accepts, and handles what is ready, inline, as if it were alone.
2. One follower watches it. While the leader comes back from the application within a millisecond
   (a quarter of one, when some requests have blocked lately), the watcher only counts: a fast
   application pays little for threads.
3. When the leader stays inside the application, the watcher takes its leadership: it lends the
   leader's connection to the leader, and leads itself. The next follower watches.
4. The former leader finishes its connection, hands the outcome to whoever leads, and joins the
   followers.
5. Once the application has shown that it blocks, the leader promotes a follower before it enters
   the application, rather than be overtaken a millisecond later.

The handle set, the keeper and the acceptor belong to the thread that leads. While it is inside the
application its leadership is at stake (stake.py): who takes the connection out leads on, the leader
itself when it comes back, or the watcher. `_lock` is held by a watcher from there until it leads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic, monotonic_ns
from typing import Any

from forkd.models import stake
from forkd.models.connection import Connection
from forkd.models.inline import InlineLoop
from forkd.models.steps import Outcome, advance
from forkd.models.unit import Unit
from forkd.system.scoreboard import Lanes

_STANDSTILL = 0.001  # seconds a leader may stand still before it is overtaken
_ALERT = 0.00025  # the same, while some requests do block: then it is worth looking more often
_SLOW = 0.0005  # seconds in the application that count as blocking
#: Above this share of recent requests that blocked (and until it falls below half of it), a
#: follower is promoted beforehand.
_EAGER = 0.3
_WEIGHT = 0.1  # of one request in that share
_NEGLIGIBLE = 1e-6  # a share that is none: about a hundred requests after the last that blocked
_NOBODY = 0  # no thread has this identifier


class _Deposed(Exception):
    """This thread no longer leads; somebody else goes on with the turn."""


class LeaderThreads(InlineLoop):
    def __init__(self, unit: Unit) -> None:
        self._stake = stake.make(unit.config.native)
        super().__init__(unit, self._stake)
        if self.dispatcher is not None:
            self.dispatcher.patience = _SLOW
        assert unit.lanes is not None
        self._lock = threading.Lock()
        self._leader = threading.get_ident()
        self._watching = threading.Lock()  # held by the one follower that watches
        self._blocking = 0.0  # share of recent requests that blocked
        self._eager = False
        self._outcomes: deque[tuple[Connection, Outcome]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._bell, self._collect)
        for number in range(unit.config.threads - 1):
            # Daemonic: one that is stuck in the application must not hold up the exit.
            threading.Thread(
                target=self._follow, args=(unit.lanes,), name=f"forkd-{number + 2}", daemon=True
            ).start()

    def turn(self, timeout: float | None) -> None:
        """One turn as the leader, however this thread becomes it. Called by every thread."""
        if self._leader != threading.get_ident():
            self._wait_for_leadership()
        if self.done:
            return
        try:
            super().turn(timeout)
        except _Deposed:
            pass
        if self.done:
            self._stake.end()  # let the followers see it

    def _follow(self, lanes: Lanes) -> None:
        lanes.bind()
        try:
            while not self.done:
                self.turn(None)
        except BaseException:  # a bug in forkd: better no child than one that waits for its leader
            self.log.exception("the child crashed")
            os._exit(70)

    # ---- followers ------------------------------------------------------------------------

    def _wait_for_leadership(self) -> None:
        """Watch, when it is this thread's turn to watch; return as the leader, or when done."""
        with self._watching:
            while not self.done:
                found = self._stake.watch(_ALERT if self._blocking else _STANDSTILL)
                if found == stake.GIVEN:
                    self._leader = threading.get_ident()
                    return
                if found == stake.STILL and self._overtake():
                    return

    def _overtake(self) -> bool:
        """Step 3. False when the leader has just come back."""
        with self._lock:
            conn = self._stake.take()
            if conn is not None:
                self._leader = threading.get_ident()
                self.keeper.lend(conn)
            return conn is not None

    # ---- the leader -----------------------------------------------------------------------

    def _go(self, conn: Connection, step: Callable[[Any], Any], value: Any) -> None:
        if self._eager:
            self._go_eagerly(conn, step, value)
        self._stake.put(conn)
        began = monotonic()
        outcome = advance(conn, step, value, self.log)
        took = monotonic() - began
        if took > _SLOW or self._blocking:
            self.judge(took)
        if not self._stake.drop(conn):
            with self._lock:
                pass  # from here on the other leads
            self._hand_back(conn, outcome)
        self.keeper.settle(conn, outcome)

    def deposed(self, conn: Connection, value: Any) -> None:
        """Native code has this for the session, as `feed`, and another leads by now."""
        with self._lock:
            pass
        began = getattr(value, "began", 0)
        outcome = advance(conn, conn.resume, value, self.log)
        self.judge((monotonic_ns() - began) / 1e9 if began else _STANDSTILL)
        self._hand_back(conn, outcome)

    def _go_eagerly(self, conn: Connection, step: Callable[[Any], Any], value: Any) -> None:
        """Step 5."""
        self.keeper.lend(conn)
        self._leader = _NOBODY
        self._stake.give()
        began = monotonic()
        outcome = advance(conn, step, value, self.log)
        self.judge(monotonic() - began)
        self._hand_back(conn, outcome)

    def _hand_back(self, conn: Connection, outcome: Outcome) -> None:
        """Step 4."""
        self._outcomes.append((conn, outcome))
        os.eventfd_write(self._bell, 1)
        raise _Deposed

    def judge(self, took: float) -> None:
        """The application has taken so many seconds."""
        self._blocking += _WEIGHT * ((took > _SLOW) - self._blocking)
        if self._blocking < _NEGLIGIBLE:
            self._blocking = 0.0
        self._eager = self._blocking > (_EAGER / 2 if self._eager else _EAGER)
        self.direct = not self._eager
        if self.dispatcher is not None:
            self.dispatcher.patience = 0.0 if self._blocking else _SLOW

    def _collect(self) -> None:
        """Outcomes of former leaders."""
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass
        for _ in range(len(self._outcomes)):
            self.keeper.settle(*self._outcomes.popleft())

    def abandon(self) -> None:
        super().abandon()
        self._stake.end()
