"""The accept lock: who leads, who is promoted, and what a death in between leaves behind."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator

import pytest

from forkd.system.lease import FULL, NOBODY, Lease, make_bells
from forkd.system.process import die_with_parent


@pytest.fixture
def lease() -> Iterator[Lease]:
    bells = make_bells(8)
    yield Lease(bells)
    for bell in bells:
        os.close(bell)


def announce(lease: Lease, **loads: int) -> None:
    lease.set_members([int(name[1:]) for name in loads])
    for name, load in loads.items():
        lease.load[int(name[1:])] = load


def test_nobody_leads_at_first(lease: Lease) -> None:
    assert lease.holder() == NOBODY
    assert lease.members() == []


def test_a_grant_names_one_and_moves_the_term(lease: Lease) -> None:
    before = lease.term()
    lease.grant(3)
    assert [lease.leads(slot) for slot in (1, 2, 3)] == [False, False, True]
    assert lease.holder() == 3
    assert lease.term() == before + 1
    lease.grant(3)
    assert lease.term() == before + 2


@pytest.mark.parametrize(
    ("loads", "leader", "after"),
    [
        ({"s1": 1}, 1, 1),  # alone
        ({"s1": 1, "s2": 1}, 1, 1),  # equal: no wake-up is paid
        ({"s1": 1, "s2": 2}, 1, 1),
        ({"s1": 2, "s2": 1}, 1, 2),
        ({"s1": 5, "s2": 3, "s3": 1, "s4": 2}, 1, 3),  # the one with the fewest
        ({"s1": FULL, "s2": 4000}, 1, 2),
        ({"s1": 3, "s2": FULL}, 1, 1),
        ({"s1": FULL, "s2": FULL}, 1, NOBODY),  # connections wait in the backlog
        ({"s1": FULL}, 1, NOBODY),
    ],
)
def test_promotion_goes_to_the_fewest_connections(
    lease: Lease, loads: dict[str, int], leader: int, after: int
) -> None:
    announce(lease, **loads)
    lease.grant(leader)
    assert lease.promote(leader) is (after != leader)
    assert lease.holder() == after


def test_only_members_are_promoted(lease: Lease) -> None:
    announce(lease, s1=5, s2=3)
    lease.load[3] = 0  # retires: not listed
    lease.grant(1)
    lease.promote(1)
    assert lease.holder() == 2


def test_repeated_promotion_spreads_evenly(lease: Lease) -> None:
    """400 connections that stay: nobody gets more than one above its share."""
    announce(lease, s1=0, s2=0, s3=0, s4=0)
    lease.grant(1)
    for _ in range(400):
        leader = lease.holder()
        lease.load[leader] += 1
        lease.promote(leader)
    assert all(99 <= lease.load[slot] <= 101 for slot in range(1, 5))


@pytest.mark.parametrize("listed", [[], [1], [8, 3, 5], list(range(1, 9))])
def test_members_are_as_listed(lease: Lease, listed: list[int]) -> None:
    lease.set_members(list(range(1, 9)))
    lease.set_members(listed)
    assert lease.members() == listed


def test_members_and_loads_do_not_touch_each_other(lease: Lease) -> None:
    for slot in range(1, 9):
        lease.load[slot] = 0xAAAA
    lease.set_members(list(range(1, 9)))
    lease.grant(5)
    assert [lease.load[slot] for slot in range(1, 9)] == [0xAAAA] * 8
    for slot in range(9):
        lease.load[slot] = 7
    assert lease.members() == list(range(1, 9))
    assert lease.holder() == 5


def test_a_bell_is_heard_by_its_child_alone(lease: Lease) -> None:
    assert lease.heard(2)
    lease.ring(2)
    lease.ring(2)
    assert not lease.heard(2)
    assert not lease.heard(2)  # asking does not silence it
    assert lease.heard(1) and lease.heard(3)
    lease.hear(2)
    assert lease.heard(2)
    lease.hear(2)  # harmless when it did not ring


def test_a_grant_wakes_the_child_it_names(lease: Lease) -> None:
    """Across processes: the child sleeps on its bell, is granted the lease, and hands it on."""
    lease.set_members([1, 2])
    lease.load[1], lease.load[2] = 5, 0
    pids = []
    for slot, after in ((1, 2), (2, None)):
        pid = os.fork()
        if pid == 0:
            try:
                if not select.select([lease.bells[slot]], [], [], 10)[0]:
                    os._exit(1)
                lease.hear(slot)
                if not lease.leads(slot):
                    os._exit(2)
                if after is not None and not lease.promote(slot):
                    os._exit(3)
                os._exit(0)
            finally:
                os._exit(9)
        pids.append(pid)
    lease.grant(1)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert codes == [0, 0]
    assert lease.holder() == 2


@pytest.mark.parametrize("kill_after", [0.0, 0.0001, 0.0005, 0.001, 0.002])
def test_a_sigkill_never_leaves_it_locked(lease: Lease, kill_after: float) -> None:
    """Two children that hand it to each other without pause; one is killed at some instant.

    Whatever the cell says then, a new grant is heard by the survivor; or the one after that, if the survivor
    has just stored its own over it, as the doorbell looks again."""
    lease.set_members([1, 2])
    ready, write = os.pipe()
    pids = {}
    for slot, other in ((1, 2), (2, 1)):
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            try:
                die_with_parent(parent)  # else they go on for ever when the tests are broken off
                os.write(write, b"x")
                while True:
                    if not select.select([lease.bells[slot]], [], [], 10)[0]:
                        os._exit(1)
                    lease.hear(slot)
                    if lease.leads(slot):
                        lease.grant(other)
            finally:
                os._exit(9)
        pids[slot] = pid
    got = b""
    while len(got) < 2:
        got += os.read(ready, 2)
    lease.grant(1)
    select.select([], [], [], kill_after)
    os.kill(pids[1], signal.SIGKILL)
    os.waitpid(pids[1], 0)
    for _ in range(20):
        lease.grant(2)
        term = lease.term()
        deadline = 100
        while lease.term() <= term and deadline:
            select.select([], [], [], 0.005)
            deadline -= 1
        if deadline:
            break
    assert deadline, "the survivor did not take its turn"
    os.kill(pids[2], signal.SIGKILL)
    os.waitpid(pids[2], 0)
    os.close(ready)
    os.close(write)


def test_hostile_cells_name_no_stranger(lease: Lease) -> None:
    lease.set_members([1, 2])
    for index, value in ((0, (1 << 64) - 1), (1, 1 << 40), (2, 0)):
        lease._members[index] = value
    assert all(0 < slot <= lease.slots for slot in lease.members())


@pytest.mark.parametrize("value", [(1 << 64) - 1, 9, 0xFFFF, 3 << 16 | 0xFFFF])
def test_a_hostile_holder_is_nobody_and_is_replaced(lease: Lease, value: int) -> None:
    lease._holder[0] = value
    assert lease.holder() == NOBODY
    lease.grant(2)
    assert lease.holder() == 2


def test_no_two_cells_are_one(lease: Lease) -> None:
    lease.set_members(list(range(1, 9)))
    for slot in range(9):
        lease.load[slot] = 1
    assert lease.members() == list(range(1, 9))
    lease.load[8] = 2
    assert [lease.load[slot] for slot in range(9)] == [1] * 8 + [2]


def test_the_next_generation_needs_no_more_bells(lease: Lease) -> None:
    before = len(os.listdir("/proc/self/fd"))
    Lease(lease.bells).grant(3)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not lease.heard(3)
