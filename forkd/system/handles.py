"""Handle sets: the descriptors that a process waits on, by epoll(7), poll(2) or select(2).

The synchronous event demultiplexer of the Reactor pattern (POSA2). A model owns one handle set per
waiting thread; the master owns one too. Each is made after the fork that starts its process: an
epoll inherited across fork reports events of descriptors that the child no longer has (epoll(7)).

Masks are those of poll(2), which epoll shares: READ, WRITE, and HANGUP, which is always reported, but not by
select(2): RST has come, or both directions are shut. READ_END, which select(2) has not either: the peer has
sent its last byte (FIN), whether those before it were read or not.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Protocol

from forkd.native import native
from forkd.system.no_memory import LOOK_SECONDS, wait_for_memory
from forkd.system.originals import select
from forkd.system.process import naming

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR
READ_END = select.EPOLLRDHUP

#: Wakes one of the processes that wait for the same listener, not all of them (Linux 4.5).
EXCLUSIVE = select.EPOLLEXCLUSIVE
#: Reports once, and then nothing until it is set anew (epoll only).
ONESHOT = select.EPOLLONESHOT
_CTL_ADD, _CTL_DEL, _CTL_MOD = 1, 2, 3  # of epoll_ctl(2), which Python does not name


_NO_ROOM_ERRNOS = (errno.ENOSPC, errno.ENOMEM)

#: Ready (fd, mask) pairs.
Events = Sequence[tuple[int, int]]


def only_ends(mask: int) -> bool:
    """Whether the peer sends no more, and what it has sent can still be read. A unix socket that is closed
    has hung up, too."""
    return bool(mask & (READ_END | HANGUP)) and not mask & select.EPOLLERR


class HandleSet(Protocol):
    """The interface every demultiplexer has."""

    concurrent: bool  # a thread may add what another one, which waits, shall see

    def add(self, fd: int, mask: int) -> None: ...
    def modify(self, fd: int, mask: int) -> None: ...
    def remove(self, fd: int) -> None: ...
    def wait(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """Block up to `timeout` seconds (None: for ever) and return the ready (fd, mask) pairs."""
        ...

    def descriptors(self) -> tuple[int, ...]:
        """The descriptors that the set itself holds."""
        ...

    def close(self) -> None: ...


class EpollSet:
    """epoll(7), level-triggered: O(ready) per wait, whatever the number of handles."""

    concurrent = True

    def __init__(self) -> None:
        with naming("epoll_create1"):
            self._epoll = select.epoll()
        # Bound once: these are the hot path of every model, and a wrapper would cost a call each.
        self.add = self._epoll.register
        self.modify = self._epoll.modify
        self.remove = self._epoll.unregister
        self.wait = self._epoll.poll
        self.close = self._epoll.close

    def descriptors(self) -> tuple[int, ...]:
        return (self._epoll.fileno(),)


class NativeEpollSet(EpollSet):
    """An epoll set whose `wait` returns the events as the kernel has written them, for a native driver
    (native/system_handles.c). To Python they are a sequence of pairs."""

    def __init__(self) -> None:
        super().__init__()
        assert native is not None
        self.fileno = self._epoll.fileno
        epoll = self._epoll.fileno()
        self.add = partial(native.epoll_control, epoll, _CTL_ADD)
        self.modify = partial(native.epoll_control, epoll, _CTL_MOD)
        self.remove = partial(native.epoll_control, epoll, _CTL_DEL)
        self.wait = partial(native.epoll_wait, epoll)


class PatientEpoll:
    """An epoll(7) of few descriptors that are all needed: one that the kernel has no room to watch
    (epoll_ctl(2): ENOSPC beyond fs.epoll.max_user_watches, ENOMEM) is polled until it has.

    Has the methods of a HandleSet, and those of select.epoll by which selectors.EpollSelector calls it.
    """

    concurrent = False

    def __init__(self) -> None:
        with naming("epoll_create1"):
            self._epoll = select.epoll()
        self._polled: dict[int, int] = {}  # descriptor to mask
        self.fileno = self._epoll.fileno
        self.close = self._epoll.close

    @property
    def short(self) -> bool:
        """Whether some descriptors are polled, so that a wait for this epoll itself has to end now and
        then."""
        return bool(self._polled)

    def register(self, fd: int, mask: int) -> None:
        try:
            self._epoll.register(fd, mask)
        except OSError as error:
            if error.errno not in _NO_ROOM_ERRNOS:
                raise
            self._polled[fd] = mask

    def modify(self, fd: int, mask: int) -> None:
        if fd in self._polled:
            self._polled[fd] = mask
            return
        try:
            self._epoll.modify(fd, mask)
        except OSError as error:
            if error.errno not in _NO_ROOM_ERRNOS:
                raise
            self._epoll.unregister(fd)
            self._polled[fd] = mask

    def unregister(self, fd: int) -> None:
        if self._polled.pop(fd, None) is None:
            self._epoll.unregister(fd)

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        if not self._polled:
            return self._epoll.poll(timeout, maxevents)
        for fd, mask in list(self._polled.items()):
            del self._polled[fd]
            with contextlib.suppress(OSError):  # EBADF: it was closed
                self.register(fd, mask)
        found = self._poll_now()
        wait = LOOK_SECONDS if timeout is None or timeout < 0 else min(timeout, LOOK_SECONDS)
        events = self._epoll.poll(0 if found else wait, maxevents)
        return events + (found or self._poll_now())

    def _poll_now(self) -> list[tuple[int, int]]:
        poller = select.poll()
        for fd, mask in self._polled.items():
            poller.register(fd, mask)
        return [(fd, mask) for fd, mask in poller.poll(0) if not mask & select.POLLNVAL]

    add, remove, wait = register, unregister, poll


class PollSet:
    """poll(2), to which every handle is passed at every wait."""

    concurrent = False

    def __init__(self) -> None:
        self._poll = select.poll()
        self.add = self._poll.register
        self.modify = self._poll.modify
        self.remove = self._poll.unregister

    def wait(self, timeout: float | None = None) -> list[tuple[int, int]]:
        # Rounded up: a wait that ends just before its deadline would be repeated at once.
        try:
            return self._poll.poll(None if timeout is None else ceil(timeout * 1000))
        except OSError as error:
            return wait_for_memory(error)

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def close(self) -> None:
        pass  # it has no descriptor


class SelectSet:
    """select(2): three bitmaps, and no descriptor from 1024 on (FD_SETSIZE)."""

    concurrent = False

    def __init__(self) -> None:
        self._reads: set[int] = set()
        self._writes: set[int] = set()

    def add(self, fd: int, mask: int) -> None:
        if fd >= FD_SETSIZE:
            raise OSError(errno.EMFILE, f"select(2) cannot wait for descriptor {fd}")
        self.modify(fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        for wanted, handles in ((READ, self._reads), (WRITE, self._writes)):
            if mask & wanted:
                handles.add(fd)
            else:
                handles.discard(fd)

    def remove(self, fd: int) -> None:
        self.modify(fd, 0)

    def wait(self, timeout: float | None = None) -> list[tuple[int, int]]:
        try:
            readable, writable, _ = select.select(self._reads, self._writes, (), timeout)
        except OSError as error:
            return wait_for_memory(error)
        masks = dict.fromkeys(readable, READ)
        for fd in writable:
            masks[fd] = masks.get(fd, 0) | WRITE
        return list(masks.items())

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def close(self) -> None:
        pass


#: The highest descriptor that select(2) can wait for, plus one (FD_SETSIZE in glibc).
FD_SETSIZE = 1024
#: Connections that a worker has under select at most; the rest is for what else it has open.
SELECT_CLIENTS = FD_SETSIZE - 64


def _sigio() -> HandleSet:
    from forkd.system.sigio import SigioSet  # loads ctypes, which no other handle set needs

    return SigioSet()


_SETS: dict[str, Callable[[], HandleSet]] = {
    "epoll": EpollSet,
    "poll": PollSet,
    "select": SelectSet,
    "sigio": _sigio,
    "blocking": PollSet,  # between clients; for its client the child blocks
}


def make_handle_set(io: str) -> HandleSet:
    """The demultiplexer for a value of `--io`."""
    return _SETS[io]()
