"""The synchronous steps, all in the thread that waits: receive, resume the session, send.

For the models in which the process that has a connection does everything for it. The loop's driver
(engine/driver.py) dispatches what is ready, and may do what is usual itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forkd.engine.baton import Baton
from forkd.engine.connection import CHUNK_BYTES, Connection
from forkd.engine.context import ChildContext
from forkd.engine.driver import Driver, driver_row
from forkd.engine.loop import ChildLoop
from forkd.engine.steps import ABORTED, FINISHED, SUSPENDED, Outcome, advance, flush
from forkd.session.begin import BoundBegin
from forkd.session.seam import HIJACK, Await, Deadline
from forkd.system.handles import HANGUP, WRITE, HandleSet, only_ends
from forkd.system.originals import socket


class InlineLoop(ChildLoop):
    def __init__(self, context: ChildContext, baton: Baton | None = None) -> None:
        """`baton`: where threads take turns as the leader."""
        self._parts = driver_row(context.io, context.config.native)
        super().__init__(context)
        self.driver: Driver = self._parts.make(self, self._receive, baton)
        self.accept, self.demultiplex = self.driver.take, self.driver.run

    def handle_set(self) -> HandleSet:
        return self._parts.handle_set()

    # ---- by the driver --------------------------------------------------------------------

    def retire(self, idle_grace: float, drain_queue: bool) -> None:
        self.driver.retire()
        super().retire(idle_grace, drain_queue)

    def descriptors(self) -> set[int]:
        return super().descriptors() | self.driver.descriptors()

    def abandon(self) -> None:
        self.driver.abandon()
        super().abandon()

    # ---- a connection ---------------------------------------------------------------------

    def serve(self, sock: socket.socket, client: Any, begin: BoundBegin) -> None:
        """Start the session, and serve at once what has usually arrived already, before the connection is put
        into the handle set: it may be all that the client sends."""
        conn = self.connections.add(sock, client, begin)
        outcome = advance(conn, conn.resume, None, self.log, to_ready=True)
        if outcome is HIJACK:
            self._enter(conn, outcome)
        elif type(outcome) is Await and outcome.read and not outcome.write:
            conn.op = outcome
            greeted = conn.moved  # the session may have sent something
            self.driver.receive(conn)
            # Nothing came; what did has led to something, which may be in another thread by now.
            if (
                conn.moved == greeted
                and conn.mask is None
                and self.connections.by_fd.get(conn.fd) is conn
            ):
                self.connections.follow(conn, conn.op)
        else:
            self.connections.follow(conn, outcome)

    def ready(self, conn: Connection, mask: int) -> None:
        op = conn.op
        if op is self.connections.writing:
            self._flush(conn)
        elif op.write and mask & WRITE:
            self._go(conn, conn.resume, None)
        elif op.read:
            if op.idle or not self.connections.linger(conn):
                self.driver.receive(conn)
        elif op.read_end and only_ends(mask):
            self._go(conn, conn.resume, b"")
        elif mask & HANGUP:
            conn.end(self.log)
            self.connections.close(conn)

    def late(self, conn: Connection) -> None:
        self._go(conn, conn.session.throw, Deadline(conn.op.name))

    def woken(self, conn: Connection) -> None:
        if conn.mask is not None and conn.op is not self.connections.writing and conn.call is None:
            self._go(conn, conn.resume, None)

    # ---- what a driver calls --------------------------------------------------------------

    def feed(self, conn: Connection, value: Any) -> None:
        """Resume the session with what has arrived: bytes, or a request that was begun."""
        self._go(conn, conn.resume, value)

    def lost(self, conn: Connection) -> None:
        """Receiving has failed: the client has left."""
        conn.end(self.log)
        self.connections.follow(conn, ABORTED)

    def failed(self, conn: Connection, failure: BaseException) -> None:
        """The protocol that the session drives has raised this."""
        self._go(conn, conn.session.throw, failure)

    def rests(self, conn: Connection, op: Await) -> None:
        """A request is answered, and the connection waits for the next one."""
        self.connections.follow(conn, op)

    def suspended(self, conn: Connection) -> None:
        """The application has a request, `conn.call`, and answers later."""
        self.connections.follow(conn, SUSPENDED)

    def ended(self, conn: Connection) -> None:
        """A request is answered, and it was the last one."""
        conn.end(self.log)
        self.connections.follow(conn, FINISHED)

    # ---- steps ----------------------------------------------------------------------------

    def _receive(self, conn: Connection) -> None:
        try:
            data = conn.receive(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.lost(conn)
            return
        self.feed(conn, data)

    def _flush(self, conn: Connection) -> None:
        outcome = flush(conn, self.log)
        if outcome is None:
            self._go(conn, conn.resume, None)
        else:
            self.connections.follow(conn, outcome)

    def _enter(self, conn: Connection, reached: Outcome) -> None:
        """From an Exchange or HIJACK on."""
        self._go(conn, conn.resume, conn.hijack() if reached is HIJACK else None)

    def _go(self, conn: Connection, step: Callable[[Any], Any], value: Any) -> None:
        """The one way into a session: models/leader_threads.py, where it may block, has others."""
        self.connections.follow(conn, advance(conn, step, value, self.log))
