"""The synchronous steps, all in the thread that waits: receive, resume the session, send.

For the models in which the process that has a connection does everything for it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from forkd.app.session import Deadline
from forkd.models.connection import CHUNK, Connection
from forkd.models.loop import ChildLoop
from forkd.models.steps import ABORTED, advance, flush
from forkd.system.handles import HANGUP, WRITE


class InlineLoop(ChildLoop):
    def serve(self, sock: socket.socket, client: Any, server: tuple[str, int]) -> None:
        """Start the session; serve at once what has already arrived."""
        conn = self.keeper.adopt(sock, client, server)
        self._go(conn, conn.resume, None)
        if conn.mask is not None and conn.op.read:
            self._receive(conn)

    def ready(self, conn: Connection, mask: int) -> None:
        op = conn.op
        if op is self.keeper.writing:
            self._flush(conn)
        elif op.write and mask & WRITE:
            self._go(conn, conn.resume, None)
        elif op.read:
            if op.idle or not self.keeper.linger(conn):
                self._receive(conn)
        elif mask & HANGUP:
            conn.end(self.log)  # only HANGUP wakes a connection that waits for nothing
            self.keeper.close(conn)

    def late(self, conn: Connection) -> None:
        self._go(conn, conn.session.throw, Deadline(conn.op.name))

    def woken(self, conn: Connection) -> None:
        if conn.mask is not None and conn.op is not self.keeper.writing:
            self._go(conn, conn.resume, None)

    def _receive(self, conn: Connection) -> None:
        try:
            data = conn.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            conn.end(self.log)
            self.keeper.settle(conn, ABORTED)
            return
        conn.moved += len(data)
        self._go(conn, conn.resume, data)

    def _flush(self, conn: Connection) -> None:
        outcome = flush(conn, self.log)
        if outcome is None:
            self._go(conn, conn.resume, None)
        else:
            self.keeper.settle(conn, outcome)

    def _go(self, conn: Connection, step: Callable[[Any], Any], value: Any) -> None:
        """The one way into a session: leader_threads.py, where it may block, has another."""
        self.keeper.settle(conn, advance(conn, step, value, self.log))
