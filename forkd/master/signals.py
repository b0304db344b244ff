"""The signals of the contract, as a table: what each does to the master.

The master's handlers and docs/reference/signals.md are made from it. `does` names an entry of
master/operator.py.
"""

from __future__ import annotations

import signal
from typing import NamedTuple


class SignalRow(NamedTuple):
    number: signal.Signals
    does: str
    help: str


SIGNALS: tuple[SignalRow, ...] = (
    SignalRow(
        signal.SIGTERM, "stop",
        "Stop gracefully: accept what already waits, finish the requests in flight, end.",
    ),
    SignalRow(signal.SIGINT, "quit", "Stop at once: requests in flight are lost."),
    SignalRow(signal.SIGQUIT, "quit", "As SIGINT."),
    SignalRow(
        signal.SIGHUP, "reload",
        "Reload: a new generation of workers with new code and configuration; the old one retires "
        "when the new one is ready.",
    ),
    SignalRow(signal.SIGUSR1, "reopen", "Reopen the log files, after they were rotated."),
    SignalRow(
        signal.SIGUSR2, "upgrade",
        "Have a newly installed forkd take over, with the same sockets.",
    ),
    SignalRow(
        signal.SIGWINCH, "pause",
        "Retire all workers and keep the master; SIGHUP, SIGTTIN or `forkd scale` bring them back. As the "
        "next two, only where a process sent it, and not a terminal.",
    ),
    SignalRow(signal.SIGTTIN, "more", "One worker more."),
    SignalRow(signal.SIGTTOU, "fewer", "One worker fewer."),
    SignalRow(signal.SIGIO, "ring", "From the kernel: a client waits in an accept queue."),
    SignalRow(
        signal.SIGCHLD, "reap",
        "From the kernel: a process ended. Workers are watched by pidfd; this is for strangers, "
        "as PID 1.",
    ),
)  # fmt: skip
