"""Samples of the time that connections wait in the kernel's accept queue.

The queue itself keeps no times. What the kernel knows of a TCP connection is when its last byte arrived,
or, before there was one, when it was established (tcpi_last_data_recv, tcp(7)); in the moment of its
accept that is how long it has waited, or less, if it has sent the rest of its bytes later. To ask is a
system call, so one connection is asked in each LOOK_SECONDS of a process that accepts: the first after
they are over, which is the one at the head of the queue. A unix socket has no such clock.

Used by the process that accepts: a child, or the master.
"""

from __future__ import annotations

from forkd.system.cells import ACCEPT_QUEUE
from forkd.system.originals import socket
from forkd.system.scoreboard import Row
from forkd.system.sockets import data_age

LOOK_SECONDS = 0.05


class AcceptWait:
    __slots__ = ("_row", "due")

    def __init__(self, row: Row) -> None:
        self._row = row
        self.due = 0.0  # CLOCK_MONOTONIC, seconds: when the next connection is to be looked at

    def look(self, sock: socket.socket, now: float) -> None:
        """A connection was just accepted, and it is time."""
        self.due = now + LOOK_SECONDS
        age = data_age(sock)
        if age is not None:
            self._row.waited(ACCEPT_QUEUE, int(age * 1e9))

    def look_at(self, fd: int, now: float) -> None:
        """The same for one that has no object."""
        sock = socket.socket(fileno=fd)
        try:
            self.look(sock, now)
        finally:
            sock.detach()
