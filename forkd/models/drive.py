"""The inline driver: the thread that waits also receives, resumes the session and sends.

For models whose logic runs where its readiness was learned: leader/followers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from forkd.app.session import Deadline
from forkd.models.connection import Connection
from forkd.models.keeper import Keeper
from forkd.models.steps import ABORTED, CHUNK, advance, flush
from forkd.models.unit import Unit
from forkd.system.handles import WRITE, HandleSet


class EventDriver(Keeper):
    def __init__(self, unit: Unit, handles: HandleSet, counted: Callable[[int], None]) -> None:
        super().__init__(unit, handles, counted, self._woken)

    def serve(self, sock: socket.socket, client: Any, server: tuple[str, int]) -> None:
        """Take an accepted connection; serve at once what has already arrived."""
        conn = self.adopt(sock, client, server)
        self._go(conn, conn.resume, None)
        if conn.mask is not None and conn.op.read:
            self._receive(conn)

    def ready(self, conn: Connection, mask: int) -> None:
        """The connection's descriptor is ready: READ, WRITE, HANGUP or several of them."""
        op = conn.op
        if op is self.writing:
            outcome = flush(conn, self.log)
            if outcome is None:
                self._go(conn, conn.resume, None)
            else:
                self.renew(conn, CHUNK)
                self.settle(conn, outcome)
        elif op.write and mask & WRITE:
            self._go(conn, conn.resume, None)
        elif op.read:
            self._receive(conn)
        elif not mask & WRITE:
            conn.end(self.log)  # only HANGUP wakes a connection that waits for nothing
            self.close(conn)

    def expire(self) -> None:
        """Throw `Deadline` into the sessions whose time is up."""
        for conn in self.overdue():
            self._go(conn, conn.session.throw, Deadline(conn.op.name))

    def _receive(self, conn: Connection) -> None:
        if conn.op.idle or not self.linger(conn):
            try:
                data = conn.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError:
                conn.end(self.log)
                self.settle(conn, ABORTED)
                return
            self.renew(conn, len(data))
            self._go(conn, conn.resume, data)

    def _go(self, conn: Connection, step: Callable[[Any], Any], value: Any) -> None:
        self.settle(conn, advance(conn, step, value, self.log))

    def _woken(self, conn: Connection) -> None:
        if conn.fd in self.connections and conn.op is not self.writing:
            self._go(conn, conn.resume, None)
