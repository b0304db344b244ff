"""Eviction: a child without a free place closes the connection that has been idle for the longest.

Idle is one of which nothing has come of the next request, be it the first, as nginx has it (its "reusable"
connections). One that has sent a byte of a request, that is being answered, or whose session is a stream, is
not. Belongs to the loop of a child.
"""

from __future__ import annotations

from heapq import nsmallest

from forkd.engine.connection import Connection
from forkd.engine.connections import Connections
from forkd.engine.deadlines import NEVER

#: Connections that are looked out at a time: all of a child's are looked at for that.
_MAX_FOUND_CONNECTIONS = 32
#: Seconds until they are looked at again after none of them was idle.
_PAUSE_SECONDS = 0.1


class Eviction:
    def __init__(self, connections: Connections) -> None:
        self.look_at = 0.0  # not before then
        self.owed = False  # a look was asked for before that
        self._connections = connections
        self._found: list[tuple[float, Connection]] = []  # the one that is idle for the longest is last

    def candidate(self, now: float) -> Connection | None:
        """The connection to close now, if any is idle."""
        found = self._next()
        if found is not None:
            return found
        self.owed = now < self.look_at
        if self.owed:
            return None
        idle = [(_since(conn), conn) for conn in self._all() if self._idle(conn)]
        self._found = nsmallest(_MAX_FOUND_CONNECTIONS, idle, key=lambda pair: pair[0])[::-1]
        found = self._next()
        if found is None:
            self.look_at = now + _PAUSE_SECONDS
        return found

    def _next(self) -> Connection | None:
        while self._found:
            since, conn = self._found.pop()
            if self._idle(conn) and _since(conn) == since and not _has_come(conn):
                return conn
        return None

    def _all(self) -> list[Connection]:
        return list(self._connections.by_fd.values())

    def _idle(self, conn: Connection) -> bool:
        return (
            conn.op.idle and conn.mask is not None and self._connections.by_fd.get(conn.fd) is conn
        )


def _since(conn: Connection) -> float:
    """The time when it became idle. That is not known without a --keep-alive limit, where the oldest comes
    first."""
    return 0.0 if conn.deadline == NEVER else conn.deadline - conn.op.seconds


def _has_come(conn: Connection) -> bool:
    """A request is in its socket, or an operation has taken it from there: closing it would lose that."""
    try:
        return conn.has_come()
    except OSError:
        return False
