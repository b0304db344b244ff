"""When a series of crashes is over, by the tick."""

from __future__ import annotations

from typing import Any

import pytest

from forkd.master import deaths, plan, tick
from forkd.master.children import State
from forkd.master.plan import Backoff, RetireChild, Spawn, WakeAt

from .test_plan import NOW, child, scene

CRASHED = Backoff().crashed(NOW, "boom").crashed(NOW, "boom")


@pytest.mark.parametrize(
    ("backoff", "ready", "fields", "expected"),
    [
        (CRASHED, 2, {}, True),
        (Backoff(), 2, {}, False),
        (CRASHED, 1, {}, False),
        (CRASHED, 2, {"ready": NOW - 1}, False),
        (CRASHED, 2, {"replace": "max-requests"}, True),
        # It has lost its lifespan, and waits for one that has one.
        (CRASHED, 2, {"replace": deaths.LIFESPAN}, False),
        (CRASHED, 2, {"replace": deaths.LIFESPAN, "state": State.RETIRING}, True),
    ],
)
def test_settled(backoff: Backoff, ready: int, fields: dict[str, Any], expected: bool) -> None:
    fields = {"ready": NOW - 60} | fields
    assert tick.settled(backoff, ready, 2, [child(1, **fields), child(2, ready=NOW - 60)], NOW) is expected


def test_a_child_without_its_lifespan_is_replaced_when_the_delay_is_over() -> None:
    lost = child(1, replace=deaths.LIFESPAN)
    assert plan.plan(scene(lost, child(2))) == [Spawn(1, 1)]
    late = CRASHED.crashed(NOW, "boom")
    assert late.not_before > NOW
    assert plan.plan(scene(lost, child(2), backoff=late)) == [WakeAt(late.not_before)]
    assert plan.plan(scene(lost, child(2), child(3), backoff=late)) == [RetireChild(lost, "lifespan")]
