"""Rows of the fault matrix: connections that last, WebSockets and event streams, when their workers end."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable

from . import lasting
from .conftest import alive, processes_of, until
from .lasting import RESET, Lasting, lost
from .trial import Trial, descriptors, kill, resident

WORKERS = 2
RESTART = 1012


def lasting_reloads(trial: Trial) -> None:
    """HUP again and again: WebSockets end with 1012, event streams are whole, nothing is lost."""
    with _clients(trial, WORKERS) as clients:
        for _ in range(trial.times(20, 2)):
            _replace(trial, lambda: trial.service.signal(signal.SIGHUP))
    _judge(trial, clients)


def lasting_upgrades(trial: Trial) -> None:
    """The same for a new master."""
    with _clients(trial, WORKERS) as clients:
        for _ in range(trial.times(10, 1)):
            _replace(trial, lambda: trial.service.ok("upgrade"))
    _judge(trial, clients)


def lasting_scale(trial: Trial) -> None:
    """The same for workers that are too many."""
    service = trial.service
    with _clients(trial, 3) as clients:
        for _ in range(trial.times(10, 1)):
            before = service.worker_pids()
            service.ok("scale", "1")
            until(lambda before=before: sum(map(alive, before)) == 1, "two have gone", 60)
            service.ok("scale", "3")
            trial.settled(3)
    _judge(trial, clients)


def lasting_recycle(trial: Trial) -> None:
    """The same for workers that are worn: each handshake and each stream is a request."""
    service = trial.service
    with _clients(trial, WORKERS, "--max-requests", "20") as clients, trial.crowd(2, 2):
        wanted = trial.times(50, 3)
        name = "forkd_worker_exits_total"
        until(lambda: service.metric(name, reason="max-requests") >= wanted, "they are replaced", 20 * wanted)
    _judge(trial, clients)


def lasting_stop(trial: Trial) -> None:
    """A stop: all are told, and nothing has to be cut that is quiet."""
    service = trial.service
    with _clients(trial, WORKERS, again=False, chatty=0, bursts=20) as clients:
        began = time.monotonic()
        service.signal(signal.SIGTERM)
        until(lambda: not processes_of(service.name), "gone", 60)
        trial.note("gone after", f"{time.monotonic() - began:.1f} s")
        until(lambda: len(clients.ends) == 40 and clients.streams.total() == 5, "each has seen its end")
    _judge(trial, clients)
    trial.require("answers cut" not in service.log(), "none was cut")


def lasting_kills(trial: Trial) -> None:
    """SIGKILL to a worker: its clients see a reset, come back, and no others notice anything."""
    service, chance = trial.service, trial.chance
    service.expected_errors = ["SIGKILL"]
    with _clients(trial, WORKERS) as clients:
        for _ in range(trial.times(100, 4)):
            before = len(clients.ends)
            kill(chance.choice(service.worker_pids()))
            trial.settled(WORKERS)
            until(lambda: len(clients.open) >= 40, "all are back", 30)
            time.sleep(chance.uniform(0, 0.1))  # the instant is what is random
            trial.note("ended by the last", len(clients.ends) - before)
    _judge(trial, clients, {RESET})


def lasting_soak(trial: Trial) -> None:
    """500 WebSockets and 20 event streams; HUP and SIGKILL now and then: nothing grows."""
    service, chance = trial.service, trial.chance
    service.expected_errors = ["SIGKILL"]
    with _clients(trial, WORKERS, idle=380, bursts=100, chatty=20, streams=20) as clients:
        _replace(trial, lambda: service.signal(signal.SIGHUP))
        until(lambda: len(clients.open) >= 500, "all are back", 60)
        before = _size(trial)
        end = time.monotonic() + trial.seconds(1200, 20)
        counts = {"reloads": 0, "kills": 0}
        while time.monotonic() < end:
            if chance.random() < 0.5:
                _replace(trial, lambda: service.signal(signal.SIGHUP))
                counts["reloads"] += 1
            else:
                kill(chance.choice(service.worker_pids()))
                trial.settled(WORKERS)
                counts["kills"] += 1
            until(lambda: len(clients.open) >= 500, "all are back", 60)
        # A worker of the same age, with as many connections.
        _replace(trial, lambda: service.signal(signal.SIGHUP))
        until(lambda: len(clients.open) >= 500, "all are back", 60)
        after = _size(trial)
    for name, count in counts.items():
        trial.note(name, count)
    _judge(trial, clients, {RESET, RESTART})
    service.settles(0, "forkd_websockets")
    service.settles(0, "forkd_requests_in_flight")
    service.settles(0, "forkd_requests_suspended")
    tasks = [int(line) for line in (service.dir / "tasks").read_text().split()]
    trial.note("tasks left", f"{max(tasks)} in {len(tasks)} workers")
    trial.require(max(tasks) <= 2, f"tasks besides lifespan's and that which ends it: {max(tasks)}")
    master, workers = ((after[of] - before[of]) / (1 << 20) for of in (0, 1))
    trial.note("memory", f"{master:+.1f} MiB of the master, {workers:+.1f} of the workers")
    trial.note("descriptors", f"{before[2]} → {after[2]}")
    trial.require(master < 4, f"the master grew by {master:.1f} MiB")
    trial.require(workers < 4 * WORKERS, f"the workers grew by {workers:.1f} MiB")
    trial.require(after[2] <= before[2] + 4, f"descriptors: {before[2]} before, {after[2]} after")


def _clients(
    trial: Trial, workers: int, *flags: str, chatty: int = 5, bursts: int = 15, idle: int = 20,
    streams: int = 5, again: bool = True, grace: str = "5",
) -> Lasting:  # fmt: skip
    service = trial.service
    service.asgi = False
    service.write_app(lasting.APP)
    times = ["--graceful-timeout", grace, "--drain-spread", "1"]
    trial.start("-w", str(workers), *times, "--worker-connections", "2000", *flags)
    return Lasting(
        service.address, chatty=chatty, bursts=bursts, idle=idle, streams=streams, again=again
    )


def _replace(trial: Trial, how: Callable[[], object]) -> None:
    """Until all workers are others."""
    before = trial.service.worker_pids()
    how()
    until(lambda: not any(map(alive, before)), "the workers have gone", 60)


def _size(trial: Trial) -> tuple[int, int, int]:
    """Bytes of the master, bytes of the workers, and the descriptors of all."""
    master, workers = trial.service.pid, trial.service.worker_pids()
    return resident(master), sum(map(resident, workers)), sum(map(descriptors, (master, *workers)))


def _judge(trial: Trial, clients: Lasting, codes: set[int] | None = None) -> None:
    """`codes`: with which WebSockets may have ended."""
    service, codes = trial.service, codes or {RESTART}
    found = clients.codes()
    trial.note("closed", ", ".join(f"{code}: {count}" for code, count in sorted(found.items())))
    trial.note("sent", sum(end.sent for end in clients.ends))
    trial.note("echoed", sum(end.echoed for end in clients.ends))
    trial.note("streams", ", ".join(f"{end}: {count}" for end, count in sorted(clients.streams.items())))
    trial.note("events", clients.events)
    trial.require(not clients.wrong, f"wrong: {clients.wrong[:3]}")
    trial.require(set(found) <= codes, f"the codes are {dict(found)}")
    trial.require(found, "none was closed")
    trial.require(RESET in codes or set(clients.streams) <= {"clean"}, f"streams: {dict(clients.streams)}")
    missing: list[str] = []

    def all_noted() -> bool:
        missing[:] = lost(clients.ends, service.dir / "ends", {RESTART})
        return not missing

    with contextlib.suppress(AssertionError):
        until(all_noted, "applications have noted the last ones")
    trial.note("lost", len(missing))
    trial.require(not missing, f"lost: {missing[:3]}")
