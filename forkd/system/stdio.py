"""Descriptors 0, 1 and 2 stay open, whatever an application does to them.

The kernel gives the lowest free number to the next open file. If that were a client's socket, the
client would read what the process logs, and what the application prints. In children; and in each forkd, when
it begins.
"""

from __future__ import annotations

import fcntl
import sys
from contextlib import suppress

from forkd.system.originals import os, socket


def mend() -> None:
    """Open anew what is closed: standard output and error as each other, else as /dev/null."""
    for number in range(3):
        if _is_open(number):
            continue
        other = 3 - number
        if number and _is_open(other):
            os.dup2(other, number)
            continue
        # This takes the lowest free number, which is `number`, unless a thread was faster.
        null = os.open(os.devnull, os.O_RDWR)
        if null == number:
            os.set_inheritable(number, True)
        else:
            os.dup2(null, number)
            os.close(null)


def fill() -> None:
    """Open those that are closed when a program of forkd begins: its parent may have closed some (`>&-`), and
    Python has None for those files, which no code expects."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))


def print_by_lines() -> None:
    """Have lines that are printed in the log as they come. What the application has put in the place of
    Python's own file, before this process was forked from its template, is left as it is."""
    out = getattr(sys, "stdout", None)  # it may have deleted, closed or detached it
    if out is not None and out is sys.__stdout__:
        with suppress(ValueError):
            out.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def lift(sock: socket.socket) -> socket.socket:
    """Take a socket away from one of the three numbers, and mend what it was put in place of."""
    fd = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    sock.close()
    mend()
    return socket.socket(fileno=fd)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
