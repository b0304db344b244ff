"""No order of steps, with a kill and a stop at any instant, leaves a client waiting beside a child that could
take it."""

from __future__ import annotations

import resource
from array import array
from collections.abc import Iterator

import pytest

from .lease_model import (
    COME,
    FIRST,
    KILL,
    LISTENS,
    REST,
    RING,
    RINGS,
    STOP,
    STOPPED,
    WAIT,
    State,
    steps,
)  # fmt: skip


def explore(again: bool) -> tuple[int, list[State]]:
    """The number of states, and those in which somebody waits and nobody will ever accept, however long the
    processes run."""
    first = FIRST.pack()
    number = {first: 0}
    order = [first]
    after, ends = array("I"), array("I")
    good = bytearray()
    for packed in order:
        accepts = False
        for who, found in steps(packed, again):
            index = number.get(found)
            if index is None:
                index = number[found] = len(order)
                order.append(found)
            if who == "accept":
                accepts = True
            elif who not in (COME, KILL, STOP):
                after.append(index)
        ends.append(len(after))
        good.append(accepts or not packed >> 24 & 3)
    changed = True
    while changed:
        changed = False
        for index in range(len(order) - 1, -1, -1):
            if not good[index]:
                begin = ends[index - 1] if index else 0
                if any(good[each] for each in after[begin : ends[index]]):
                    good[index] = changed = True
    return len(order), [State(order[i]) for i, well in enumerate(good) if not well]


@pytest.fixture(autouse=True)
def at_most_2_gib() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_whoever_waits_is_served() -> None:
    count, stuck = explore(again=True)
    assert stuck == []
    assert count == 733_428


@pytest.mark.soak
def test_a_leader_that_is_not_rung_again_may_sleep_for_ever() -> None:
    """The rule before: it was rung once, by whoever named it. Only one kind of stop is fatal then: between
    naming the other child and ringing its bell. So the model sees what it is to see."""
    count, stuck = explore(again=False)
    assert (count, len(stuck)) == (729_862, 384)
    for state in stuck:
        stopped, named = (1, 2) if state.child[1] & STOPPED else (2, 1)
        assert state.at(stopped) == RING
        assert state.at(named) in (REST, WAIT)
        assert state.holder == named
        assert not state.child[named] & (LISTENS | RINGS)
