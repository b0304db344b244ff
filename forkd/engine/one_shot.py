"""The fast path for one-request connections: native code accepts and answers them as bare Links.

A Connection is made only for a client that does more (native/engine_accept.c). Where all connections are
one-shot, native code accepts several at a time (engine/batch.py), and waits for those that have sent nothing
yet, which are *silent*. Without native code `lead` and `serve` of the other loops do the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forkd.engine.batch import Batch
from forkd.engine.baton import Baton
from forkd.engine.connection import Connection
from forkd.engine.context import ChildContext
from forkd.engine.deadlines import NEVER
from forkd.engine.intake import ListenerIntake
from forkd.engine.link import Link
from forkd.engine.loop import ChildLoop
from forkd.engine.share import MOST_ACCEPTS
from forkd.engine.steps import advance
from forkd.native import native
from forkd.session.seam import Await
from forkd.system.caution import SLOW_SECONDS
from forkd.system.cells import ACCEPTED
from forkd.system.handles import NativeEpollSet
from forkd.system.originals import monotonic
from forkd.system.stdio import mend

if TYPE_CHECKING:
    from forkd._native import Dispatcher

#: Seconds between two looks at silent connections. One that is silent at both gets a Connection.
_SILENT_SECONDS = 0.05
_MAX_SILENT_LINKS = 256


class OneShotLoop(ChildLoop):
    def __init__(self, context: ChildContext, baton: Baton | None = None) -> None:
        """`baton`: where threads take turns; there native code accepts nothing."""
        super().__init__(context)
        self._alone = baton is None
        self._batch = Batch()
        self._caution = context.lease.caution if context.lease is not None else None
        self._silent: dict[int, Link] = {}
        self._silent_before: dict[int, Link] = {}  # those that have been silent for a while
        self._look_at = NEVER  # when to look for them
        self._epoll = self.handles.fileno() if isinstance(self.handles, NativeEpollSet) else -1
        self.dispatcher: Dispatcher | None = (
            native.Dispatcher(self, self.calls, self.connections.by_fd, self._silent, baton)
            if native is not None and context.config.native
            else None
        )

    def lead(self, fd: int) -> None:
        dispatcher, intakes = self.dispatcher, self.acceptor.intakes
        if dispatcher is None:
            super().lead(fd)
            return
        if self._alone:
            self.share.taken = dispatcher.taken
        super().lead(fd)
        intake, opening = intakes.get(fd), self.context.interface.opening
        dispatcher.one_shot = None
        if (
            self._alone and self._epoll >= 0 and self._batch.full and opening is not None
            and len(intakes) == 1  # native code knows no turns of listeners
            and isinstance(intake, ListenerIntake)
        ):  # fmt: skip
            size = 1 if self.context.lease is None else self._batch.size
            dispatcher.one_shot = (
                fd, size, *intake.names, mend, opening, intake, self._epoll, self._room - size
            )  # fmt: skip

    def take(self, fd: int) -> bool:
        intake, opening = self.acceptor.intakes.get(fd), self.context.interface.opening
        dispatcher = self.dispatcher if self._alone else None
        if dispatcher is None or opening is None or not isinstance(intake, ListenerIntake):
            return super().take(fd)
        self.before(fd)
        left = MOST_ACCEPTS - self.share.taken
        size = 1 if self.context.lease is None else min(self._batch.size, left)
        links = self.acceptor.accept_links(fd, size)
        if links:
            self.share.taken += len(links)
            if self.connections.now >= self.accept_wait.due:
                self.accept_wait.look_at(links[0].fd, self.connections.now)
            self._begin(dispatcher, intake, opening, links)
        return len(links) == size

    def _begin(
        self, dispatcher: Dispatcher, intake: ListenerIntake, opening: Await, links: list[Link]
    ) -> None:
        began, several = monotonic(), self._batch.size > 1
        silent = several and len(self._silent) + len(links) < self._room
        dispatcher.begin(links, opening, intake, self._epoll if silent else -1)
        self.served(len(links), monotonic() - began)

    @property
    def _room(self) -> int:
        """For silent connections, which are not counted until they have a Connection."""
        return min(_MAX_SILENT_LINKS, self.acceptor.room)

    # ---- what native code calls -----------------------------------------------------------

    def crowded(self, intake: ListenerIntake, links: list[Link]) -> None:
        """Native code has accepted these, and more may be waiting."""
        assert self.dispatcher is not None
        assert self.context.interface.opening is not None
        self.acceptor.crowded(len(links))
        self._begin(self.dispatcher, intake, self.context.interface.opening, links)

    def served(self, count: int, seconds: float) -> None:
        """So many connections that were not silent have been served within `seconds`."""
        several = self._batch.size > 1
        if seconds >= SLOW_SECONDS and self._caution is not None:
            self._caution.slow(monotonic(), seconds)
        self._batch.served(count, seconds, len(self.connections.by_fd))
        self.acceptor.served(count if several else 0, len(self.connections.by_fd))
        if not self._batch.full and self.dispatcher is not None:
            self.dispatcher.one_shot = None

    def grown(self, link: Link) -> Connection:
        """The Connection of a link that native code has begun with, and that needs a session."""
        conn = self.connections.add(*link.origin.grown(link))
        conn.forks = link.forks
        conn.op = advance(conn, conn.resume, None, self.log)
        return conn

    def heed(self, now: float) -> None:
        """Before a turn with a batch: take no more than one at a time where another child has just met slow
        requests. When a measure of the accept queue is due, `take` gets the next connections."""
        if now >= self.accept_wait.due:
            assert self.dispatcher is not None
            self.dispatcher.one_shot = None
        if self._caution is not None and self._caution.advised(now):
            self._batch.begin_anew()
            assert self.dispatcher is not None
            self.dispatcher.one_shot = None

    def turn(self, timeout: float | None) -> None:
        super().turn(timeout)
        dispatcher = self.dispatcher
        if dispatcher is not None and dispatcher.accepted:
            self._cells[ACCEPTED] += dispatcher.accepted
            dispatcher.accepted = 0
        if self._silent and self._look_at == NEVER:
            self._look_at = self.connections.now + _SILENT_SECONDS
        if self._look_at <= self.connections.now:
            self._grow(self._silent_before)
            self._silent_before = self._silent.copy()
            self._look_at = self.connections.now + _SILENT_SECONDS if self._silent_before else NEVER
        if self._look_at < self._again:
            self._again = self._look_at

    def _grow(self, links: dict[int, Link]) -> None:
        """Make a Connection of each of these links that is still silent."""
        for fd, link in list(links.items()):
            if self._silent.get(fd) is link:
                assert self.dispatcher is not None
                del self._silent[fd]
                conn = self.dispatcher.grow(link)
                self.connections.follow(conn, conn.op)

    def retire(self, idle_grace: float, drain_queue: bool) -> None:
        self._grow(self._silent)
        if self.dispatcher is not None:
            self.dispatcher.one_shot = None
        super().retire(idle_grace, drain_queue)

    def descriptors(self) -> set[int]:
        held = self.dispatcher.held() if self.dispatcher is not None else ()
        return super().descriptors() | {*self._silent, *held}

    def abandon(self) -> None:
        self._silent.clear()  # that closes them
        super().abandon()
