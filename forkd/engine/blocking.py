"""Leader/Followers with `--io blocking`: one client at a time, served to its end.

Blocking I/O as in a classic prefork server: the child sleeps in send(2) for its one client, and a
silent client holds its child until a deadline. Before each recv(2) it sleeps in poll(2), which ends
at the deadline and when the master says that the child is to retire; recv(2) would go on waiting.
SO_SNDTIMEO ends a send(2) in which nothing moves; a client that reads slowly spends the patience
of `Connection.push_out`.
"""

from __future__ import annotations

import struct
from itertools import count
from typing import Any

from forkd.engine.connection import CHUNK_BYTES, Connection
from forkd.engine.connections import LINGER_SECONDS
from forkd.engine.context import ChildContext
from forkd.engine.loop import ChildLoop
from forkd.engine.steps import TURN_SENDS
from forkd.session.begin import BoundBegin
from forkd.session.seam import HIJACK, LINGER, Await, Become, Deadline, Exchange, Multiplexed
from forkd.system.forked import in_fork, leave
from forkd.system.originals import monotonic, select, socket


class BlockingFollowers(ChildLoop):
    def __init__(self, context: ChildContext) -> None:
        super().__init__(context)
        self._idle_grace: float | None = None

    def retire(self, idle_grace: float, drain_queue: bool) -> None:
        super().retire(idle_grace, drain_queue)
        self._idle_grace = idle_grace

    def serve(self, sock: socket.socket, client: Any, begin: BoundBegin) -> None:
        """Serve the connection until it ends."""
        config = self.context.config
        sock.setblocking(True)
        seconds = config.write_timeout
        timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        conn = Connection(sock, client, begin, seconds, self, self.context.host.recorder)
        self.connections.by_fd[conn.fd] = conn
        self.acceptor.announce(1)
        try:
            self._serve(conn)
        except (OSError, Deadline):
            pass  # the client left, or took too long; the session knows
        except BaseException:  # whatever it is: the next client is served
            self.log.exception(f"a session failed; its connection from {conn.client} is closed")
        finally:
            conn.end(self.log)
            del self.connections.by_fd[conn.fd]
            conn.close()
            self.acceptor.announce(0)
            self.context.after_turn()

    def _serve(self, conn: Connection) -> None:
        try:
            op = conn.resume(None)
            for number in count(1):
                if type(op) is Await:
                    op = self._await(conn, op)
                else:
                    # A client that never lets the child wait must not keep the master's messages from it.
                    if number % TURN_SENDS == 0:
                        self._readable(conn.fd, 0)
                    op = conn.resume(self._perform(conn, op))
        except StopIteration as stop:
            result = stop.value
        if type(result) is Become:
            conn.become(result.session)
            self._serve(conn)
        elif not conn.hijacked and (result is LINGER or conn.has_input()):
            self._linger(conn)

    def _linger(self, conn: Connection) -> None:
        """Read what is still on its way, so that the close does not reset the connection."""
        conn.sock.shutdown(socket.SHUT_WR)
        ends = monotonic() + LINGER_SECONDS
        while (left := ends - monotonic()) > 0:
            if self._readable(conn.fd, left) and not conn.receive(CHUNK_BYTES):
                break

    def _await(self, conn: Connection, op: Await) -> Any:
        """Block until the client sends; resume the session. Returns what it yields next."""
        if conn.op is not op:
            conn.op = op
            conn.deadline = monotonic() + op.seconds
        while not self._readable(conn.fd, min(conn.deadline, self.context.after_turn()) - monotonic()):
            if op.idle and self._idle_grace is not None:
                conn.deadline = min(conn.deadline, monotonic() + self._idle_grace)
                self._idle_grace = 0.0  # the grace is given once
            if conn.deadline <= monotonic():
                return conn.session.throw(Deadline(op.name))
        data = conn.receive(CHUNK_BYTES)
        if op.rate:
            conn.deadline = min(conn.deadline + len(data) / op.rate, monotonic() + op.seconds)
        return conn.resume(data)

    def _readable(self, fd: int, seconds: float) -> bool:
        """Wait for the client and for the master. True when the client's socket is readable."""
        if in_fork:
            leave()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        for interrupt in self.calls:
            poller.register(interrupt, select.POLLIN)
        ready = poller.poll(None if seconds == float("inf") else max(0.0, seconds) * 1000)
        for found, _ in ready:
            if found != fd:
                self.calls[found]()
        return any(found == fd for found, _ in ready)

    def _perform(self, conn: Connection, op: Any) -> Any:
        if type(op) is bytes:
            conn.push(op)
        elif op is HIJACK:
            return conn.hijack()
        elif type(op) is Multiplexed:
            return op.step()
        elif type(op) is not Exchange:
            conn.queue(op)
            conn.push_out()
        return None
