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

from collections.abc import Callable
from time import monotonic, monotonic_ns

from forkd.models.acceptor import Acceptor
from forkd.models.blocking import BlockingDriver
from forkd.models.deadlines import NEVER
from forkd.models.drive import EventDriver
from forkd.models.unit import Unit
from forkd.system.handles import READ, HandleSet, make_handle_set
from forkd.system.scoreboard import WORKING


class LeaderFollowers:
    def __init__(self, unit: Unit) -> None:
        self.done = False
        self._unit = unit
        self._cells = unit.row.cells
        self._handles: HandleSet = make_handle_set(unit.io)
        self._acceptor = Acceptor(unit, self._handles)
        self._calls: dict[int, Callable[[], None]] = {}
        self._driver: EventDriver | BlockingDriver
        if unit.io == "blocking":
            self._driver = BlockingDriver(unit, self._counted, self._calls)
        else:
            self._driver = EventDriver(unit, self._handles, self._counted)
        for fd, call in unit.watched.items():
            self.watch(fd, call)
        if self._acceptor.bell is not None:
            self.watch(self._acceptor.bell, self._acceptor.hear)
        self._retiring: bool | None = None  # in this turn: whether to empty the queue
        self._retired = False

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        self._calls[fd] = call
        self._handles.add(fd, READ)

    def turn(self, timeout: float | None) -> None:
        driver, acceptor = self._driver, self._acceptor
        acceptor.join()
        self._cells[WORKING] = 0
        events = self._handles.wait(self._patience(timeout))
        self._cells[WORKING] = monotonic_ns()
        driver.now = now = monotonic()
        connections = driver.connections
        for fd, mask in events:
            conn = connections.get(fd)
            if conn is not None:
                driver.ready(conn, mask)
            elif fd in acceptor.listeners:
                self._lead(fd)
            elif fd in self._calls:
                self._calls[fd]()
        if driver.wheel.next <= now:
            driver.expire()
        acceptor.resume(now)
        if self._retiring is not None:
            self._leave(self._retiring)
        self._unit.after_turn()

    def _lead(self, fd: int) -> None:
        """Steps 2 to 4, until the queue is empty or somebody else leads."""
        while (accepted := self._acceptor.accept(fd)) is not None:
            self._driver.serve(*accepted)
            if self._unit.lease is None:
                return  # one per wake-up: the kernel woke others for the rest

    def _patience(self, timeout: float | None) -> float | None:
        """Seconds until the next deadline of ours, or `timeout` when that is sooner."""
        until = min(self._driver.wheel.next, self._acceptor.pause_ends)
        if until == NEVER:
            return timeout
        mine = max(0.0, until - monotonic())
        return mine if timeout is None else min(mine, timeout)

    def _counted(self, connections: int) -> None:
        self._acceptor.announce(connections)
        if self._retired and not connections:
            self.done = True

    # ---- the end --------------------------------------------------------------------------

    def retire(self, idle_grace: float, drain_queue: bool) -> None:
        self._acceptor.retire()
        self._driver.now = monotonic()
        self._driver.drain(idle_grace)
        self._retiring = drain_queue

    def _leave(self, drain_queue: bool) -> None:
        """At the end of the turn, when no session is on the stack."""
        self._retiring = None
        for accepted in self._acceptor.close(drain_queue):
            self._driver.serve(*accepted)
        self._retired = True
        self.done = not self._driver.connections

    def abandon(self) -> None:
        self._driver.abandon()
        self.done = True
