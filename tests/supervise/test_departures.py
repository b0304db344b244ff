"""What a crash means for the children after it."""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from forkd.supervise import plan
from forkd.supervise.departures import Departures


@pytest.mark.parametrize(("served", "crashes"), [(None, 1), (1.0, 1), (plan.SETTLED + 1, 0)])
def test_only_a_crash_soon_after_its_start_delays_the_next_child(
    served: float | None, crashes: int
) -> None:
    master: Any = SimpleNamespace(
        generation=SimpleNamespace(number=1),
        reloader=SimpleNamespace(incoming=None),
        served=True,
        backoff=plan.Backoff(),
        last_error="",
    )
    ready = None if served is None else monotonic() - served
    child = SimpleNamespace(generation=1, slot=3, error=None, ready=ready)
    departure: Any = SimpleNamespace(child=child, reason="SIGSEGV")
    Departures(master).crashed(departure)
    assert master.backoff.crashes == crashes
    assert master.last_error == "worker 3 ended by SIGSEGV"
