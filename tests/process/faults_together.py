"""Rows of the fault matrix: everything that may happen to a service, at random instants, together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from .clients import Crowd
from .conftest import APP, alive, processes_of, until
from .faults_death import only_victims
from .trial import Trial, connections, files, kill, resident

WORKERS = 3
KEEP, FRESH = 8, 4
#: With this, threads change between any two steps of the interpreter: in the second half of a run.
HASTY = "import sys\nsys.setswitchinterval(1e-6)\n"


def together(trial: Trial) -> None:
    """HUP, SIGKILL, SIGSTOP and SIGCONT, upgrades and scalings at random instants under load."""
    _together(trial)


def together_threads(trial: Trial) -> None:
    """The same with --threads 4."""
    _together(trial, "--threads", "4")


def _together(trial: Trial, *flags: str) -> None:
    service, chance = trial.service, trial.chance
    service.expected_errors = ["SIGKILL", "not now", "superseded"]
    trial.start("-w", str(WORKERS), *flags)
    _calm(trial)
    before, fat = _files(trial), _memory(trial)
    in_flight, counts = 0, dict.fromkeys(("reload", "kill", "stop", "upgrade", "scale"), 0)

    def reload() -> None:
        service.signal(signal.SIGHUP)

    def murder() -> None:
        nonlocal in_flight
        if victims := service.workers():
            victim = chance.choice(victims)
            # As in leaders_killed: every client without keep-alive may have come to it meanwhile.
            in_flight += min(KEEP + FRESH, victim["connections"] + FRESH)
            kill(victim["pid"])

    def stop() -> None:
        if pids := service.worker_pids():
            pid = chance.choice(pids)
            if kill(pid, signal.SIGSTOP):
                try:
                    time.sleep(chance.uniform(0, 0.2))  # how long it stands still is the fault
                finally:
                    kill(pid, signal.SIGCONT)

    def upgrade() -> None:
        before = service.pid
        if service.run("upgrade", timeout=60).returncode == 0:  # else a reload was under way
            until(lambda: not alive(before), "the old master gone", 30)

    def scale() -> None:
        service.run("scale", str(chance.randint(1, WORKERS + 2)))

    does: dict[str, Callable[[], None]] = {
        "reload": reload, "kill": murder, "stop": stop, "upgrade": upgrade, "scale": scale,
    }  # fmt: skip
    weights = [5, 10, 10, 1, 4]
    with trial.crowd(KEEP, FRESH) as crowd:
        for half in ("", HASTY):
            if half:
                source = "\n".join(line.removeprefix("    ") for line in APP.splitlines())
                service.write_app(half + source)
                service.run("reload", timeout=60)
            end = time.monotonic() + trial.seconds(450, 4)
            while time.monotonic() < end:
                [what] = chance.choices(list(does), weights)
                does[what]()
                counts[what] += 1
                time.sleep(chance.uniform(0, 0.2))  # the instant is what is random
        crowd.more(50, 30)
    _calm(trial)
    after = _files(trial)
    deadline = time.monotonic() + 10  # the master closes in its own time what the clients have left
    while not (flat := _flat(before, after)) and time.monotonic() < deadline:
        time.sleep(0.01)
        after = _files(trial)
    grown = (_memory(trial) - fat) / (1 << 20)
    for name, count in counts.items():
        trial.note(f"{name}s", count)
    trial.note("answered", crowd.count("answered"))
    trial.note("lost", f"{crowd.failed} of at most {in_flight} in flight at {counts['kill']} victims")
    trial.require(crowd.failed <= in_flight, f"{crowd.failed} lost: {crowd.failures[:5]}")
    only_victims(trial, crowd)
    trial.stall(crowd, p99=2.0, most=10.0)
    held, left = ([len(each) for each in files] for files in (before, after))
    trial.note("descriptors", f"{held} → {left}")
    trial.require(
        flat,
        f"descriptors of master and workers: {held} before, {left} after; the last ones' were {before[-1]} "
        f"and are {after[-1]}",
    )
    trial.note("memory", f"{grown:+.1f} MiB")
    trial.require(grown < 6 * (WORKERS + 1), f"master and workers grew by {grown:.1f} MiB")


def _flat(before: list[list[str]], after: list[list[str]]) -> bool:
    return all(len(now) <= len(then) for then, now in zip(before, after, strict=True))


def _calm(trial: Trial) -> None:
    """New workers, as many as in the beginning, that have served a crowd which has left."""
    service = trial.service
    until(lambda: service.run("reload", timeout=60).returncode == 0, "a reload", 60)
    service.ok("scale", str(WORKERS))
    trial.sound(WORKERS)
    for address in (service.address, trial.unix):
        with Crowd(address, keep=KEEP, fresh=FRESH) as crowd:
            crowd.more(500, 30)
    until(lambda: not sum(w["connections"] for w in service.workers()), "all clients have left")


def _pids(trial: Trial) -> list[int]:
    pids = [trial.service.pid, *sorted(trial.service.worker_pids())]
    assert set(pids) <= set(processes_of(trial.service.name)), os.listdir("/proc")
    return pids


def _memory(trial: Trial) -> int:
    """Bytes of master and workers together."""
    return sum(map(resident, _pids(trial)))


def _files(trial: Trial) -> list[list[str]]:
    """What the descriptors of master and workers are, the process that has the fewest first; without the
    master's connection to whoever has just asked it for its workers, which it closes in its own time."""
    pids = _pids(trial)
    asking = connections(trial.service)
    found = [[file for file in files(pid) if file not in asking] for pid in pids]
    return sorted(found, key=len)
