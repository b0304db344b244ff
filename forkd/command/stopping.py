"""Stopping a master from outside, and finding what it has to leave behind. In the command."""

from __future__ import annotations

import errno
import os
import select
import signal

from forkd.errors import ForkdError, NotRunning
from forkd.system import process

#: Seconds between two looks at the master's children.
_LOOK_SECONDS = 1.0
#: Seconds for a child of the master to end when that has: the kernel kills it.
_CHILD_SECONDS = 1.0


def stop_and_wait(pid: int) -> list[str]:
    """Signal the master and return when it has gone; it enforces --graceful-timeout itself. Returns a
    sentence for each of its processes that is there still, since no signal ends it."""
    try:
        pidfd = process.open_pidfd(pid)
        with process.naming("pidfd_send_signal"):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except process.CallError as error:
        if error.errno == errno.ESRCH:
            raise NotRunning(f"not running: pid {pid} has just gone") from None
        if error.errno == errno.EPERM and not process.may_signal(pid):
            raise ForkdError(f"pid {pid} belongs to another user") from None
        raise ForkdError(f"stop: {process.why_no_fork(error)}") from error
    theirs: dict[int, tuple[int, str]] = {}  # pid to (pidfd, title)
    while True:
        for child in set(process.children(pid)) - set(theirs):
            try:
                theirs[child] = os.pidfd_open(child), process.title(child)
            except OSError:
                continue
        if select.select([pidfd], [], [], _LOOK_SECONDS)[0]:
            break
    os.close(pidfd)
    left = []
    for child, (childfd, title) in theirs.items():
        if not select.select([childfd], [], [], _CHILD_SECONDS)[0]:
            left.append(f"{title} (pid {child}) {process.unkillable(child)}")
        os.close(childfd)
    return left
