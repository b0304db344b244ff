"""How the master learns that a client has come to a listener: at least once, each time this is armed.

The children wait for the same listeners, so there are two ways:

BySignal    SIGIO. The master is the owner of the open file description (F_SETOWN, fcntl(2)), and the kernel
            signals it with the rights that it had then. Any process that has the description can choose
            another signal for it (F_SETSIG), SIGKILL for one: only for listeners that no process of
            other ids has ever had (`Listener.private`).
ByEpoll     EPOLLONESHOT in the master's epoll (epoll_ctl(2)): what it waits for is set in the epoll, which
            is the master's alone. For all other listeners; they have no owner.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from forkd.system import signals
from forkd.system.handles import ONESHOT, READ
from forkd.system.loop import Loop
from forkd.system.sockets import Listener


class Arrivals(Protocol):
    def arm(self) -> None:
        """Tell of the next one, also where it has just told of one."""

    def disarm(self) -> None:
        """Tell of none."""

    def close(self) -> None:
        """As `disarm`, for good. To be called before the sockets are closed."""

    def leave(self) -> None:
        """As `close`, but what is shared with other processes stays as another master has set it."""


class BySignal:
    """The owner of the loop hears SIGIO; see master/signals.py."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._armed = False
        for sock in sockets:
            signals.own(sock)

    def arm(self) -> None:
        if not self._armed:  # the kernel goes on to tell
            self._armed = True
            for sock in self._sockets:
                signals.arm(sock)

    def disarm(self) -> None:
        self._armed = False
        for sock in self._sockets:
            if sock.fileno() >= 0:
                signals.disarm(sock)

    close = disarm

    def leave(self) -> None:
        self._sockets = []


class ByEpoll:
    def __init__(self, sockets: list[socket.socket], loop: Loop, came: Callable[[], object]) -> None:
        self._sockets = sockets
        self._loop = loop
        self._tell = came
        self._armed: set[int] = set()

    def arm(self) -> None:
        for sock in self._sockets:
            fd = sock.fileno()
            self._armed.add(fd)
            self._loop.watch(fd, partial(self._came, fd), READ | ONESHOT)

    def disarm(self) -> None:
        for fd in self._armed:  # the others are, by the kernel, since they have told
            self._loop.watch(fd, partial(self._came, fd), ONESHOT)
        self._armed.clear()

    def _came(self, fd: int) -> object:
        self._armed.discard(fd)
        return self._tell()

    def close(self) -> None:
        self._armed.clear()
        for sock in self._sockets:
            if sock.fileno() >= 0:
                self._loop.unwatch(sock.fileno())

    leave = close


def arrivals(listeners: list[Listener], loop: Loop, came: Callable[[], object]) -> list[Arrivals]:
    """For all of these, each in its way. `came` is called by the loop; SIGIO is the caller's to hear."""
    private = [sock for x in listeners if x.private for sock in x.sockets]
    others = [sock for x in listeners if not x.private for sock in x.sockets]
    return [BySignal(private), ByEpoll(others, loop, came)]
