"""Every order of steps of two children, their bells and the doorbell: who is served, and who waits for ever.

A step is what one process does at once: one read or write of shared memory, one system call. The children's
are those of engine/loop.py, engine/acceptor.py and system/lease.py, the master's those of
master/doorbell.py, whose `judge` decides here too, and of master/leadership.py. Once in a run one
child is killed, and once one is stopped for good, between any two steps. Times are not in it: a look comes
when it comes, and a busy leader may be taken for one that is about to accept, or not. Nor are loads: a leader
may promote the other child after each accept, and nobody is full.

A state is one int: 11 bits for each child, above them the master's and what all share.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from forkd.master.doorbell import Candidate, Verdict, judge
from forkd.system.lease import NOBODY

#: Where a child is: the next step is its name.
DEAD, GONE, JOIN, REST, WAIT, WOKEN, HEAR, LEAD, ACCEPT, CHOOSE, NAME, RING, WORK = range(13)
#: And the master: it has its timer; it looks at the queue, at the lease, at the children; it grants.
IDLE, LOOK, ARMED, READ, JUDGE, GRANT, GRANTED = range(7)
#: Of a child: it waits for the listeners; what it was woken by; it is stopped; another process has named a
#: leader since it read the term; it is suspect; its bell rings.
LISTENS, BELL, COMES, STOPPED, STALE, SUSPECT, RINGS = (1 << bit for bit in range(4, 11))
_BUSY = {JOIN, REST, HEAR, LEAD, ACCEPT, CHOOSE, NAME, RING, WORK}  # by the scoreboard
QUEUE = 1  # connections that wait at once, at most; with 2 it is half as large again, and finds the same
#: What can happen besides.
COME, KILL, STOP = "come", "kill", "stop"


class State:
    """One state, opened up. Slots are 1 and 2."""

    __slots__ = (
        "armed", "child", "chosen", "holder", "kills", "master", "moved", "queue", "seen", "stops", "timer",
    )  # fmt: skip

    def __init__(self, packed: int) -> None:
        self.child = [0, packed & 0x7FF, packed >> 11 & 0x7FF]
        rest = packed >> 22
        self.holder, self.queue, self.master = rest & 3, rest >> 2 & 3, rest >> 4 & 7
        self.seen, self.chosen = rest >> 7 & 3, rest >> 9 & 3  # holder, and who is to lead
        self.moved, self.armed, self.timer = rest >> 11 & 1, rest >> 12 & 1, rest >> 13 & 1
        self.kills, self.stops = rest >> 14 & 1, rest >> 15 & 1  # that may still come

    def pack(self) -> int:
        rest = self.holder | self.queue << 2 | self.master << 4 | self.seen << 7 | self.chosen << 9
        rest |= self.moved << 11 | self.armed << 12 | self.timer << 13
        rest |= self.kills << 14 | self.stops << 15
        return self.child[1] | self.child[2] << 11 | rest << 22

    def at(self, slot: int) -> int:
        return self.child[slot] & 15

    def go(self, slot: int, place: int, on: int = 0, off: int = 0) -> None:
        self.child[slot] = (self.child[slot] & ~(15 | off)) | place | on

    def busy(self, slot: int) -> bool:
        return self.at(slot) in _BUSY

    def name(self, slot: int) -> None:
        """Write the cell. Whoever has read the term before will write one that may have been there."""
        self.holder, self.moved = slot, 1
        for other in (1, 2):
            if self.at(other) == NAME:
                self.child[other] |= STALE

    def members(self) -> list[int]:
        serving = [slot for slot in (1, 2) if self.at(slot) != GONE]
        return [slot for slot in serving if not self.child[slot] & SUSPECT] or serving

    def settle(self) -> None:
        members = self.members()
        if self.holder not in members:
            self.name(members[0] if members else NOBODY)
            self.child[self.holder] |= RINGS

    def forgive(self) -> None:
        answered = [s for s in (1, 2) if self.child[s] & SUSPECT and not self.child[s] & RINGS]
        for slot in answered:
            self.child[slot] &= ~SUSPECT
        if answered:
            self.settle()


FIRST = State(JOIN | RINGS | JOIN << 11)
FIRST.holder, FIRST.kills, FIRST.stops, FIRST.timer = 1, 1, 1, 1


@cache
def verdict(
    holder: int, busy: tuple[bool, ...], suspect: tuple[bool, ...], members: tuple[int, ...],
    old: bool, patience_over: bool,
) -> int | Verdict:  # fmt: skip
    """`old`: a busy leader is so for longer than one that is about to accept."""
    work = 10**9 if old else 1
    candidates = [Candidate(s, work * busy[s - 1], 0, suspect[s - 1]) for s in members]
    return judge(holder, candidates, patience_over)


def steps(packed: int, again: bool) -> Iterator[tuple[str, int]]:
    """What may come next: who does it, and the state after it. `again`: the doorbell rings the leader again
    when somebody waits and nothing moves."""
    for slot in (1, 2):
        yield from _of_child(packed, slot)
    yield from _of_master(packed, again)
    now = State(packed)
    if now.queue < QUEUE:
        state = State(packed)
        state.queue += 1
        if state.armed:
            state.armed, state.timer = 0, 1
        yield COME, state.pack()
    for slot in (1, 2):
        if now.at(slot) in (DEAD, GONE):
            continue
        if now.stops and not now.child[slot] & STOPPED:
            state = State(packed)
            state.child[slot] |= STOPPED
            state.stops = 0
            yield STOP, state.pack()
        if now.kills:
            state = State(packed)
            state.kills = 0
            state.go(slot, DEAD, off=LISTENS | BELL | COMES | STOPPED | STALE)
            yield KILL, state.pack()


def _of_child(packed: int, slot: int) -> Iterator[tuple[str, int]]:
    state, other = State(packed), 3 - slot
    mine, place, leads = state.child[slot], state.at(slot), state.holder == slot
    if mine & STOPPED:
        return
    if place == JOIN:
        state.go(slot, REST, on=LISTENS if leads else 0)
    elif place == REST:
        state.go(slot, WAIT)
    elif place == WAIT:
        woken = BELL if mine & RINGS else 0
        woken |= COMES if mine & LISTENS and state.queue else 0
        if not woken:
            return
        state.go(slot, WOKEN, on=woken, off=LISTENS)
    elif place == WOKEN:
        state.go(slot, HEAR)
    elif place == HEAR:
        if mine & BELL:
            mine = state.child[slot] = mine & ~RINGS
        state.go(slot, LEAD if mine & COMES else JOIN, off=BELL | COMES)
    elif place == LEAD:
        state.go(slot, ACCEPT if leads else JOIN)
    elif place == ACCEPT:
        if state.queue:
            state.queue -= 1
            state.go(slot, CHOOSE)
            yield "accept", state.pack()
            return
        state.go(slot, JOIN)
    elif place == CHOOSE:
        if other in state.members():  # as it has fewer connections
            promoted = State(packed)
            promoted.go(slot, NAME, off=STALE)
            yield "child", promoted.pack()
        state.go(slot, WORK)
    elif place == NAME:
        moved = state.moved
        state.go(slot, RING, off=STALE)
        state.name(other)
        if mine & STALE and not moved:  # the term is the one that the master saw last
            same = State(state.pack())
            same.moved = 0
            yield "child", same.pack()
    elif place == RING:
        state.child[other] |= RINGS
        state.go(slot, WORK)
    elif place == WORK:
        state.go(slot, LEAD)
    else:
        return
    yield "child", state.pack()


def _of_master(packed: int, again: bool) -> Iterator[tuple[str, int]]:
    state = State(packed)
    if state.master == IDLE:
        yield from _of_idle_master(packed)
        if not state.timer:
            return
        state.timer, state.master = 0, LOOK
    elif state.master == LOOK:
        if state.queue:
            state.master = READ
        else:
            again = State(packed)  # where many come it looks again, and the bell stays disarmed
            again.moved, again.master, again.timer = 1, IDLE, 1
            yield "master", again.pack()
            state.armed = state.moved = 1
            state.master = ARMED
    elif state.master == ARMED:
        state.master = IDLE
        if state.queue:
            state.armed, state.timer, state.master = 0, 0, READ
    elif state.master == READ:
        state.forgive()
        state.seen, state.master = state.holder, JUDGE
    elif state.master == JUDGE:
        yield from _judged(packed, again)
        return
    elif state.master == GRANT:
        seen = state.seen
        if seen != NOBODY and not state.busy(seen):
            state.child[seen] |= SUSPECT | RINGS
            state.settle()
        state.name(state.chosen)
        state.master = GRANTED
    else:
        state.child[state.chosen] |= RINGS
        state.moved, state.master, state.seen, state.chosen, state.timer = 0, IDLE, 0, 0, 1
    yield "master", state.pack()


def _of_idle_master(packed: int) -> Iterator[tuple[str, int]]:
    """What the loop does between looks: the tick, and a child that is gone, and the one in its place."""
    ticked = State(packed)
    ticked.forgive()
    yield "master", ticked.pack()
    for slot in (1, 2):
        state = State(packed)
        if state.at(slot) == DEAD:
            state.go(slot, GONE)
            state.settle()
            state.child[state.holder] |= RINGS if state.holder else 0
            yield "master", state.pack()
        elif state.at(slot) == GONE:
            state.go(slot, JOIN)
            state.settle()
            yield "master", state.pack()


def _judged(packed: int, again: bool) -> Iterator[tuple[str, int]]:
    state = State(packed)
    busy = state.busy(1), state.busy(2)
    suspect = bool(state.child[1] & SUSPECT), bool(state.child[2] & SUSPECT)
    for old in (True, False):
        state = State(packed)
        patience_over = not state.moved
        found = verdict(state.seen, busy, suspect, tuple(state.members()), old, patience_over)
        state.moved, state.master, state.timer = 0, IDLE, 1
        if isinstance(found, int):
            state.chosen, state.master, state.timer = found, GRANT, 0
        else:
            nothing_moves = found is Verdict.NOBODY_FREE and patience_over
            if again and nothing_moves and state.seen != NOBODY and not state.busy(state.seen):
                state.child[state.seen] |= RINGS
            state.seen = 0
        yield "master", state.pack()
