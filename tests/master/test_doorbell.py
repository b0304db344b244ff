"""Whom the master grants the lease while the accept queue has waiters."""

from __future__ import annotations

import pytest

from forkd.master.doorbell import Candidate, Verdict, judge
from forkd.system.lease import FULL, NOBODY

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
