"""How many children a MIN:MAX service has: up with waiters, down with patience."""

from __future__ import annotations

from itertools import pairwise

import pytest

from forkd.master.scaling import Demand, grow, shrink


@pytest.mark.parametrize(
    ("want", "most", "starting", "expected"),
    [
        (0, 2, 0, 1),  # on demand: the first child
        (1, 4, 0, 2),
        (3, 4, 0, 4),
        (4, 4, 0, 4),  # never above MAX
        (1, 4, 1, 1),  # who was asked for is not there yet
        (0, 2, 1, 0),
        (8, 9, 0, 9),
    ],
)
def test_grow(want: int, most: int, starting: int, expected: int) -> None:
    assert grow(want, most, starting) == expected


def test_growing_reaches_the_limit_and_stays() -> None:
    want, seen = 0, []
    for _ in range(100):
        want = grow(want, 50, 0)
        seen.append(want)
    assert seen == sorted(seen)
    assert want == 50


def test_shrinks_only_after_all_of_the_patience() -> None:
    demand, want, now, history = Demand(), 4, 0.0, []
    while now < 40:
        want, demand = shrink(want, 1, 0, demand, now, 10.0)
        history.append((now, want))
        now += 1.0
    drops = [t for (t, w), (_, before) in zip(history[1:], history, strict=False) if w < before]
    assert len(drops) == 3
    assert drops[0] >= 10
    assert all(b - a >= 10 for a, b in pairwise(drops))
    assert want == 1


@pytest.mark.parametrize(("want", "least", "busy"), [(2, 2, 0), (1, 1, 0), (3, 1, 3), (3, 1, 5)])
def test_never_below_the_minimum_nor_while_all_are_busy(want: int, least: int, busy: int) -> None:
    demand = Demand(0.0)
    got, demand = shrink(want, least, busy, demand, 1000.0, 1.0)
    assert got == want
    assert demand == Demand()


def test_a_busy_moment_starts_the_calm_anew() -> None:
    want, demand = shrink(3, 1, 0, Demand(), 0.0, 10.0)
    want, demand = shrink(want, 1, 3, demand, 5.0, 10.0)
    want, demand = shrink(want, 1, 0, demand, 6.0, 10.0)
    want, demand = shrink(want, 1, 0, demand, 12.0, 10.0)
    assert want == 3
    want, demand = shrink(want, 1, 0, demand, 16.0, 10.0)
    assert want == 2


def test_to_none_when_the_minimum_is_none() -> None:
    assert shrink(1, 0, 0, Demand(0.0), 100.0, 10.0)[0] == 0
