"""The exchanges of a loop that run apart from their connections, on their way to threads and back.

The thread that has a connection begins an exchange for its session; another thread runs a step of it; and at
the end of a turn the thread that waits resumes the session with it, as soon as that waits, too. In a child, a
part of the loops with threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from forkd.engine.connection import Connection
from forkd.engine.connections import Connections
from forkd.session.seam import Multiplexed


class Multiplexing:
    def __init__(
        self,
        connections: Connections,
        run: Callable[[Multiplexed], None],
        resume: Callable[[Connection, Multiplexed], None],
    ) -> None:
        """`attend` calls both, and they may break off: `run` has a step run, `resume` continues a session."""
        self._connections = connections
        self._run = run
        self._resume = resume
        # Any thread appends, and sees to it that the thread that waits attends, which alone removes. Only one
        # thread at a time has hold of an exchange.
        self._apart: set[Multiplexed] = set()  # begun, and no session was resumed with it since
        self._begun: deque[Multiplexed] = deque()
        #: Of which a step has run.
        self.returned: deque[Multiplexed] = deque()

    def begin(self, exchange: Multiplexed) -> None:
        """A session has yielded it. In any thread."""
        exchange.given = True
        self._apart.add(exchange)
        self._begun.append(exchange)

    @property
    def busy(self) -> bool:
        """Whether any exchange is with a thread, or on its way: maybe one whose client has left."""
        return bool(self._apart)

    @property
    def waits(self) -> bool:
        """Whether there is anything to attend to."""
        return bool(self._begun or self.returned)

    def attend(self) -> bool:
        """By the thread that waits, at the end of a turn. Returns whether any is left: its connection is with
        another thread, or is being written to."""
        while self._begun:
            exchange = self._begun.popleft()
            exchange.over = exchange.over or self._left(exchange)
            self._run(exchange)
        for _ in range(len(self.returned)):
            # It stays where another thread sees it until its connection has been looked at: see `_hand_back`
            # in models/leader_threads.py.
            exchange = self.returned[0]
            conn: Connection = exchange.peer  # type: ignore[assignment]
            if exchange.over or self._left(exchange):
                self.returned.popleft()
                self._end(exchange)
            elif not conn.ended and self._connections.resumable(conn):
                self.returned.popleft()
                self._apart.discard(exchange)
                exchange.given = False
                self._resume(conn, exchange)
            else:  # an ended session may just be closing it
                self.returned.rotate(-1)
        return bool(self.returned)

    def _left(self, exchange: Multiplexed) -> bool:
        """Whether its connection is gone, and with it its session."""
        return self._connections.by_fd.get(exchange.peer.fd) is not exchange.peer

    def _end(self, exchange: Multiplexed) -> None:
        """No session is resumed with it any more. Its last step closes it, and it comes here again."""
        exchange.over = True
        if exchange.done:
            self._apart.discard(exchange)
            exchange.given = False
            self._connections.report(exchange)
        else:
            self._run(exchange)
