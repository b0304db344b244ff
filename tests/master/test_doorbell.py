"""Whom the master grants the lease while the accept queue has waiters, and when it is told of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from forkd.master.doorbell import Candidate, Doorbell, Verdict, judge
from forkd.system.address import Address
from forkd.system.cells import ACCEPTED, WORKING
from forkd.system.lease import FULL, NOBODY, Lease, make_bells
from forkd.system.loop import QUIET, Loop
from forkd.system.scoreboard import Scoreboard
from forkd.system.sockets import listen

BUSY = 10_000_000  # 10 ms


def c(slot: int, busy: int = 0, load: int = 0, suspect: bool = False) -> Candidate:
    return Candidate(slot, busy, load, suspect)


WAIT, NONE = Verdict.WAIT, Verdict.NOBODY_FREE


@pytest.mark.parametrize(
    ("holder", "candidates", "patience_over", "expected"),
    [
        # An idle leader is about to accept; with its patience over it is passed by.
        (1, [c(1), c(2)], False, WAIT),
        (1, [c(1), c(2)], True, 2),
        # A leader that has just woken is about to accept; one at work for long is not.
        (1, [c(1, busy=100_000), c(2)], False, WAIT),
        (1, [c(1, busy=BUSY), c(2)], False, 2),
        # Among the idle, the one with the fewest connections.
        (1, [c(1, busy=BUSY), c(2, load=3), c(3, load=1), c(4, load=2)], False, 3),
        # Never one that is busy, full or suspect.
        (1, [c(1, busy=BUSY), c(2, busy=BUSY), c(3, load=9)], False, 3),
        (1, [c(1, busy=BUSY), c(2, suspect=True), c(3, load=9)], False, 3),
        (1, [c(1, busy=BUSY), c(2, load=FULL), c(3, load=9)], False, 3),
        # Nobody is free.
        (1, [c(1, busy=BUSY), c(2, busy=BUSY)], False, NONE),
        (1, [c(1, busy=BUSY), c(2, suspect=True)], False, NONE),
        (1, [c(1, busy=BUSY)], False, NONE),
        (1, [], False, NONE),
        # A full leader does not accept, however idle.
        (1, [c(1, load=FULL), c(2)], False, 2),
        (1, [c(1, load=FULL)], False, NONE),
        # Nobody leads, or somebody who is no member any more.
        (NOBODY, [c(1), c(2)], False, 1),
        (7, [c(1, load=2), c(2)], False, 2),
        (NOBODY, [], False, NONE),
    ],
)
def test_judge(
    holder: int, candidates: list[Candidate], patience_over: bool, expected: int | Verdict
) -> None:
    assert judge(holder, candidates, patience_over) == expected


class Door:
    """A listener with a bell, and two children that only this test moves: the first leads."""

    def __init__(self) -> None:
        self.loop, self.board = Loop(), Scoreboard(2)
        self.listener = listen(Address(kind="tcp", host="127.0.0.1", port=0), 16)
        self.listener.expose()  # by epoll: SIGIO would end this process
        self.lease = Lease(make_bells(2))
        self.lease.set_members([1, 2])
        self.lease.grant(1)
        self.grown = False
        self.bell = Doorbell(self.loop, self.board, lambda: self.grown, lambda: None, lambda: None)
        self.bell.watch([self.listener], self.lease, False)
        self.clients: list[socket.socket] = []
        self.come()
        self.bell.ring()  # so it is disarmed, and the next look is due in a moment
        self.accept()

    def accept(self) -> None:
        self.clients.append(self.listener.sockets[0].accept()[0])

    def come(self) -> None:
        self.clients.append(socket.create_connection(self.listener.sockets[0].getsockname()))

    def served(self, count: int) -> None:
        self.board.lanes[1][0].cells[ACCEPTED] += count

    def rings(self) -> int:
        """Have a client come, in a turn in which no look is due. Returns how often the bell rang."""
        before = self.bell.rings
        self.loop.timers.set("doorbell", float("inf"), lambda: None)
        self.loop.timers.set("now", 0.0, lambda: QUIET)
        self.come()
        self.loop.turn()
        return self.bell.rings - before

    def close(self) -> None:
        self.bell.mute()
        for thing in [*self.clients, self.listener]:
            thing.close()
        self.loop.close()


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


@pytest.mark.parametrize(("accepted", "rings"), [(0, 1), (1, 1), (2, 0), (50, 0)])
def test_it_is_not_told_of_the_next_of_many(door: Door, accepted: int, rings: int) -> None:
    door.served(accepted)
    assert door.bell.look() is QUIET
    assert door.rings() == rings


def test_it_is_told_again_when_few_come(door: Door) -> None:
    door.served(50)
    door.bell.look()
    door.bell.look()
    assert door.rings() == 1


def test_a_client_that_comes_alone_and_is_accepted_at_once_costs_no_look(door: Door) -> None:
    door.bell.look()
    door.loop.timers.cancel("doorbell")  # which has called it
    for _ in range(3):
        door.bell._rung = 0.0  # long ago
        looks = door.bell.looks
        door.come()
        door.accept()
        assert door.bell.ring() is QUIET
        assert door.loop.timers.until(0.0) is None
        assert door.bell.looks == looks
    assert door.rings() == 1  # by the loop: it is still armed


def test_a_client_that_meets_a_busy_leader_among_many_is_helped_at_the_next_look(door: Door) -> None:
    door.served(50)
    door.bell.look()
    door.board.lanes[1][0].cells[WORKING] = 1  # for as long as the machine runs
    door.come()
    assert door.bell.look() is not QUIET
    assert door.lease.holder() == 2


def test_a_ring_or_look_is_quiet_while_somebody_leads_and_nobody_is_to_be_added(door: Door) -> None:
    assert door.bell.ring() is QUIET
    door.come()
    assert door.bell.look() is QUIET  # the leader is about to accept
    for slot in (1, 2):
        door.board.lanes[slot][0].cells[WORKING] = 1
    assert door.bell.look() is QUIET  # nobody is free
    door.grown = True
    assert door.bell.look() is not QUIET
    door.grown = False
    door.lease.grant(NOBODY)
    assert door.bell.look() is not QUIET
    assert door.bell.ring() is not QUIET


def test_a_turn_tells_whether_anything_was_not_quiet() -> None:
    loop = Loop()
    for calls, news in (([QUIET], False), ([QUIET, None], True), ([None], True), ([], False)):
        loop.timers.set("idle", 0.0 if not calls else float("inf"), lambda: QUIET)
        for number, said in enumerate(calls):
            loop.timers.set(f"call {number}", 0.0, lambda said=said: said)
        assert loop.turn() is news
    loop.close()
