"""Handle sets: what a process waits on, and how it learns that one of them is ready.

The synchronous event demultiplexer of the Reactor pattern (POSA2). A model owns one handle set per
waiting thread; the master owns one too. Each is made after the fork that starts its process: an
epoll inherited across fork reports events of descriptors that the child no longer has (epoll(7)).

Masks are those of poll(2), which epoll shares: READ, WRITE, and HANGUP, which is always reported.
"""

from __future__ import annotations

import select
from typing import Protocol

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR
#: Wakes one of the processes that wait for the same listener, not all of them (Linux 4.5).
EXCLUSIVE = select.EPOLLEXCLUSIVE


class HandleSet(Protocol):
    """The interface every demultiplexer has."""

    def add(self, fd: int, mask: int) -> None: ...
    def modify(self, fd: int, mask: int) -> None: ...
    def remove(self, fd: int) -> None: ...
    def wait(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """Block up to `timeout` seconds (None: for ever) and return the ready (fd, mask) pairs."""
        ...

    def close(self) -> None: ...


class EpollSet:
    """epoll(7), level-triggered: O(ready) per wait, whatever the number of handles."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        # Bound once: these are the hot path of every model, and a wrapper would cost a call each.
        self.add = self._epoll.register
        self.modify = self._epoll.modify
        self.remove = self._epoll.unregister
        self.wait = self._epoll.poll
        self.close = self._epoll.close
