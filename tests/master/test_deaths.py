"""What a crash means for the children after it."""

from __future__ import annotations

from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from forkd.master import deaths as departures
from forkd.master import plan
from forkd.master.deaths import Delay, DelayIncoming, Facts, FailReload, GiveUp, Nothing

NOW = 100.0


def facts(**fields: Any) -> Facts:
    """Generation 1 serves."""
    usual = Facts(1, None, False, plan.Backoff(), plan.Backoff(), NOW)
    return usual._replace(**fields)


@pytest.mark.parametrize(("served", "crashes"), [(None, 1), (1.0, 1), (plan.SETTLED_SECONDS + 1, 0)])
def test_only_a_crash_soon_after_its_start_delays_the_next_child(
    served: float | None, crashes: int
) -> None:
    now = monotonic()
    ready = None if served is None else now - served
    child: Any = SimpleNamespace(generation=1, slot=3, error=None, ready=ready)
    error = departures.error_of(SimpleNamespace(child=child, reason="SIGSEGV"))  # type: ignore[arg-type]
    assert error == "worker 3 ended by SIGSEGV"
    verdict = departures.crashed(child, error, facts(now=now))
    backoff = verdict.backoff if isinstance(verdict, Delay) else plan.Backoff()
    assert backoff.crashes == crashes


def test_what_fails_is_the_reload_the_start_or_only_the_next_child() -> None:
    assert departures.failed(2, "no", facts(incoming=2)) == FailReload("no")
    assert departures.failed(2, "no", facts(incoming=2, booting=True)) == FailReload("no")
    assert departures.failed(1, "no", facts(booting=True)) == GiveUp("no")
    assert departures.failed(1, "no", facts()) == Delay(plan.Backoff(1, NOW, "no"))
    assert departures.failed(7, "no", facts()) == Nothing()


def test_who_is_killed_while_it_boots_is_tried_again_and_not_for_ever_at_a_start() -> None:
    tried = plan.Backoff(waits=plan.BREAKER_CRASHES - 1)
    assert departures.killed(1, "no", facts()) == Delay(plan.Backoff(0, NOW, "no", 1))
    found = departures.killed(1, "no", facts(backoff=tried))
    assert isinstance(found, Delay) and found.backoff.waits == plan.BREAKER_CRASHES
    assert departures.killed(1, "no", facts(backoff=tried, booting=True)) == GiveUp(
        "5 times in a row: no"
    )
    first = departures.killed(2, "no", facts(incoming=2))
    assert first == DelayIncoming(plan.Backoff(0, NOW, "no", 1))
    last = departures.killed(2, "no", facts(incoming=2, incoming_backoff=tried))
    assert last == FailReload("5 times in a row: no")
    assert departures.killed(7, "no", facts(incoming=2)) == Nothing()


@pytest.mark.parametrize(("line", "told"), [
    ("GET / HTTP/1.1", 'it was serving "GET / HTTP/1.1" for 1.5 s'),
    ("", "its event loop had not come round for 1.5 s"),
    (None, ""),
])  # fmt: skip
def test_what_held_the_worker_is_told(line: str | None, told: str) -> None:
    nothing = dict.fromkeys(("fault", "error", "stacks", "doing", "rss_bytes", "peak_rss_bytes"))
    found = {
        **nothing, "exit_code": None, "signal": "SIGKILL", "generation": 1, "requests": 0, "request": line,
        "busy_for": 1.5, "requests_in_flight": [], "in_flight": 0,
    }  # fmt: skip
    assert "\n".join(departures._lines(found)).partition("answered\n")[2] == told
