"""Reactor (POSA2) with a pool of event handlers.

The main thread is the synchronous event demultiplexer and nothing else; every event is an entry of
its own in the request queue, and pool threads are the event handlers.

1. The main thread waits, for readable and for writable handles.
2. A readable handle becomes an entry (*readable*, connection) in the request queue.
3. A pool thread takes it, reads, runs the application, and leaves the answer with the connection,
   unsent: the connection is registered for writability.
4. A writable handle becomes an entry (*writable*, connection).
5. A pool thread, maybe another one, sends. When all is sent the session goes on: it yields the next
   piece (step 4 again), or waits for the next request (step 1).
"""

from __future__ import annotations

from forkd.engine.connection import Connection
from forkd.engine.pooled import PooledLoop
from forkd.engine.steps import Outcome, advance, flush, read
from forkd.models.row import ModelRow, refused_by_pools
from forkd.session.seam import Multiplexed
from forkd.system.handles import WRITE


class Reactor(PooledLoop):
    def ready(self, conn: Connection, mask: int) -> None:
        """Steps 2 and 4: demultiplex, dispatch into the queue, and wait again."""
        if self.connections.linger(conn):
            return
        if conn.op is self.connections.writing or (conn.op.write and mask & WRITE):
            self.lend(conn, lambda: self._writable(conn))
        else:
            self.lend(conn, lambda: self._readable(conn))

    def resume(self, conn: Connection, exchange: Multiplexed) -> None:
        """A third kind of event: an exchange has something for its session."""
        self.lend(conn, lambda: advance(conn, conn.resume, exchange, self.log, send=False))

    def _readable(self, conn: Connection) -> Outcome:
        """Step 3, in a pool thread."""
        return read(conn, self.log, send=False)

    def _writable(self, conn: Connection) -> Outcome:
        """Step 5, in a pool thread."""
        outcome = flush(conn, self.log)
        if outcome is None:
            return advance(conn, conn.resume, None, self.log, send=False)
        return outcome


ROW = ModelRow(
    name="reactor",
    make=Reactor,
    ios=("epoll", "poll", "select"),
    master_accepts=False,
    forks=False,
    threaded=True,
    pooled=True,
    waits="the child's main thread, which only waits",
    moves="pool threads; a readable and a writable event are two queue entries",
    logic="a pool thread",
    handoff="ready events in the request queue",
    good_for="seeing the pattern as it is written; large answers to slow clients",
    weakness="two passes of the queue and two registrations for each request",
    refused=refused_by_pools("epoll", "poll", "select"),
)
