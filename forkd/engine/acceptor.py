"""The acceptor: the listeners of one child, and its part in the leadership of all.

Under `--accept lock` the child has the listeners in its handle set while the lease names it. Under
`exclusive` and `reuseport` it always has them, and the kernel chooses. A child that is full, or that
has no descriptor left, waits for no connection; one that is retired takes only what would be lost
without it. Used by every model, in the thread that waits.
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from forkd.engine.backpressure import Backpressure
from forkd.engine.context import ChildContext
from forkd.engine.deadlines import NEVER
from forkd.engine.intake import Accepted, Intake, ListenerIntake
from forkd.engine.link import Link
from forkd.system.cells import ACCEPTED, CONNECTIONS, PROMOTIONS
from forkd.system.handles import EXCLUSIVE, READ, HandleSet
from forkd.system.lease import FULL
from forkd.system.originals import monotonic, os
from forkd.system.retry import WAITING_CALL, Retry
from forkd.system.sockets import is_shut_down
from forkd.system.stdio import lift

T = TypeVar("T")

#: Connections that a child takes at a time from what is left at the end.
_DRAIN_CONNECTIONS = 4
#: After so many accepts that found no connection, look whether the listener was shut down. A lost race with
#: another process finds none, too, so that to look each time would be too often.
_LOOK_EVERY_ACCEPTS = 64


class Acceptor:
    def __init__(self, context: ChildContext, handles: HandleSet) -> None:
        self.intakes = {intake.fileno(): intake for intake in context.intakes}
        self.bell = context.lease.bells[context.slot] if context.lease is not None else None
        self.pause_ends = NEVER
        self.backpressure = Backpressure(context.lease, any(intake.shared for intake in context.intakes))
        self._context = context
        self._handles = handles
        self._lease = context.lease
        self._slot = context.slot
        self._cells = context.row.cells
        self._most = context.config.worker_connections
        self._retry = Retry(context.log.error)
        self._listening = False
        self._ends = any(intake.ends for intake in context.intakes)
        self._retired = False
        self._nobody_after = False  # accepts what this child leaves behind
        self._patience_ends = NEVER
        self.full = False
        self._connections = 0
        self._last = -1  # the listener that was accepted from last
        self._deaf: set[int] = set()  # listeners that were shut down (shutdown(2))
        self._in_vain = 0  # accepts that found no connection

    # ---- leadership -----------------------------------------------------------------------

    def join(self) -> float:
        """Become what the lease says, leader or follower; called before each wait. Returns when to call it
        again, at the latest, seconds of CLOCK_MONOTONIC; 0: at once, since there is something to `drain`, and
        an empty listener is not readable."""
        if self.no_room():
            self._resume(monotonic())
        lead = self.leads()
        if lead is not self._listening:
            self._listen(lead)
        if self._listening:
            return NEVER
        if self.no_room():
            return min(self.pause_ends, self.backpressure.ends)
        return 0.0 if self._retired and self.intakes and not self._ends else NEVER

    def _listen(self, lead: bool) -> None:
        self._listening = lead
        try:
            for fd, intake in self.intakes.items():
                if fd in self._deaf:
                    continue
                if lead:
                    self._wait_for(intake)
                else:
                    self._handles.remove(fd)
        except OSError as error:
            self._cannot_listen(error)

    def _cannot_listen(self, error: OSError) -> None:
        """The system has no room to wait for one of the intakes: try again in a moment."""
        self._listening = False
        for fd in self.intakes:
            with contextlib.suppress(OSError, KeyError):  # those that are not in it
                self._handles.remove(fd)
        self.pause(WAITING_CALL, error)

    def _wait_for(self, intake: Intake) -> None:
        self._handles.add(intake.fileno(), READ | EXCLUSIVE if intake.shared else READ)

    def leads(self) -> bool:
        if self.no_room():
            return False
        if self._retired:
            return self._ends
        return self._lease is None or self._lease.leads(self._slot)

    def hear(self) -> None:
        """The bell rang. `join` does what the lease says."""
        assert self._lease is not None
        self._lease.hear(self._slot)

    def turns(self) -> deque[int]:
        """The order in which to accept now that one of several is ready: the others may be, too, and the one
        that had the last turn is last. Leadership changes hands, so a child cannot know which listeners the
        others left out."""
        turns = deque(self.intakes)
        if self._last in self.intakes:
            turns.rotate(-turns.index(self._last) - 1)
        return turns

    def accept(self, fd: int) -> Accepted | None:
        """One connection, after which the next leader is chosen; None when there is none, or when
        this child does not lead (any more)."""
        intake = self.intakes.get(fd)
        if self._retired or intake is None or not self.leads():
            return None
        if self.backpressure.busy and self.backpressure.asked():
            return None
        found = self._take(intake)
        if found is not None:
            self._promote()
        return found

    def accepted(self, fd: int, result: Any) -> Accepted | None:
        """An accept that was started on a listener is complete: with a descriptor, or an OSError."""
        if isinstance(result, BlockingIOError):
            self._found_nobody(self.intakes[fd])  # as in `_try`
            return None
        if isinstance(result, OSError):
            self._failed(self.intakes[fd], result)
            return None
        self._came()
        found = self.intakes[fd].wrap(result)
        self._promote()
        return found if result > 2 else _lifted(found)

    def _came(self) -> None:
        """Count what was just taken: first as a connection that is here, then as one that has come, so that
        the master, which reads them the other way round, never misses one (master/dispatcher.py)."""
        self.announce(self._connections + 1)
        self._cells[ACCEPTED] += 1

    def _promote(self) -> None:
        """Choose the next leader."""
        if self._lease is not None and self._lease.promote(self._slot):
            self._cells[PROMOTIONS] += 1

    def announce(self, connections: int) -> None:
        """The number of this child's connections changed: store it for the other children and the
        scoreboard."""
        self._connections = connections
        self._cells[CONNECTIONS] = connections
        self.full = connections >= self._most
        if self._lease is not None:
            self._lease.load[self._slot] = FULL if self.full or self._retired else connections

    # ---- no room --------------------------------------------------------------------------

    def no_room(self) -> bool:
        """Whether this child waits for no connection, even if it leads."""
        return self.full or self.pause_ends != NEVER or self.backpressure.ends != NEVER

    @property
    def room(self) -> int:
        """Connections that this child may take, if it leads, without being full."""
        return self._most - self._connections - 1 if self.leads() else 0

    def accept_links(self, fd: int, most: int) -> list[Link]:
        """As `accept`, on a listener, for native code. More than one are to be over at once: then leadership
        is passed on before only if more clients may be waiting, and they count when they were `served`."""
        intake = self.intakes.get(fd)
        if self._retired or intake is None or not self.leads():
            return []
        assert isinstance(intake, ListenerIntake)
        room = max(1, min(most, self._most - self._connections - 1))
        links = self._try(intake, intake.take_links, room) or []
        if links:
            self._last = fd
        else:
            self._found_nobody(intake)
        if most == 1:
            if links:
                self._came()
                self._promote()
        elif len(links) >= room:
            self.crowded(len(links))
        return links

    def crowded(self, count: int) -> None:
        """So many were taken at a time, and more may be waiting."""
        self.announce(self._connections + count)
        self._promote()

    def served(self, count: int, connections: int) -> None:
        """`count` connections were served that are not counted yet, and `connections` are open now: choose
        the next leader, if that was not done."""
        self._cells[ACCEPTED] += count
        if connections != self._connections:
            self.announce(connections)
        if connections and self._lease is not None and self._lease.leads(self._slot):
            self._promote()

    def _take(self, intake: Intake) -> Accepted | None:
        found = self._try(intake, intake.take)
        if found is not None:
            self._last = intake.fileno()
            self._came()
            return found if found[0].fileno() > 2 else _lifted(found)
        return None

    def _try(self, intake: Intake, take: Callable[..., T], *arguments: int) -> T | None:
        """The result of `take`; None when there is nothing to be taken."""
        try:
            return take(*arguments)
        except BlockingIOError:
            # Another leader took it, or the client gave up; or this was all that had to be drained.
            if self._retired and not intake.ends:
                self._close(intake, self._nobody_after)
            else:
                self._found_nobody(intake)
        except EOFError:
            self._close(intake)
        except OSError as error:
            self._failed(intake, error)
        return None

    def _failed(self, intake: Intake, error: OSError) -> None:
        if error.errno == errno.EINVAL:
            if self._retired:
                self._close(intake)  # another child has retired, found it empty and ended it
            else:
                self._deafen(intake)  # or will retire in a moment, as the master knows
            return
        self._context.row.failed(error.errno or 0)
        self.pause("accept", error)

    def pause(self, call: str, error: OSError) -> None:
        """Accept nothing for a while, for `call` has failed."""
        self.pause_ends = monotonic() + self._retry.pause(call, error)

    def _resume(self, now: float) -> None:
        """The pause may be over, or the backpressure."""
        if self.pause_ends <= now:
            self.pause_ends = NEVER
        self.backpressure.over(now)

    # ---- a listener that was shut down ----------------------------------------------------

    def _found_nobody(self, intake: Intake) -> None:
        """It was ready, and had no connection. A unix socket that was shut down is so for ever."""
        self._in_vain += 1
        if self._in_vain % _LOOK_EVERY_ACCEPTS == 0 and not intake.ends and is_shut_down(intake.fileno()):
            self._deafen(intake)

    def _deafen(self, intake: Intake) -> None:
        """Stop waiting for it, and report it to the master."""
        fd = intake.fileno()
        if fd not in self._deaf:
            if self._listening:
                self._handles.remove(fd)
            self._deaf.add(fd)
            self._context.deaf(fd)

    def leftover(self, fd: int) -> Accepted | None:
        """A connection that still waits in a socket which another is to replace."""
        intake = self.intakes.get(fd)
        if intake is None or intake.ends:
            return None
        try:
            found = intake.take()
        except OSError:
            return None
        self._came()
        return found if found[0].fileno() > 2 else _lifted(found)

    def relisten(self, fd: int, renewed: int = -1) -> None:
        """Wait for it again: for the same socket, or for another one, which gets its descriptor."""
        intake = self.intakes.get(fd)
        if intake is not None and not intake.ends:
            if renewed >= 0:
                if self._listening and fd not in self._deaf:
                    self._handles.remove(fd)  # before: an epoll knows it as this socket's (epoll(7))
                self._deaf.add(fd)
                os.dup2(renewed, fd, inheritable=False)
            if fd in self._deaf:
                self._deaf.remove(fd)
                if self._listening:
                    self._wait_for(intake)
        if renewed >= 0:
            os.close(renewed)

    # ---- the end --------------------------------------------------------------------------

    def retire(self, drain_queue: bool) -> None:
        """Accept no more for the service's sake, and pass leadership on: what would be lost is
        taken by `drain`."""
        self._retired = True
        self._nobody_after = drain_queue
        # The rest of the time is for the requests in flight.
        self._patience_ends = monotonic() + self._context.config.graceful_timeout / 2
        self.announce(self._connections)
        self.join()
        if self._lease is not None and self._lease.leads(self._slot):
            self._lease.promote(self._slot)

    def drain(self) -> list[Accepted]:
        """Once retired: a few connections from each intake, so that all children share what is left, and
        none takes more than it can hold. An intake that has nothing left is closed.

        More than one, and before any of them is served: with a backlog of 0 the kernel lets a new client in
        only when none waits (Listener.shut). A client that was just answered may connect again while the next
        request is in the application. It is found here together with the end of the queue behind it; a child
        that takes one at a time would find a connection each time, and never end."""
        taken: list[Accepted] = []
        for intake in list(self.intakes.values()):
            lost = self._nobody_after or intake.own  # if this child does not take it
            if not lost or monotonic() > self._patience_ends:
                self._close(intake)
                continue
            for _ in range(_DRAIN_CONNECTIONS):
                if self.no_room() or (found := self._take(intake)) is None:
                    break
                taken.append(found)
        return taken

    @property
    def finished(self) -> bool:
        """Whether no connection is served, and none will be."""
        return self._retired and not self.intakes and not self._connections

    def _close(self, intake: Intake, for_all: bool = False) -> None:
        fd = intake.fileno()
        if self._listening and fd not in self._deaf:
            self._handles.remove(fd)
        self._deaf.discard(fd)
        del self.intakes[fd]
        if for_all:
            intake.end()
        else:
            intake.close()


def _lifted(accepted: Accepted) -> Accepted:
    """The application has closed a standard descriptor, and this connection got its number."""
    sock, client, begin = accepted
    return lift(sock), client, begin
