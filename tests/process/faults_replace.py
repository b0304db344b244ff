"""Rows of the fault matrix: what an operator does to a service that is in use."""

from __future__ import annotations

import signal
import socket
import time

from .conftest import alive, processes_of, until
from .trial import Trial, descriptors, kill, resident

WORKERS = 4


def reloads(trial: Trial) -> None:
    """HUP every second, then 50 a second, at keep-alive load."""
    service = trial.service
    trial.start("-w", str(WORKERS))
    service.ok("reload")  # the baseline is that of a service that has reloaded before
    trial.sound(WORKERS)
    held, fat = descriptors(service.pid), resident(service.pid)
    generation = service.live()["master"]["generation"]
    hups = 0
    with trial.crowd(keep=6, fresh=2) as crowd:
        for span, gap in ((60, 1.0), (10, 0.02)):
            end = time.monotonic() + trial.seconds(span, 2)
            while time.monotonic() < end:
                service.signal(signal.SIGHUP)
                hups += 1
                time.sleep(gap)  # the rate is the fault
        crowd.more(100)
    trial.sound(WORKERS)
    left = until(
        lambda: (now := descriptors(service.pid)) <= held and now, f"descriptors back at {held}"
    )
    grown = (resident(service.pid) - fat) / (1 << 20)
    trial.note("signals", hups)
    trial.note("reloads", service.live()["master"]["generation"] - generation)
    trial.none_failed(crowd)
    trial.note("descriptors", f"{held} → {left}")
    trial.note("master's memory", f"{grown:+.1f} MiB")
    trial.require(grown < 2, f"the master grew by {grown:.1f} MiB")


def upgrades(trial: Trial) -> None:
    """Upgrades under load; one in five is to a version that cannot be imported."""
    service = trial.service
    service.expected_errors = ["upgrade failed", "broken on purpose", "Traceback", "gone: boot"]
    trial.start("-w", "2")
    broken = 0
    with trial.crowd() as crowd:
        for number in range(1, trial.times(50, 5) + 1):
            breaks, before = number % 5 == 0, service.pid
            if breaks:
                service.write_app("raise LookupError('broken on purpose')")
                broken += 1
            done = service.run("upgrade", timeout=60)
            trial.require(done.returncode == breaks, f"upgrade {number}: {done.stderr}")
            if breaks:
                trial.require(service.pid == before and alive(before), "the old master goes on")
                service.write_app()
            else:
                until(lambda before=before: not alive(before), "the old master gone", 30)
            crowd.more(20)
    trial.sound(2)
    trial.note("upgrades", number)
    trial.note("broken", broken)
    trial.none_failed(crowd)


def worn(trial: Trial) -> None:
    """--max-requests 200 at full load: workers are replaced all the time."""
    service = trial.service
    trial.start("-w", str(WORKERS), "--max-requests", "200")
    fewest, samples = WORKERS, 0
    end = time.monotonic() + trial.seconds(60, 4)
    with trial.crowd() as crowd:
        while time.monotonic() < end:
            fewest = min(fewest, len(service.workers()))
            samples += 1
    until(lambda: len(service.workers()) == WORKERS, "all workers")
    trial.note("replaced", int(service.metric("forkd_worker_exits_total", reason="max-requests")))
    trial.none_failed(crowd)
    trial.note("fewest ready", f"{fewest} of {WORKERS} in {samples} samples")
    trial.require(fewest >= WORKERS, f"only {fewest} workers were ready")


def stop_with_a_queue(trial: Trial) -> None:
    """TERM while 200 connections wait in the accept queue behind busy workers."""
    service, waiting = trial.service, 200
    trial.start("-w", "2")
    busy = [service.connect(30) for _ in range(4)]
    for client in busy:
        client.sendall(b"GET /sleep/1 HTTP/1.1\r\nHost: a\r\n\r\n")
    until(lambda: sum(w["in_flight"] for w in service.workers()) >= 2, "both are busy")
    clients: list[socket.socket] = []
    for number in range(waiting):
        client = service.connect(30)
        client.sendall(f"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: {number}\r\n\r\n".encode())
        clients.append(client)
    queued = service.live()["listeners"][0]["accept_queue"]
    began = time.monotonic()
    kill(service.pid, signal.SIGTERM)
    answered = 0
    for number, client in enumerate(clients):
        with client, client.makefile("rb") as stream:
            answered += f"x-request-id: {number}\r\n" in stream.read().decode().lower()
    until(lambda: not processes_of(service.name), "gone", 30)
    for client in busy:
        with client:
            trial.require(b" 200 " in client.recv(1000), "a request in flight was answered")
    trial.note("in the queue", queued)
    trial.note("answered", f"{answered} of {waiting}")
    trial.note("gone after", f"{time.monotonic() - began:.1f} s")
    enough = trial.dispatched or queued >= waiting // 2  # or they wait in the workers' queues
    trial.require(enough, f"only {queued} waited in the queue")
    trial.require(answered == waiting, f"{waiting - answered} were not answered")
