"""The process that `forkd start -f` was run as, after an upgrade has made another one the master.

A container ends with its process 1, and runit, supervisord or a shell take the end of their child for
the end of the service. So this process stays: it passes signals on to the present master, and ends
with it. A manager that speaks sd_notify(3) is told of the new master instead (MAINPID).
"""

from __future__ import annotations

import os
import select
import signal

from forkd.errors import ForkdError
from forkd.ipc.pidfile import running
from forkd.system import process
from forkd.system.signals import SignalQueue
from forkd.title import set_title

_OURS = (signal.SIGCHLD, signal.SIGIO)


def forward(number: int, pidfile: str, control: str) -> None:
    """Send a signal that came to this process to the master; nothing when there is none."""
    if number in _OURS:
        return
    try:
        pidfd = os.pidfd_open(running(pidfile, control))
    except (ForkdError, ProcessLookupError):
        return
    process.send_signal(pidfd, number)
    os.close(pidfd)


def stand_in(name: str, pidfile: str, control: str, signals: SignalQueue) -> int:
    """Wait for the end of the service: the exit code, 1 when the last master did not end by itself."""
    set_title("foreground", name)
    while True:
        try:
            pidfd = os.pidfd_open(running(pidfile, control))  # of the next master, after each upgrade
        except ProcessLookupError:
            continue
        except ForkdError:
            return 1 if os.path.lexists(pidfile) else 0  # it removes the file when it stops
        _wait(pidfd, pidfile, control, signals)
        os.close(pidfd)


def _wait(pidfd: int, pidfile: str, control: str, signals: SignalQueue) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(signals.fileno(), select.POLLIN)
    ready: set[int] = set()
    while pidfd not in ready:
        ready = {fd for fd, _ in poll.poll()}
        for number in signals.read():
            forward(number, pidfile, control)
        _reap()


def _reap() -> None:
    """As process 1 this is everybody's parent, the masters' too."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
