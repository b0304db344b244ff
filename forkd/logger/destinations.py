"""The table of logs, with the destination of each. Made by the master, read by the logger it forks.

A log has a number: 0 is the error log, or stderr; 1 is stdout; the access log of a generation has a
number of its own from 2 on, since a reload may change its path while the children before it still write.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from forkd.log.lines import open_log
from forkd.system.log_ring import ACCESS, ERROR

_PIPE_BYTES = 65536  # pipe(7)
STDERR, STDOUT = 0, 1


@dataclass(frozen=True)
class Destination:
    """The destination of a log: a file that the logger opens, or one that forkd was started with."""

    path: str | None
    fd: int = -1  # where there is no path

    def describe(self, log: int) -> str:
        """The name of the log and its path, for messages."""
        name = "error log" if kind_of(log) == ERROR else "access log"
        return f"{name} {self.path}" if self.path is not None else name


def kind_of(log: int) -> int:
    """Under which name the lines that it loses are counted."""
    return ERROR if log in (STDERR, STDOUT) else ACCESS


@dataclass
class Standard:
    """The files that descriptors 1 and 2 of all of forkd's processes lead to.

    Where that is a file, they are pipes that the logger reads: an application that prints must not wait
    for a disk. Where it is a pipe, a socket or a terminal, they are what forkd was started with; the logger
    has descriptor 1, too, for an access log that goes there.
    """

    destinations: dict[int, Destination]
    pipes: dict[int, int]  # by log: the end to read; the other is descriptor 1 or 2
    out: int | None  # the log that descriptor 1 leads to; None: directly
    err: int | None
    is_read: bool = False  # there is, or was, a logger

    def give_to(self, uid: int, gid: int) -> None:
        """Let that user open descriptors 1 and 2 anew (proc(5), /proc/pid/fd), as a log does that must not
        wait for a pipe, and an application that opens /dev/stderr. Raises OSError."""
        for read in self.pipes.values():
            try:
                os.fchown(read, uid, gid)
            except PermissionError:  # root without CAP_CHOWN
                os.fchmod(read, 0o622)  # only processes that hold the descriptor reach it, by /proc/pid/fd

    def forget(self) -> None:
        """Close the logger's ends, in a process that is not the logger."""
        for fd in [
            *self.pipes.values(),
            *(destination.fd for destination in self.destinations.values()),
        ]:
            if fd >= 0:
                os.close(fd)

    def spill(self) -> None:
        """This process ends, and there was never a logger: write what is in the pipes where it belongs."""
        if self.is_read:
            return
        for log, read in self.pipes.items():
            destination = self.destinations[log]
            try:
                text = os.read(read, _PIPE_BYTES)
                os.write(
                    destination.fd if destination.path is None else open_log(destination.path), text
                )
            except OSError:
                pass  # nothing is in it; or the file cannot be written, and there is no place to report that

    def hand_on(self) -> None:
        """In a process that becomes another program of forkd: give it what this one was started with."""
        for number, log in ((1, self.out), (2, self.err)):
            if log is not None and self.destinations[log].path is None:
                os.dup2(self.destinations[log].fd, number)


def capture(error_log: str | None) -> Standard:
    """Make descriptors 1 and 2 pipes, where what they are to lead to is a file. Raises OSError."""
    standard = Standard({}, {}, None, None)
    if error_log is not None:
        standard.destinations[STDERR] = Destination(error_log)
        standard.err = standard.out = STDERR
    else:
        out, err = _file(1), _file(2)
        if err is not None:
            standard.err = STDERR
            standard.destinations[STDERR] = Destination(None, os.dup(2))
        if out is not None:
            same = err is not None and os.path.samestat(out, err)
            standard.out = STDERR if same else STDOUT
            if not same:
                standard.destinations[STDOUT] = Destination(None, os.dup(1))
    captured = list(standard.destinations)
    if standard.out is None:
        standard.destinations[STDOUT] = Destination(None, os.dup(1))
    for log in captured:
        standard.pipes[log], write = os.pipe()
        os.set_blocking(standard.pipes[log], False)
        for number, leads in ((1, standard.out), (2, standard.err)):
            if leads == log:
                os.dup2(write, number)
        os.close(write)
    return standard


def _file(number: int) -> os.stat_result | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None
