"""The times of turns, counted by native code and by its twin."""

from __future__ import annotations

import random
from typing import Any

import pytest

import forkd.native
from forkd.system.originals import monotonic_ns
from forkd.system.turn_times import TurnTimes, make

BOUNDS = (1_000_000_000, 5_000_000_000, 20_000_000_000)
BEGAN, SUM, LATE = 0, 2, 7
LIMIT = 3_000_000_000


def test_both_count_the_same() -> None:
    if forkd.native.native is None:
        pytest.skip("no native code")
    chance = random.Random(1)
    lanes = [memoryview(bytearray(8 * 8)) for _ in range(2)]
    where = BEGAN, SUM, LATE
    counters = [make(wanted, lanes[wanted], where, BOUNDS, LIMIT) for wanted in (False, True)]
    assert type(counters[0]) is TurnTimes is not type(counters[1])
    cells = [lane.cast("q") for lane in lanes]
    expected, late = [0] * 4, 0
    for _ in range(1000):
        # Far from the bounds: the two look at the clock one after the other.
        took = chance.choice((0, 2, 4, 10, 40)) * 1_000_000_000
        began = monotonic_ns() - took
        for lane, counter in zip(cells, counters, strict=True):
            lane[BEGAN] = began
            counter.end()
        expected[sum(took > bound for bound in BOUNDS)] += 1
        late += took > LIMIT
    for lane in cells:
        assert lane[SUM + 1 : SUM + 5].tolist() == expected
        assert lane[LATE] == late
    assert abs(cells[0][SUM] - cells[1][SUM]) < 0.01 * cells[1][SUM]
    for lane, counter in zip(cells, counters, strict=True):  # there is no turn
        lane[BEGAN] = 0
        before = lane.tolist()
        counter.end()
        assert lane.tolist() == before


@pytest.mark.parametrize("wrong", [{"began": 8}, {"sum": 4}, {"sum": -1}, {"late": 8}, {"began": -1}])
def test_native_code_writes_within_the_lane(wrong: dict[str, Any]) -> None:
    if forkd.native.native is None:
        pytest.skip("no native code")
    right: dict[str, Any] = {"began": BEGAN, "sum": SUM, "late": LATE, "bounds": BOUNDS, "limit": LIMIT}
    memory = memoryview(bytearray(8 * 8))
    forkd.native.native.TurnTimes(memory=memory, **right)
    with pytest.raises(ValueError, match="that is no lane"):
        forkd.native.native.TurnTimes(memory=memory, **right | wrong)
