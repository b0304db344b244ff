"""Rows of the fault matrix: processes that die or stand still."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from .conftest import alive, children_of, until
from .trial import Crowds, Trial, family, gone, kill

WORKERS = 4
KEEP, FRESH = 12, 4
#: Age at which the crash of a worker is no part of a series any more, seconds (master/plan.py).
_CALM = 6.0


def leaders_killed(trial: Trial) -> None:
    """SIGKILL to the leader at random instants; under models without one, to any worker."""
    service, kills = trial.service, trial.times(1000, 20)
    service.expected_errors = ["SIGKILL"]
    trial.start("-w", str(WORKERS))
    in_flight = 0
    with trial.crowd(KEEP, FRESH) as crowd:
        for _ in range(kills):
            before, victim = crowd.count("answered"), _victim(trial)
            time.sleep(trial.chance.uniform(0, 0.03))  # the instant is what is random
            # A client has one request in flight at most, wherever it is connected; while this was
            # found out, every client without keep-alive may have come to the victim.
            in_flight += min(KEEP + FRESH, victim["connections"] + FRESH)
            kill(victim["pid"])
            until(lambda pid=victim["pid"]: pid not in service.worker_pids(), "the victim gone", 30)
            until(lambda before=before: crowd.count("answered") > before, "service goes on")
        crowd.more(50)
    trial.sound(WORKERS)
    trial.note("kills", kills)
    trial.note("answered", crowd.count("answered"))
    trial.stall(crowd, p99=0.1, most=1.0)
    trial.note("lost", f"{crowd.failed} of at most {in_flight} in flight")
    trial.require(crowd.failed <= in_flight, f"{crowd.failed} lost")
    only_victims(trial, crowd)


def leaders_stopped(trial: Trial) -> None:
    """SIGSTOP to the leader: another accepts, within the lease time."""
    service = trial.service
    trial.start("-w", str(WORKERS))
    stalls, held = [], []
    for _ in range(trial.times(50, 5)):
        leader = service.leader()["pid"]
        os.kill(leader, signal.SIGSTOP)
        try:
            for _ in range(5):  # the first may be one that the leader took before it stood still
                began = time.monotonic()
                service.get(timeout=5)
                stalls.append(time.monotonic() - began)
            held.append(leader)
        finally:
            os.kill(leader, signal.SIGCONT)
        until(lambda leader=leader: leader in service.worker_pids(), "it goes on")
    trial.sound(WORKERS)
    trial.note("stops", len(held))
    trial.note("longest until accepted", f"{max(stalls) * 1e3:.1f} ms")
    trial.require(max(stalls) < 0.1, f"it took {max(stalls):.3f} s to accept")


def all_killed(trial: Trial) -> None:
    """SIGKILL to all workers at once: connections wait, and are served by new workers."""
    service, pauses = trial.service, []
    service.expected_errors = ["SIGKILL"]
    trial.start("-w", str(WORKERS))
    rounds = trial.times(20, 2)
    with trial.crowd(KEEP, FRESH) as crowd:
        for _ in range(rounds):
            trial.settled(WORKERS)
            victims = family(service.pid)[1:]
            began = time.monotonic()
            for pid in victims:
                kill(pid)
            until(lambda victims=victims: not any(map(alive, victims)), "all dead")
            service.get(timeout=20)  # over a new connection, which no dead worker has answered
            pauses.append(time.monotonic() - began)
    trial.sound(WORKERS)
    trial.note("rounds", rounds)
    trial.note("first answer after", f"{max(pauses) * 1e3:.0f} ms")
    trial.note("refused", crowd.count("refused"))
    trial.note("reset", crowd.count("reset"))
    trial.require(max(pauses) < 1, f"the first answer came after {max(pauses):.2f} s")
    trial.require(crowd.failed <= rounds * (KEEP + FRESH), f"{crowd.failed} lost")
    only_victims(trial, crowd)


def master_killed(trial: Trial) -> None:
    """SIGKILL to the master while workers wait, serve, and hold the GIL in C."""
    service, ends = trial.service, []
    trial.start("-w", str(WORKERS))
    port = service.address[1]
    rounds = trial.times(20, 1)
    for _ in range(rounds):
        trial.settled(WORKERS)
        clients = [service.connect() for _ in range(2)]
        for client, path in zip(clients, ("/c/60", "/sleep/60"), strict=True):
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        until(lambda: sum(w["in_flight"] for w in service.workers()) == 2, "both are busy")
        pids, began = family(service.pid), time.monotonic()
        kill(service.pid)
        trial.require(gone(pids, 2), f"left after 2 s: {[p for p in pids if alive(p)]}")
        ends.append(time.monotonic() - began)
        for client in clients:
            client.close()
        service.start(
            "-m", trial.model, "-w", str(WORKERS), "-b", f"127.0.0.1:{port}",
            "-b", f"unix:{trial.unix}",
        )  # fmt: skip
        trial.require(service.address[1] == port, "the same port is bound")
    trial.sound(WORKERS)
    trial.note("rounds", rounds)
    trial.note("all gone after", f"{max(ends) * 1e3:.0f} ms")


def master_stopped(trial: Trial) -> None:
    """SIGSTOP to the master: the workers serve on, and all is well when it comes back."""
    service = trial.service
    service.expected_errors = ["SIGKILL"]
    trial.start("-w", str(WORKERS))
    with trial.crowd() as crowd:
        end = time.monotonic() + trial.seconds(30, 3)
        os.kill(service.pid, signal.SIGSTOP)
        try:
            while time.monotonic() < end:
                crowd.more(50)
        finally:
            os.kill(service.pid, signal.SIGCONT)
        crowd.more(100)
    trial.none_failed(crowd)
    # Deaths that the master could not notice meanwhile.
    os.kill(service.pid, signal.SIGSTOP)
    victims = children_of(service.pid)[: WORKERS // 2]
    for pid in victims:
        kill(pid)
    os.kill(service.pid, signal.SIGCONT)
    until(lambda: not set(victims) & set(service.worker_pids()), "they are replaced")
    trial.sound(WORKERS)


def workers_hit(trial: Trial) -> None:
    """SIGKILL, SIGSEGV and SIGSTOP to some workers at the same instant, again and again."""
    service, rounds = trial.service, trial.times(200, 5)
    service.expected_errors = ["SIGKILL", "SIGSEGV", "crash loop", "Fatal Python error"]
    trial.start("-w", str(WORKERS))
    hit = {signal.SIGKILL: 0, signal.SIGSEGV: 0, signal.SIGSTOP: 0}
    weights = [10, 1, 10]
    with trial.crowd(KEEP, FRESH) as crowd:
        for _ in range(rounds):
            trial.settled(WORKERS, 60)
            pids = service.worker_pids()
            victims = trial.chance.sample(pids, trial.chance.randint(1, len(pids)))
            standing, crashes = set(), hit[signal.SIGSEGV]
            with contextlib.ExitStack() as stopped:
                for pid in victims:
                    [number] = trial.chance.choices(list(hit), weights)
                    hit[number] += kill(pid, number)
                    if number is signal.SIGSTOP:
                        standing.add(pid)
                        stopped.callback(kill, pid, signal.SIGCONT)
                # Clients of a worker that is stopped wait. A new one is served by another, if only by
                # one that must boot first.
                if not set(pids) <= standing and not trial.dispatched:
                    service.get()
            crowd.more(8)
            if hit[signal.SIGSEGV] > crashes:  # a series of crashes has a row of its own
                until(lambda: all(w["age"] > _CALM for w in service.workers()), "calm", 30)
    trial.sound(WORKERS)
    for number, count in hit.items():
        trial.note(number.name, count)
    trial.note("answered", crowd.count("answered"))
    trial.note("reset", crowd.count("reset"))
    trial.require(crowd.failed <= rounds * (KEEP + FRESH), f"{crowd.failed} lost")
    only_victims(trial, crowd)


def _victim(trial: Trial) -> dict[str, int]:
    if trial.model == "leader-followers":
        return trial.service.leader()
    return trial.chance.choice(until(trial.service.workers, "a worker"))


def only_victims(trial: Trial, crowd: Crowds) -> None:
    """A worker that dies resets its connections. Nothing else may be seen of it."""
    for fate in ("refused", "lost", "wrong"):
        texts = [text for text in crowd.failures if text.startswith(fate)]
        trial.require(not crowd.count(fate), f"{fate}: {texts[:3]}")
