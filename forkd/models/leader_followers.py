"""Leader/Followers (POSA2, Schmidt, Stal, Rohnert, Buschmann), over processes.

The set of children shares the listeners, and takes turns at waiting for them.

1. One child is the *leader*: the lease names it, and only its handle set contains the listeners.
2. A connection arrives; the leader wakes and accepts it.
3. It *promotes a follower*: the child with the fewest connections, if that has fewer than itself.
   The promoted child's bell rings, and it puts the listeners into its own handle set.
4. Only then does the former leader work: it resumes the session until that has to wait.
5. It joins the followers: its handle set holds its own connections and its bell, so that it serves
   its clients and can be promoted at once.

Steps 1, 2, 3 and 5 are those of every model whose children accept (loop.py, acceptor.py); what makes
this one Leader/Followers is step 4: the thread that learned of an event handles it, with no hand-off.
When the leader is still inside application code while somebody waits, SIGIO tells the master, which
grants the lease to an idle follower (supervise/doorbell.py).

`--accept exclusive` and `reuseport` leave step 3 to the kernel: every child waits on the listeners
all the time. `--io blocking` serves one client per child, to its end, in step 4 (blocking.py).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from forkd.app.session import Deadline
from forkd.models.connection import Connection
from forkd.models.loop import ChildLoop
from forkd.models.steps import ABORTED, CHUNK, advance, flush
from forkd.system.handles import WRITE


class LeaderFollowers(ChildLoop):
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
        elif not mask & WRITE:
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
        self.keeper.settle(conn, advance(conn, step, value, self.log))
