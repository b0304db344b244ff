"""Simulated Proactor: the interface of Proactor (POSA2) over synchronous I/O.

The main thread does what a kernel with asynchronous I/O would do, reads and writes; the pool's
threads see only requests and hand back responses, as completion handlers do.

1. The main thread waits; when a connection is readable it reads until EAGAIN or until a request is
   complete.
2. It wraps the complete request as an object and puts that into the request queue.
3. A pool thread runs the application, and hands the response back, unsent.
4. The main thread writes it when the connection is writable.
5. If the application may have more to say, the session goes back into the queue (step 3); else the main
   thread takes note that the request is answered, and waits for the next one (step 1).
"""

from __future__ import annotations

from forkd.engine.connection import Connection
from forkd.engine.pooled import PooledLoop
from forkd.engine.steps import WRITING, Outcome, flush, read
from forkd.models.row import ModelRow, refused_by_pools


class SimulatedProactor(PooledLoop):
    sends = False  # step 3 hands the response back

    def ready(self, conn: Connection, mask: int) -> None:
        if self.connections.linger(conn):
            return
        if conn.op is self.connections.writing:
            self._write(conn)
        else:
            self._read(conn)

    def _read(self, conn: Connection) -> None:
        """Steps 1 and 2, in the main thread."""
        outcome: Outcome = conn.op
        moved = -1
        while outcome is conn.op and moved != conn.moved:  # until EAGAIN, which moves nothing
            moved = conn.moved
            outcome = read(conn, self.log, to_ready=True)
        self.begun(conn, outcome)

    def finished(self, conn: Connection, outcome: Outcome) -> None:
        """A response is here."""
        if outcome is WRITING:
            self._write(conn)
        else:
            self.connections.follow(conn, outcome)

    def _write(self, conn: Connection) -> None:
        """Steps 4 and 5, in the main thread."""
        outcome = flush(conn, self.log)
        if outcome is None and conn.exchange.line:
            self.lend(conn, lambda: self.logic(conn, conn.exchange))
        elif outcome is None:
            self.go(conn, conn.resume, None)
        else:
            self.connections.follow(conn, outcome)


ROW = ModelRow(
    name="simulated-proactor",
    make=SimulatedProactor,
    ios=("epoll", "poll", "select"),
    master_accepts=False,
    forks=False,
    threaded=True,
    pooled=True,
    waits="the child's main thread",
    moves="the main thread: it reads until EAGAIN, and writes when writable",
    logic="a pool thread",
    handoff="request objects in the queue, responses back",
    good_for="applications that block, behind clients that send or read slowly",
    weakness="the main thread moves all bytes of its child",
    refused=refused_by_pools("epoll", "poll", "select"),
)
