"""The driver of an inline loop in native code (native/engine_inline.c): connections at rest are served there,
and the loop is called for all else.

It has a fast path for one-request connections: native code accepts and answers them as bare Links. A
Connection is made only for a client that does more (native/engine_accept.c). Where all connections are
one-shot, native code accepts several at a time (engine/batch.py), and waits for those that have sent nothing
yet, which are *silent*. In a child.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from forkd.engine.batch import Batch
from forkd.engine.baton import Baton
from forkd.engine.connection import Connection
from forkd.engine.deadlines import NEVER
from forkd.engine.intake import ListenerIntake
from forkd.engine.link import Link
from forkd.engine.loop import ChildLoop
from forkd.engine.share import MOST_ACCEPTS, SHARE_SECONDS
from forkd.engine.steps import advance
from forkd.native import native
from forkd.system.caution import SLOW_SECONDS
from forkd.system.cells import ACCEPTED
from forkd.system.handles import Events, NativeEpollSet
from forkd.system.originals import monotonic

if TYPE_CHECKING:
    from forkd._native import InlineDriver

#: Seconds between two looks at silent connections. One that is silent at both gets a Connection.
_SILENT_SECONDS = 0.05
_MAX_SILENT_LINKS = 256


class NativeDriver:
    def __init__(
        self, loop: ChildLoop, receive: Callable[[Connection], None], baton: Baton | None
    ) -> None:
        """`baton`: where threads take turns; there native code accepts nothing."""
        assert native is not None
        self._one_shot = native.OneShot
        self._loop = loop
        self._receive = receive
        self._alone = baton is None
        self._batch = Batch()
        self._caution = loop.context.lease.caution if loop.context.lease is not None else None
        self._silent: dict[int, Link] = {}
        self._silent_before: dict[int, Link] = {}  # those that have been silent for a while
        self._look_at = NEVER  # when to look for them
        self._epoll = loop.handles.fileno() if isinstance(loop.handles, NativeEpollSet) else -1
        self._native: InlineDriver = native.InlineDriver(
            loop=loop, driver=self, calls=loop.calls, connections=loop.connections.by_fd, silent=self._silent,
            suspended=loop.connections.suspended, baton=baton,
        )  # fmt: skip
        self.answer = self._native.answer

    # ---- what the loop calls: see engine/driver.py ----------------------------------------

    def run(self, events: Events) -> None:
        loop, driver = self._loop, self._native
        now = loop.connections.now
        if self._batch.size > 1:
            self._heed(now)
            # Deadlines, the log and the count of requests are looked at when they are due, or soon.
            driver.due = min(now + SHARE_SECONDS, loop.connections.wheel.next, loop.again)
        driver.run(events, now)
        if driver.accepted:
            loop.context.row.cells[ACCEPTED] += driver.accepted
            driver.accepted = 0
        if self._silent or self._look_at != NEVER:
            self._look(now)

    def take(self, fd: int) -> bool:
        loop = self._loop
        acceptor = loop.acceptor
        intake = acceptor.intakes.get(fd) if self._alone else None
        if not isinstance(intake, ListenerIntake) or intake.begin.opening is None:
            return loop.take(fd)
        if len(loop.connections.by_fd) >= loop.crowd:
            loop.before(fd)
        share, accept_wait = loop.share, loop.accept_wait
        left = MOST_ACCEPTS - share.taken
        size = 1 if loop.context.lease is None else min(self._batch.size, left)
        links = acceptor.accept_links(fd, size)
        if links:
            share.taken += len(links)
            if loop.connections.now >= accept_wait.due:
                accept_wait.look_at(links[0].fd, loop.connections.now)
            self._begin(intake, links)
        return len(links) == size

    def receive(self, conn: Connection) -> None:
        if not self._native.receive(conn, self._loop.connections.now):
            self._receive(conn)

    def watch_requests(self, wary: bool, patience: float) -> None:
        self._native.wary = wary
        self._native.patience = patience

    def retire(self) -> None:
        self._grow(self._silent)
        self._native.one_shot = None

    def descriptors(self) -> set[int]:
        return {*self._silent, *self._native.held()}

    def abandon(self) -> None:
        self._silent.clear()  # that closes them

    # ---- what native code calls -----------------------------------------------------------

    def other(self, fd: int) -> bool:
        """What is ready and no connection; True: a listener, whose turn is over."""
        loop, driver = self._loop, self._native
        if self._alone:
            loop.share.taken = driver.taken
        if not loop.other(fd):
            return False
        intakes = loop.acceptor.intakes
        intake = intakes.get(fd)
        driver.one_shot = None
        if (
            self._alone and self._epoll >= 0 and self._batch.full
            and len(intakes) == 1  # native code knows no turns of listeners
            and isinstance(intake, ListenerIntake) and intake.begin.opening is not None
        ):  # fmt: skip
            size = 1 if loop.context.lease is None else self._batch.size
            driver.one_shot = self._one_shot(
                source=intake.source, most=size, room=self._room - size, epoll=self._epoll,
                opening=intake.begin.opening, intake=intake,
            )  # fmt: skip
        return True

    def crowded(self, intake: ListenerIntake, links: list[Link]) -> None:
        """Native code has accepted these, and more may be waiting."""
        self._loop.acceptor.crowded(len(links))
        self._begin(intake, links)

    def served(self, count: int, seconds: float) -> None:
        """So many connections that were not silent have been served within `seconds`."""
        loop, several = self._loop, self._batch.size > 1
        if seconds >= SLOW_SECONDS and self._caution is not None:
            self._caution.slow(monotonic(), seconds)
        kept = len(loop.connections.by_fd)
        self._batch.served(count, seconds, kept)
        loop.acceptor.served(count if several else 0, kept)
        if not self._batch.full:
            self._native.one_shot = None

    def grown(self, link: Link) -> Connection:
        """The Connection of a link that native code has begun with, and that needs a session."""
        conn = self._loop.connections.add(*link.origin.grown(link))
        conn.forks = link.forks
        if (ends := link.note).proxy is not None:  # it has said what they are
            conn.server, conn.server_port, conn.proxy = ends.server, int(ends.port), ends.proxy
        conn.op = advance(conn, conn.resume, None, self._loop.log)
        return conn

    # ---- one-shot connections -------------------------------------------------------------

    def _begin(self, intake: ListenerIntake, links: list[Link]) -> None:
        opening = intake.begin.opening
        assert opening is not None
        began, several = monotonic(), self._batch.size > 1
        silent = several and len(self._silent) + len(links) < self._room
        self._native.begin(links, opening, intake, self._epoll if silent else -1)
        self.served(len(links), monotonic() - began)

    @property
    def _room(self) -> int:
        """For silent connections, which are not counted until they have a Connection."""
        return min(_MAX_SILENT_LINKS, self._loop.acceptor.room)

    def _heed(self, now: float) -> None:
        """Before a turn with a batch: take no more than one at a time where another child has just met slow
        requests. When a measure of the accept queue is due, `take` gets the next connections."""
        if now >= self._loop.accept_wait.due:
            self._native.one_shot = None
        if self._caution is not None and self._caution.advised(now):
            self._batch.begin_anew()
            self._native.one_shot = None

    def _look(self, now: float) -> None:
        """When it is time, for connections that have been silent for long."""
        if self._look_at == NEVER:
            self._look_at = now + _SILENT_SECONDS
        elif self._look_at <= now:
            self._grow(self._silent_before)
            self._silent_before = self._silent.copy()
            self._look_at = now + _SILENT_SECONDS if self._silent_before else NEVER
        self._loop.driver_due = self._look_at

    def _grow(self, links: dict[int, Link]) -> None:
        """Make a Connection of each of these links that is still silent."""
        for fd, link in list(links.items()):
            if self._silent.get(fd) is link:
                del self._silent[fd]
                conn = self._native.grow(link)
                self._loop.connections.follow(conn, conn.op)
