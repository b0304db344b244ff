"""Signals of the master's to the processes that it has forked."""

from __future__ import annotations

import signal
from typing import Protocol

from forkd.log.lines import Log
from forkd.system import process
from forkd.system.signal_sockets import SignalSockets


class Signalled(Protocol):
    """A process; as a string, what it is called in the log."""

    @property
    def pidfd(self) -> int: ...
    @property
    def sockets(self) -> SignalSockets: ...


def send(log: Log, to: Signalled, number: int) -> None:
    """Quiet when it has gone. A signal that is refused is a line in the log: what was to come of it does not,
    and all else goes on."""
    if not process.send_signal(to.pidfd, number, to.sockets):
        log.error(
            f"{to}: the kernel refuses to send it {_name(number)} (pidfd_send_signal(2), EPERM): it has "
            "another user's ids, for which the master needs CAP_KILL; or that call is denied here"
        )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
