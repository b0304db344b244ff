"""Half-Sync/Half-Reactive (POSA2: the variant of Half-Sync/Half-Async over a reactor).

The reactive layer is the child's main thread, the queueing layer is the request queue, the
synchronous layer is a pool of threads that compete for what is in it.

1. The main thread waits on the listeners and on all connections.
2. A connection is readable. `handoff = socket`: the main thread takes it out of its handle set and
   puts the *ready socket* into the request queue, unread. `handoff = task`: it reads, and puts a
   *task* into the queue when a request is complete.
3. An idle pool thread takes the entry; it has the connection to itself.
4. It reads (socket), runs the application and writes the answer, synchronously.
5. It hands the connection back, and the main thread puts it into its handle set again.

Every child has a main thread and a queue of its own: N children are the multi-loop form, which
lifts the weaknesses of the single one, the lock of the queue and one client per thread at a time.
"""

from __future__ import annotations

from forkd.engine.connection import Connection
from forkd.engine.pooled import PooledLoop
from forkd.engine.steps import Outcome, advance, flush, read
from forkd.models.row import ModelRow, refused_by_pools
from forkd.session.seam import Multiplexed
from forkd.system.handles import WRITE


class HalfSyncHalfReactive(PooledLoop):
    def ready(self, conn: Connection, mask: int) -> None:
        """Step 2."""
        if self.connections.linger(conn):
            return
        if self.context.config.handoff == "socket" or conn.op is self.connections.writing:
            self.lend(conn, lambda: self._exchange(conn, mask))
        else:
            self.begun(conn, read(conn, self.log, to_ready=True))

    def resume(self, conn: Connection, exchange: Multiplexed) -> None:
        """An exchange that a thread has run apart from its connection has something to send: step 4."""
        self.lend(conn, lambda: advance(conn, conn.resume, exchange, self.log))

    def _exchange(self, conn: Connection, mask: int) -> Outcome:
        """Steps 3 and 4, in a pool thread: read or write what the socket is ready for, and go on."""
        if conn.op is self.connections.writing:
            outcome = flush(conn, self.log)
            return advance(conn, conn.resume, None, self.log) if outcome is None else outcome
        if conn.op.write and mask & WRITE:
            return advance(conn, conn.resume, None, self.log)
        return read(conn, self.log)


ROW = ModelRow(
    name="half-sync-half-reactive",
    make=HalfSyncHalfReactive,
    ios=("epoll", "poll", "select"),
    master_accepts=False,
    forks=False,
    threaded=True,
    pooled=True,
    waits="the child's main thread",
    moves="a pool thread (handoff = socket), or the main thread reads (handoff = task)",
    logic="a pool thread",
    handoff="ready sockets, or requests, in a request queue that idle threads compete for",
    good_for="applications that block, with clients that keep their connections",
    weakness="each request passes the queue's lock and wakes a thread; one client per thread "
    "at a time",
    refused=refused_by_pools("epoll", "poll", "select"),
)
