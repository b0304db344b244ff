"""A row of the fault matrix: signals in any order, to the master and to its workers."""

from __future__ import annotations

import functools
import signal
import time

from .clients import Crowd
from .conftest import alive, command_line, processes_of, until
from .trial import Trial, family, kill

WORKERS = 3
#: To the master, with how often each comes. KILL and STOP have rows of their own.
TO_MASTER = {
    signal.SIGHUP: 30, signal.SIGUSR1: 20, signal.SIGTTIN: 20, signal.SIGTTOU: 20,
    signal.SIGIO: 20, signal.SIGCHLD: 20, signal.SIGWINCH: 5, signal.SIGUSR2: 4,
    signal.SIGTERM: 1, signal.SIGINT: 1, signal.SIGQUIT: 1,
}  # fmt: skip
#: To a worker: those that change nothing there, and some that end it.
TO_WORKER = {
    signal.SIGHUP: 10, signal.SIGUSR1: 10, signal.SIGUSR2: 10, signal.SIGWINCH: 10,
    signal.SIGTTIN: 10, signal.SIGTTOU: 10, signal.SIGIO: 10, signal.SIGINT: 10,
    signal.SIGQUIT: 10, signal.SIGTERM: 5, signal.SIGKILL: 5,
}  # fmt: skip
_END = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def random_signals(trial: Trial) -> None:
    """Whatever came, the service is whole after it, or has ended as it was told to."""
    service, chance = trial.service, trial.chance
    service.expected_errors = [
        "SIGKILL", "not now", "upgrade failed", "SIGTT(IN|OU): ", "reload failed",
        r"gone: (boot|error)", "gone: (reload|scale-down|stop)",  # killed while they retired
    ]  # fmt: skip
    start = functools.partial(trial.start, "-w", str(WORKERS), "--graceful-timeout", "5")
    start()
    starts, count = 1, trial.times(2000, 100)
    with Crowd(trial.unix, keep=1, fresh=1, timeout=2) as crowd:
        for _ in range(count):
            master = _master(trial)
            if master and chance.random() < 0.7:
                [number] = chance.choices(list(TO_MASTER), TO_MASTER.values())
                kill(master, number)
                if number in _END:
                    # More may come while it ends, but it has to end.
                    kill(master, chance.choice(list(TO_MASTER)))
                    until(lambda pid=master: not alive(pid), f"{number.name} is obeyed", 30)
            elif master and (children := _workers(master)):
                [number] = chance.choices(list(TO_WORKER), TO_WORKER.values())
                kill(chance.choice(children), number)
            elif not master:
                until(lambda: _master(trial) or not processes_of(service.name), "ended", 30)
                if not _master(trial):
                    start()
                    starts += 1
            # Some come together, and some when the one before was dealt with.
            time.sleep(chance.choice((0, 0.001, 0.01, 0.1)))
        until(lambda: _master(trial) or not processes_of(service.name), "ended, or serving", 30)
        if not _master(trial):
            start()
        # From any state there is one way back: what is configured, whole.
        until(lambda: service.run("reload").returncode == 0, f"reload: {service.log()[-2000:]}", 60)
        service.ok("scale", str(WORKERS))  # a reload keeps what TTIN and TTOU have made of it
        trial.sound(WORKERS)
    trial.note("signals", count)
    trial.note("starts", starts)
    trial.note("answered", crowd.asked)
    trial.require(not crowd.count("wrong"), f"wrong answers: {crowd.failures[:5]}")


def _workers(master: int) -> list[int]:
    """Its children, but for a new master that an upgrade has started: it has no handlers yet."""
    return [pid for pid in family(master)[1:] if command_line(pid).startswith("forkd: ")]


def _master(trial: Trial) -> int:
    """The pid of the serving master, or 0."""
    try:
        pid = trial.service.pid
    except (FileNotFoundError, ValueError):
        return 0
    return pid if alive(pid) else 0
