"""Rows of the fault matrix: workers killed at full load, and the books afterwards (ids.py)."""

from __future__ import annotations

from . import ids
from .conftest import children_of, until
from .trial import Trial

WORKERS = 2


def killed_at_full_load(trial: Trial) -> None:
    """SIGKILL at random instants: each request has exactly one line and one count."""
    _killed(trial)


def killed_with_threads(trial: Trial) -> None:
    """The same with --threads 4, where the model has threads."""
    _killed(trial, *([] if trial.dispatched else ["--threads", "4"]))


def _killed(trial: Trial, *flags: str) -> None:
    service, access = trial.service, trial.service.dir / "access.log"
    service.expected_errors = ["SIGKILL"]
    service.write_app(ids.APP)
    trial.start("-w", str(WORKERS), "--access-log", str(access), *flags)
    forks = trial.model == "process-per-connection"

    def victims() -> list[int]:
        workers = service.worker_pids()
        return [pid for worker in workers for pid in children_of(worker)] if forks else workers

    load = ids.Load(service)
    try:
        until(lambda: load.answered > 100, "a load")
        kills = ids.kill_at_random(victims, trial.times(1000, 30), trial.chance)
    finally:
        load.end()
    codes = ids.audit(service, access)
    trial.note("kills", kills)
    trial.note("answered", load.answered)
    trial.note("by code", ", ".join(f"{code}: {count}" for code, count in sorted(codes.items())))
    trial.require(codes[502] > 0, "none was in flight when a worker was killed")
    trial.require(set(codes) <= {200, 499, 502}, f"the codes are {dict(codes)}")
    # One whose worker was killed between its answer and its line is a 502, and its client has a 200.
    trial.require(load.answered <= codes[200] + codes[502], f"{load.answered} were answered")
