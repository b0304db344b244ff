"""Leader/Followers (POSA2, Schmidt, Stal, Rohnert, Buschmann), over processes.

The set of children shares the listeners, and takes turns at waiting for them.

1. One child is the *leader*: the lease names it, and only its handle set contains the listeners.
2. A connection arrives; the leader wakes and accepts it.
3. It *promotes a follower*: the child with the fewest connections, if that has fewer than itself.
   The promoted child's bell rings, and it puts the listeners into its own handle set.
4. Only then does the former leader work: it resumes the session until that has to wait.
5. It joins the followers: its handle set holds its own connections and its bell, so that it serves
   its clients and can be promoted at once.

When the leader is still inside application code while somebody waits, SIGIO tells the master, which
grants the lease to an idle follower (supervise/doorbell.py).

`--accept exclusive` and `reuseport` leave step 3 to the kernel: every child waits on the listeners
all the time. `--io blocking` serves one client per child, to its end, in step 4.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from time import monotonic, monotonic_ns

from forkd.models.blocking import BlockingDriver
from forkd.models.deadlines import NEVER
from forkd.models.drive import EventDriver
from forkd.models.unit import Unit
from forkd.system.handles import EXCLUSIVE, READ, EpollSet
from forkd.system.lease import FULL
from forkd.system.scoreboard import ACCEPTED, CONNECTIONS, PROMOTIONS, WORKING

#: accept(2) fails with these when the machine or the process has no room. The connection stays in
#: the queue and keeps the listener readable, so waiting on it at once would spin.
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE = 0.25  # seconds


class LeaderFollowers:
    def __init__(self, unit: Unit) -> None:
        self.done = False
        self._unit = unit
        self._cells = unit.row.cells
        self._lease = unit.lease
        self._handles = EpollSet()
        self._listeners = {sock.fileno(): (sock, server) for sock, server in unit.listeners}
        self._calls = dict(unit.watched)
        if self._lease is not None:
            self._calls[self._lease.bells[unit.slot]] = self._promoted
        for fd in self._calls:
            self._handles.add(fd, READ)
        self._driver: EventDriver | BlockingDriver
        if unit.config.io == "blocking":
            self._driver = BlockingDriver(unit, self._counted, self._calls)
        else:
            self._driver = EventDriver(unit, self._counted, self._handles)
        self._listening = False
        self._retired = False
        self._leave_with: bool | None = None  # retired in this turn: whether to empty the queue
        self._may_accept = True
        self._pause_ends = NEVER

    # ---- the loop -------------------------------------------------------------------------

    def turn(self, timeout: float | None) -> None:
        driver = self._driver
        self._join()
        self._cells[WORKING] = 0
        events = self._handles.wait(self._patience(timeout))
        self._cells[WORKING] = monotonic_ns()
        driver.now = now = monotonic()
        connections = driver.connections
        for fd, mask in events:
            conn = connections.get(fd)
            if conn is not None:
                driver.ready(conn, mask)
            elif fd in self._listeners:
                self._lead(fd)
            elif fd in self._calls:
                self._calls[fd]()
        if driver.wheel.next <= now:
            driver.expire()
        if self._pause_ends <= now:
            self._pause_ends = NEVER
            self._may_accept = not self._retired
        if self._leave_with is not None:
            drain_queue, self._leave_with = self._leave_with, None
            self._leave(drain_queue)
        self._unit.after_turn()

    def _patience(self, timeout: float | None) -> float | None:
        """Seconds until the next deadline of ours, or `timeout` when that is sooner."""
        until = min(self._driver.wheel.next, self._pause_ends)
        if until == NEVER:
            return timeout
        mine = max(0.0, until - monotonic())
        return mine if timeout is None else min(mine, timeout)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        self._calls[fd] = call
        self._handles.add(fd, READ)

    # ---- leadership -----------------------------------------------------------------------

    def _join(self) -> None:
        """Be what the lease says: leader (listeners in the handle set) or follower."""
        lease = self._lease
        lead = self._may_accept and (lease is None or lease.leads(self._unit.slot))
        if lead is not self._listening:
            self._listening = lead
            for fd in self._listeners:
                if lead:
                    self._handles.add(fd, READ if lease is not None else READ | EXCLUSIVE)
                else:
                    self._handles.remove(fd)

    def _promoted(self) -> None:
        """The bell rang. `_join`, before the next wait, does what the lease says."""
        assert self._lease is not None
        self._lease.hear(self._unit.slot)

    def _lead(self, fd: int) -> None:
        """Accept until the queue is empty or somebody else leads; promote before each work."""
        listener, server = self._listeners[fd]
        lease, slot = self._lease, self._unit.slot
        while self._may_accept and (lease is None or lease.leads(slot)):
            accepted = self._accept(listener)
            if accepted is None:
                return
            self._cells[ACCEPTED] += 1
            if lease is not None:
                self._announce(len(self._driver.connections) + 1)  # the choice counts this one
                if lease.promote(slot):
                    self._cells[PROMOTIONS] += 1
            self._driver.adopt(accepted[0], accepted[1], server)
            if lease is None:
                return  # one per wake-up: with EPOLLEXCLUSIVE others were woken for the rest

    def _accept(self, listener: socket.socket) -> tuple[socket.socket, object] | None:
        try:
            return listener.accept()
        except BlockingIOError:
            return None  # another leader took it, or the client gave up
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._unit.log.error(
                    f"accept: {errno.errorcode[error.errno]}: {error.strerror}; "
                    f"accepting stops for {_NO_ROOM_PAUSE} s"
                )
                self._may_accept = False
                self._pause_ends = monotonic() + _NO_ROOM_PAUSE
            return None  # otherwise the error is that one connection's (accept(2), Error handling)

    def _counted(self, connections: int) -> None:
        self._cells[CONNECTIONS] = connections
        self._announce(connections)
        if not connections and self._retired and not self._listeners:
            self.done = True

    def _announce(self, connections: int) -> None:
        """Tell the others how much we have, or stop accepting at `--worker-connections`."""
        full = self._retired or connections >= self._unit.config.worker_connections
        if self._lease is not None:
            self._lease.load[self._unit.slot] = FULL if full else connections
        elif self._pause_ends == NEVER:
            self._may_accept = not full

    # ---- the end --------------------------------------------------------------------------

    def retire(self, idle_grace: float, drain_queue: bool) -> None:
        self._retired = True
        self._may_accept = False
        self._pause_ends = NEVER
        self._announce(len(self._driver.connections))
        self._driver.now = monotonic()
        self._driver.drain(idle_grace)
        self._leave_with = drain_queue

    def _leave(self, drain_queue: bool) -> None:
        """At the end of a turn, when no session is on the stack: give up the listeners."""
        self._join()
        for listener, server in self._listeners.values():
            while drain_queue and (accepted := self._accept(listener)) is not None:
                self._cells[ACCEPTED] += 1
                self._driver.adopt(accepted[0], accepted[1], server)
            listener.close()
        self._listeners.clear()
        if self._lease is not None and self._lease.leads(self._unit.slot):
            self._lease.promote(self._unit.slot)
        self.done = not self._driver.connections

    def abandon(self) -> None:
        self._driver.abandon()
        self.done = True
