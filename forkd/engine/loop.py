"""The loop of a child's waiting thread, which all models have in common.

It joins the leadership, waits on the handle set, and dispatches: a listener to `lead`, a connection
to `ready`, anything else to its callback; then deadlines, and the end. A model says what its
connections go through, in three hooks: `serve`, `ready` and `late`.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from forkd.engine.acceptor import Acceptor
from forkd.engine.connection import Connection
from forkd.engine.connections import Connections
from forkd.engine.context import ChildContext
from forkd.engine.deadlines import NEVER
from forkd.engine.eviction import Eviction
from forkd.engine.intake import Accepted, ListenerIntake
from forkd.engine.share import Share
from forkd.session.begin import BoundBegin
from forkd.session.seam import Multiplexed
from forkd.system.accept_wait import AcceptWait
from forkd.system.cells import EVICTED, FULL_SINCE, WORKING
from forkd.system.forked import in_fork, leave
from forkd.system.handles import READ, SELECT_CLIENTS, Events, HandleSet, make_handle_set
from forkd.system.originals import get_ident, monotonic, monotonic_ns, select, socket

#: Seconds between two lines that say that there is no room.
_SILENCE_SECONDS = 10.0


class ChildLoop:
    def __init__(self, context: ChildContext) -> None:
        if context.io == "select":  # it cannot wait for more; they are left to others, or in the queue
            most = min(context.config.worker_connections, SELECT_CLIENTS)
            context = replace(context, config=replace(context.config, worker_connections=most))
        self.done = False
        self.again = NEVER  # when the next turn is due, whatever happens
        self.driver_due = NEVER  # the same, for the driver alone
        self.context = context
        self.log = context.log
        self.handles = self.handle_set()
        self.acceptor = Acceptor(context, self.handles)
        self.accept_wait = AcceptWait(context.row)
        self.connections = Connections(
            context, self.handles, self.acceptor.announce, self.connection_type(), self
        )
        self._cells = context.row.cells
        self.calls: dict[int, Callable[[], None]] = {}
        for fd, call in context.watched.items():
            self.watch(fd, call)
        if self.acceptor.bell is not None:
            self.watch(self.acceptor.bell, self.acceptor.hear)
        self.share = Share()
        # A driver may have other ways.
        self.accept: Callable[[int], bool] = self.take
        self.demultiplex: Callable[[Events], None] = self.dispatch
        self._eviction = Eviction(self.connections)
        #: With so many connections one place is left: the next one makes room before it takes that, so that
        #: no client ever finds all children full while one of their connections is idle.
        self.crowd = max(1, context.config.worker_connections - 1)
        self._silent_until = 0.0
        self._due: deque[Connection] = deque()  # their deadlines have passed
        self._retired = False
        self._left: deque[Accepted] = deque()  # taken since then, and not served yet
        #: Intakes that the kernel fills: the listeners.
        self._kernels = {i.fileno() for i in context.intakes if isinstance(i, ListenerIntake)}
        self._renewed: deque[tuple[int, int]] = deque()  # listeners, and what takes their place
        self.aside = False  # there is something to do at the end of each turn

    # ---- what a model decides -------------------------------------------------------------

    def handle_set(self) -> HandleSet:
        return make_handle_set(self.context.io)

    def connection_type(self) -> Callable[..., Connection]:
        return Connection

    def serve(self, sock: socket.socket, client: Any, begin: BoundBegin) -> None:
        """A connection was accepted."""
        raise NotImplementedError

    def ready(self, conn: Connection, mask: int) -> None:
        """A kept connection is ready: READ, WRITE, HANGUP or several of them."""
        raise NotImplementedError

    def late(self, conn: Connection) -> None:
        """A deadline has passed; the session may still say something."""
        raise NotImplementedError

    def woken(self, conn: Connection) -> None:
        """A session's needs have changed: `Peer.wake`."""
        raise NotImplementedError

    def run_apart(self, exchange: Multiplexed) -> bool:
        """Whether the step that a session has yielded runs in another thread, or later."""
        return False

    def has_exchanges_apart(self) -> bool:
        """Whether such a step runs, or will: maybe one whose connection is gone."""
        return False

    # ---- the loop -------------------------------------------------------------------------

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        self.calls[fd] = call
        self.handles.add(fd, READ)

    def unwatch(self, fd: int) -> None:
        del self.calls[fd]
        self.handles.remove(fd)

    def turn(self, timeout: float | None) -> None:
        connections, acceptor = self.connections, self.acceptor
        until = acceptor.join()
        if not acceptor.backpressure.busy:  # else another child should lead: see master/doorbell.py
            self._cells[WORKING] = 0
        try:
            events = self.handles.wait(self._patience(until, timeout))
        except Exception as error:
            events = self._interrupted(error)
        if in_fork:
            leave()  # a handler of a signal has forked; all else is seen where it returns
        self._cells[WORKING] = monotonic_ns()
        connections.now = now = monotonic()
        share = self.share
        share.taken, share.led = 0, False
        self.demultiplex(events)
        if connections.wheel.next <= now:
            self._due.extend(connections.overdue())
        while self._due:
            conn = self._due.popleft()
            if conn.mask is None or connections.by_fd.get(conn.fd) is not conn:
                continue
            if not connections.reprieve(conn):
                self.late(conn)
        if self.aside:
            self.again = 0.0  # it may break off
            self.aside = self.attend()
        again, due = self.context.after_turn(), self.driver_due
        self.again = again if again < due else due
        if acceptor.full or self._cells[FULL_SINCE]:
            self._relieve()

    def _interrupted(self, error: Exception) -> list[tuple[int, int]]:
        """The wait has failed. Where that was a signal handler of the application, nothing was ready, and
        the next turn waits again."""
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        where = "forkd" if frame is None else str(frame.tb_frame.f_globals.get("__name__"))
        if where.partition(".")[0] == "forkd":
            raise error
        self.log.exception("a signal handler of the application has raised; the worker goes on")
        return []

    def dispatch(self, events: Events) -> None:
        """Dispatch to the handlers of connections, listeners, and what else is watched. Listeners come last:
        between two shares of new connections are all others that were ready."""
        calls = self.calls
        for fd, _ in events:
            # The master's word first: a request that came with it is answered as the last one.
            if fd in calls:
                calls[fd]()
        by_fd = self.connections.by_fd
        others: list[int] = []
        for fd, mask in events:
            conn = by_fd.get(fd)
            if conn is not None:
                self.ready(conn, mask)
            else:
                others.append(fd)
        for fd in others:
            self.other(fd)

    def other(self, fd: int) -> bool:
        """What is ready, and no connection: a listener, for which True is returned, or what was called
        already."""
        if fd not in self.acceptor.intakes:
            return False
        if not self.share.led:
            self.lead(fd)
        return True

    def lead(self, fd: int) -> None:
        """A listener is ready: accept, promote, work; until no client waits, another child leads, or the
        share of this turn is over. Listeners take turns."""
        share, acceptor = self.share, self.acceptor
        turns = deque((fd,)) if len(acceptor.intakes) == 1 else acceptor.turns()
        share.lead(monotonic())
        # Without a lease it is one per wake-up: the kernel woke others for the rest.
        again = self.context.lease is not None
        while turns and not share.over(monotonic()):
            fd = turns.popleft()
            if self.accept(fd) and again:
                turns.append(fd)

    def take(self, fd: int) -> bool:
        """Accept one client there, and work. Returns whether more may be waiting there."""
        if len(self.connections.by_fd) >= self.crowd:
            self.before(fd)
        accepted = self.acceptor.accept(fd)
        if accepted is None:
            return False
        self.share.taken += 1
        if self.connections.now >= self.accept_wait.due and fd in self._kernels:
            self.accept_wait.look(accepted[0], self.connections.now)
        self.serve(*accepted)
        return True

    # ---- no room --------------------------------------------------------------------------

    def before(self, fd: int) -> None:
        """Make room before an accept, which may be about to take the last place."""
        if _readable(fd):
            self.make_room()

    def make_room(self) -> bool:
        """Close the connection that has been idle for the longest, if any is, as its deadline would."""
        conn = self._eviction.candidate(monotonic()) if not self._retired else None
        if conn is None:
            return False
        self._cells[EVICTED] += 1
        self.late(conn)
        return True

    def _relieve(self) -> None:
        """At the end of a turn: all places are taken, or were."""
        acceptor, cells = self.acceptor, self._cells
        if not acceptor.full or self._retired or (self.make_room() and not acceptor.full):
            cells[FULL_SINCE] = 0
            return
        now = monotonic()
        if self._eviction.owed:
            self.again = min(self.again, self._eviction.look_at)
        if not cells[FULL_SINCE]:
            cells[FULL_SINCE] = monotonic_ns()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE_SECONDS
            most = self.context.config.worker_connections
            self.log.warning(
                f"all {most} --worker-connections are taken, and none is idle: "
                "new connections wait in the accept queue"
            )

    def _patience(self, until: float, timeout: float | None) -> float | None:
        """Seconds until then, or until the next deadline of ours, or `timeout`: the soonest."""
        until = min(until, self.connections.wheel.next, self.again)
        if until == NEVER:
            return timeout
        mine = max(0.0, until - monotonic())
        return mine if timeout is None else min(mine, timeout)

    # ---- a listener that was shut down ----------------------------------------------------

    def relisten(self, number: int, anew: bool, fd: int) -> None:
        if anew and fd < 0:
            self.acceptor.pause("listen anew", OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        if fd < 0:
            self.acceptor.relisten(number)
        else:
            self._renewed.append((number, fd))
            self.aside = True

    def attend(self) -> bool:
        """At the end of a turn: what is no handle's. Returns whether there is more of it."""
        self._renew()
        if self._retired:
            self._leave()
        return self._retired or bool(self._renewed)

    def _renew(self) -> None:
        """At the end of a turn, as `_leave`: clients that wait in the old socket are served first."""
        acceptor = self.acceptor
        while self._renewed and not acceptor.no_room():
            number, fd = self._renewed[0]
            accepted = acceptor.leftover(number)
            if accepted is not None:
                self.serve(*accepted)
            else:
                self._renewed.popleft()
                acceptor.relisten(number, fd)

    # ---- the end --------------------------------------------------------------------------

    def retire(self, idle_grace: float, drain_queue: bool) -> None:
        self.acceptor.retire(drain_queue)
        self.connections.now = monotonic()
        self.connections.drain(idle_grace)
        self.context.interface.retire()
        self._retired = self.aside = True

    def _leave(self) -> None:
        """At the end of each turn since then, when no session is on the stack. A model may break off
        in the middle of `serve` (models/leader_threads.py): the next turn goes on here."""
        if not self._left:
            self._left.extend(self.acceptor.drain())
        while self._left:
            self.serve(*self._left.popleft())
        self.done = self.acceptor.finished and not self.has_exchanges_apart()

    def abandon(self) -> None:
        self.connections.abandon()
        self.done = True

    # ---- in a process that the application has forked -------------------------------------

    def descriptors(self) -> set[int]:
        me = get_ident()
        conns = self.connections.by_fd
        waiting = [sock.fileno() for sock, *_ in self._left]
        mine = {fd for fd, conn in conns.items() if conn.hijacked == me}
        return {*self.handles.descriptors(), *self.calls, *self.acceptor.intakes, *conns, *waiting} - mine


def _readable(fd: int) -> bool:
    """Whether a connection waits there by now."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
