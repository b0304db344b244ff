"""How many connections a leader takes at a time: decisions, in no process."""

from __future__ import annotations

import pytest

from forkd.engine.batch import BRIEF_SECONDS, MAX_CONNECTIONS, RUN_CONNECTIONS, SLOW_SECONDS, Batch


def grown() -> Batch:
    batch = Batch()
    while batch.size < MAX_CONNECTIONS:
        batch.served(batch.size, 0.0, 0)
    return batch


def test_one_at_first() -> None:
    assert Batch().size == 1


def test_more_after_many_that_were_brief() -> None:
    batch = Batch()
    for _ in range(RUN_CONNECTIONS - 1):
        batch.served(1, 0.0, 0)
        assert batch.size == 1
    batch.served(1, 0.0, 0)
    assert batch.size == 2


def test_never_more_than_the_most() -> None:
    batch = grown()
    for _ in range(10 * RUN_CONNECTIONS):
        batch.served(MAX_CONNECTIONS, 0.0, 0)
    assert batch.size == MAX_CONNECTIONS


def test_one_that_is_slow_ends_it_at_once() -> None:
    batch = grown()
    batch.served(MAX_CONNECTIONS, 2 * SLOW_SECONDS, 0)
    assert batch.size == 1


@pytest.mark.parametrize(("seconds", "held"), [(2 * BRIEF_SECONDS, 0), (0.0, 2 * MAX_CONNECTIONS)])
def test_what_takes_a_while_or_stays_makes_it_less(seconds: float, held: int) -> None:
    batch = grown()
    for _ in range(10 * RUN_CONNECTIONS):
        batch.served(batch.size, seconds, held)
    assert batch.size == 1


def test_a_processor_that_is_needed_elsewhere_now_and_then_changes_nothing() -> None:
    batch = grown()
    for _ in range(RUN_CONNECTIONS):
        batch.served(batch.size, 2 * BRIEF_SECONDS, 0)
        for _ in range(20):
            batch.served(batch.size, 0.0, 0)
    assert batch.size >= MAX_CONNECTIONS - 1
