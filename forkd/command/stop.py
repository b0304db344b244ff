"""`forkd stop`: end the master from outside, and say what it has to leave behind."""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal

from forkd.command.arguments import add_where, locate
from forkd.errors import ForkdError, NotRunning
from forkd.ipc.pidfile import running
from forkd.system import process
from forkd.system.output import complain

add_flags = add_where

#: Seconds between two looks at the master's children.
_LOOK_SECONDS = 1.0
#: Seconds for a child of the master to end when that has: the kernel kills it.
_CHILD_SECONDS = 1.0


def run(args: argparse.Namespace) -> int:
    config = locate(args)
    stop(running(config.pidfile, config.control))
    return 0


def stop(pid: int) -> None:
    """Signal the master and return when it has gone; it enforces --graceful-timeout itself. Complains of each
    of its processes that is there still, since no signal ends it."""
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
    for child, (childfd, title) in theirs.items():
        if not select.select([childfd], [], [], _CHILD_SECONDS)[0]:
            complain(f"forkd: {title} (pid {child}) {process.unkillable(child)}")
        os.close(childfd)
