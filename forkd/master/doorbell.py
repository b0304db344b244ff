"""The bell of the listeners: a client is waiting. In the master.

It rings by SIGIO or by epoll (arrivals.py), and would for every connection, whichever child accepts it. A
client that comes alone is accepted before the master has woken, as a rule, and that is all. If it is not, or
the bell rang less than 2 ms ago, the bell is disarmed and the master looks again 2 ms later: what is served
by then costs nothing. If the queue is still readable, its leader is inside application code, stopped or slow,
and the lease is granted to an idle follower; when none is idle, one more child may be wanted. It looks again
every 2 ms until the queue is empty and no more than one connection has come since, and arms the bell anew:
where one comes after the other, to be told of each next one costs more than to look. Idle, nothing runs at
all.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from enum import Enum
from time import monotonic, monotonic_ns
from typing import NamedTuple

from forkd.master.arrivals import Arrivals, arrivals
from forkd.system.cells import ACCEPTED
from forkd.system.lease import FULL, NOBODY, Lease
from forkd.system.loop import QUIET, Loop
from forkd.system.scoreboard import Scoreboard
from forkd.system.sockets import SHUT_DOWN, Listener

#: Between two looks at who waits, while a client does.
LOOK_SECONDS = 0.002
#: When all children have been busy for this many looks, or none has accepted upon as many grants (there may
#: be no descriptor free), looking is slowed down.
_PATIENT_AFTER_LOOKS = 50
_PATIENT_LOOK_SECONDS = 0.01
#: The same where a child is and stays alone, since no other can help: it is for the length of the queue.
_LONE_LOOK_SECONDS = 0.02
#: Between two looks, from which on the bell stays disarmed.
_MANY_CONNECTIONS = 2
#: A leader at work for less than this is about to accept by itself (ns).
_BUSY_NS = 1_500_000


class Verdict(Enum):
    WAIT = "the leader is about to accept"
    NOBODY_FREE = "every child is busy or full"


class Candidate(NamedTuple):
    slot: int
    busy_ns: int  # 0 while it waits in its handle set
    load: int
    suspect: bool  # did not answer its bell


def judge(holder: int, candidates: list[Candidate], patience_over: bool) -> int | Verdict:
    """Whom to grant the lease while the queue has waiters: a slot, or why none.

    `patience_over`: an idle-looking leader had a whole window and did not accept.
    """
    leader = next((c for c in candidates if c.slot == holder), None)
    if (
        leader is not None
        and leader.busy_ns < _BUSY_NS
        and not patience_over
        and leader.load < FULL
    ):
        return Verdict.WAIT
    free = [
        c
        for c in candidates
        if c.slot != holder and not c.busy_ns and not c.suspect and c.load < FULL
    ]
    if free:
        return min(free, key=lambda c: (c.load, c.slot)).slot
    return Verdict.NOBODY_FREE


class Doorbell:
    """Owns the arming of the active generation's listeners."""

    def __init__(
        self,
        loop: Loop,
        board: Scoreboard,
        nobody_free: Callable[[], bool],
        shut_down: Callable[[], None],
        queued: Callable[[], None],
    ) -> None:
        """`nobody_free`: clients wait and every child is busy; returns whether there will be more of them.
        `shut_down`: a listener was shut down. `queued`: clients wait, told at each look."""
        self.rings = 0  # that found the bell armed
        self.looks = 0
        self.grants = 0
        #: Slots that did not answer their bell: leaders must not promote them (leadership.derive).
        self.suspects: set[int] = set()
        self._loop = loop
        self._timers = loop.timers
        self._board = board
        self._nobody_free = nobody_free
        self._shut_down = shut_down
        self._queued = queued
        self._sockets: list[socket.socket] = []
        self._arrivals: list[Arrivals] = []
        self._lease: Lease | None = None
        self._armed = False
        self._term = -1
        self._busy_looks = 0
        self._vain_grants = 0
        self._accepted = -1
        self._rung = 0.0  # when it rang last, seconds of CLOCK_MONOTONIC
        self._seen = 0  # connections that were accepted until the last look
        self._grows = False

    def watch(self, listeners: list[Listener], lease: Lease | None, grows: bool) -> None:
        """Listen to these from now on, and no longer to the ones before. `grows`: there may be more children
        where clients wait."""
        self.mute()
        self._sockets = [sock for listener in listeners for sock in listener.sockets]
        self._arrivals = arrivals(listeners, self._loop, self.ring)
        self._lease = lease
        self._grows = grows
        self.suspects.clear()
        self._poll = select.poll()
        for sock in self._sockets:
            self._poll.register(sock, select.POLLIN | select.POLLRDHUP)
        self.look()

    def give_up(self) -> None:
        """Another master owns the bell now: leave the flags, which are shared, as it sets them."""
        for each in self._arrivals:
            each.leave()
        self._forget()

    def mute(self) -> None:
        """To be called before the listeners are closed."""
        for each in self._arrivals:
            each.close()
        self._forget()

    def _forget(self) -> None:
        self._timers.cancel("doorbell")
        self._armed = False
        self._sockets, self._arrivals = [], []

    def counters(self) -> dict[str, int]:
        return {"rings": self.rings, "looks": self.looks, "grants": self.grants}

    def absorb(self, counters: dict[str, int]) -> None:
        """Go on from another master's counters."""
        self.rings += counters["rings"]
        self.looks += counters["looks"]
        self.grants += counters["grants"]

    def ring(self) -> object:
        """A client has come. Returns as `look`."""
        if self._armed:  # else it was under way when the bell was disarmed
            self.rings += 1
            before, self._rung = self._rung, monotonic()
            if self._rung < before + LOOK_SECONDS or self._waiting():
                self._arm(False)
                self._look_in(LOOK_SECONDS)
            else:  # it came alone, and was accepted by now
                self._arm(True)
        return self._told()

    def look(self) -> object:
        """The window is over: is a client still waiting? Returns QUIET if nothing follows from it."""
        if not self._sockets:
            return QUIET
        self.looks += 1
        come = self._come()
        if not self._waiting():
            self._term = -1
            self._busy_looks = self._vain_grants = 0
            if come >= _MANY_CONNECTIONS:
                self._look_in(self._pace())
                return self._told()
            self._arm(True)
            if not self._waiting():
                return self._told()
            self._arm(False)  # it came before the bell was armed, and did not ring
        self._look_in(self._pace())  # first: what fails below is logged, and the bell is disarmed
        self._queued()
        return self._told() if come and self._alone() else self._help()

    def _told(self) -> object:
        """QUIET, unless no member leads: then the next leader is to be derived."""
        lease = self._lease
        led = lease is None or lease.holder() in lease.members()
        return QUIET if led and self._sockets else None

    def _come(self) -> int:
        """Connections that were accepted since the last call."""
        before, lease = self._seen, self._lease
        if lease is None:
            self._seen = self._board.total(ACCEPTED)
        else:
            self._seen = sum(self._board.counter(slot, ACCEPTED) for slot in lease.members())
        return self._seen - before

    def _alone(self) -> bool:
        """Whether nobody can take over from the leader."""
        lease = self._lease
        return lease is not None and len(lease.members()) == 1 and not self.suspects and not self._grows

    def _pace(self) -> float:
        """Seconds until the next look."""
        if self._alone():
            return _LONE_LOOK_SECONDS
        patient = max(self._busy_looks, self._vain_grants) > _PATIENT_AFTER_LOOKS
        return _PATIENT_LOOK_SECONDS if patient else LOOK_SECONDS

    def _help(self) -> object:
        """See to it that the clients that wait are served. Returns QUIET if nobody can do it sooner than the
        leader."""
        lease = self._lease
        if lease is None:  # the kernel wakes an idle child by itself; so none is idle
            return None if self._nobody_free() else QUIET
        forgiven = self.forgive()
        holder, term = lease.holder(), lease.term()
        patience_over = term == self._term
        verdict = judge(holder, self._candidates(lease), patience_over)
        self._term = term
        if verdict is Verdict.WAIT:
            return None if forgiven else QUIET
        if isinstance(verdict, int):
            if holder != NOBODY and not self._busy(holder):
                self.suspects.add(holder)
                lease.ring(holder)  # once it hears this it is no suspect any more
            lease.grant(verdict)
            self.grants += 1
            self._term = lease.term()
            self._busy_looks = 0
            accepted = self._board.total(ACCEPTED)
            self._vain_grants = self._vain_grants + 1 if accepted == self._accepted else 0
            self._accepted = accepted
            return None
        if patience_over and holder != NOBODY and not self._busy(holder):
            # It sleeps, and may not know that it leads: the process that named it has not rung its bell yet,
            # and will not as long as it is stopped.
            lease.ring(holder)
        self._busy_looks += 1
        return None if self._nobody_free() or forgiven else self._told()

    def forgive(self) -> bool:
        """A child that has answered its bell since is no suspect any more. Returns whether there was one."""
        before, lease = self.suspects, self._lease
        if before and lease is not None:
            self.suspects = {slot for slot in before if not lease.heard(slot)}
        return self.suspects != before

    def _candidates(self, lease: Lease) -> list[Candidate]:
        return [
            Candidate(slot, self._busy(slot), lease.load[slot], slot in self.suspects)
            for slot in lease.members()
        ]

    def _busy(self, slot: int) -> int:
        since = self._board.working(slot, monotonic_ns())
        return 0 if since is None else max(1, int(since * 1e9))

    def _waiting(self) -> bool:
        found = [mask & SHUT_DOWN for _, mask in self._poll.poll(0)]
        if any(found):
            self._shut_down()
        return not all(found)  # no client waits in a listener that was shut down, which is ready for ever

    def _arm(self, on: bool) -> None:
        self._armed = on
        for each in self._arrivals:
            (each.arm if on else each.disarm)()

    def _look_in(self, seconds: float) -> None:
        self._timers.set("doorbell", monotonic() + seconds, self.look)
