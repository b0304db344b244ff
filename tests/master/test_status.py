"""The word for the state of the service, and the sentence of /readyz."""

from __future__ import annotations

from typing import Any

import pytest

from forkd.master import plan
from forkd.master.phase import Phase
from forkd.master.status import Facts, agent, state, why_not_ready

LOOP = plan.Backoff(crashes=plan.BREAKER_CRASHES, not_before=107.2)
USUAL = Facts(
    phase=Phase.SERVING, backoff=plan.Backoff(), reloading=False, paused="", fixed=False,
    want=2, ready=2, new=2, full=[None, None], unreachable="", now=100.0,
)  # fmt: skip
CRASHES = "5 children in a row crashed, next try in 7 s"
PAUSED = "no workers since SIGWINCH: clients wait; SIGHUP, SIGTTIN or `forkd scale N` brings workers back"
SCALED = "no workers since a scale to 0: clients wait; SIGTTIN or `forkd scale N` brings workers back"
FULL = (
    "all 2 workers have --worker-connections connections, and none is idle: "
    "clients wait in the accept queue"
)
STOPPING = "draining: the master is stopping"


@pytest.mark.parametrize(
    ("fields", "word", "sentence"),
    [
        ({}, "running", ""),
        ({"phase": Phase.STARTING, "ready": 0, "new": 0}, "starting", "0 of 2 workers are ready"),
        ({"phase": Phase.INHERITING, "ready": 1, "new": 1}, "starting", "1 of 2 workers are ready"),
        ({"phase": Phase.LAME_DUCK}, "stopping", STOPPING),
        ({"phase": Phase.STOPPING, "backoff": LOOP, "ready": 0, "new": 0}, "stopping", STOPPING),
        ({"phase": Phase.HANDED_OVER}, "stopping", STOPPING),
        ({"reloading": True}, "reloading", ""),
        ({"reloading": True, "ready": 1}, "reloading", "1 of 2 workers are ready"),
        ({"backoff": LOOP, "ready": 1, "new": 1}, "crash-loop", CRASHES),
        ({"backoff": LOOP, "ready": 2, "new": 1}, "crash-loop", ""),  # old ones serve
        ({"backoff": LOOP}, "running", ""),  # all are there
        ({"paused": "SIGWINCH", "want": 0, "ready": 0, "new": 0}, "paused", PAUSED),
        ({"paused": "a scale to 0", "want": 0, "ready": 0, "new": 0}, "paused", SCALED),
        ({"full": [2.0, 1.5]}, "running", FULL),
        ({"full": [2.0, 0.5]}, "running", ""),
        ({"full": [2.0, None]}, "running", ""),
        ({"full": [], "want": 0, "ready": 0, "new": 0}, "running", ""),
        ({"unreachable": "it is shut"}, "running", "it is shut"),
    ],
)
def test_the_first_row_that_fits(fields: dict[str, Any], word: str, sentence: str) -> None:
    facts = USUAL._replace(**fields)
    assert (state(facts), why_not_ready(facts)) == (word, sentence)


def test_what_cannot_be_scaled_is_not_told_to() -> None:
    facts = USUAL._replace(paused="SIGWINCH", fixed=True)
    assert why_not_ready(facts) == "no workers since SIGWINCH: clients wait; SIGHUP brings workers back"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "up 100%"),
        ({"reloading": True}, "up 100%"),
        ({"ready": 3}, "up 100%"),
        ({"ready": 1}, "up 50% #1 of 2 workers are ready"),
        ({"want": 300, "ready": 1}, "up 1% #1 of 300 workers are ready"),
        ({"phase": Phase.STARTING, "ready": 0, "new": 0}, "down #0 of 2 workers are ready"),
        ({"phase": Phase.LAME_DUCK}, f"up 0% #{STOPPING}"),
        ({"phase": Phase.HANDED_OVER, "ready": 0}, f"up 0% #{STOPPING}"),
        ({"backoff": LOOP, "ready": 1, "new": 1}, f"up 50% #{CRASHES}"),
        ({"paused": "SIGWINCH", "want": 0, "ready": 0, "new": 0}, f"down #{PAUSED}"),
        ({"full": [2.0, 1.5]}, f"up 1% #{FULL}"),
        ({"unreachable": "it is shut"}, "down #it is shut"),
    ],
)
def test_what_the_agent_says(fields: dict[str, Any], line: str) -> None:
    assert agent(USUAL._replace(**fields)) == line
