"""The driver: runs sessions over non-blocking sockets in a handle set.

The synchronous half of every event-driven model: a model says which connection is ready, the driver
receives, resumes the session, performs what it yields, and leaves the connection waiting in the
handle set. One driver per handle set; used by the thread that waits on it, in a child.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from forkd.app.session import (
    LINGER,
    READY,
    SLOWEST,
    TAKE,
    Await,
    Deadline,
    SendFile,
    Session,
    Write,
)
from forkd.models.connection import Connection, FilePiece
from forkd.models.deadlines import Wheel
from forkd.models.unit import Unit
from forkd.system.handles import READ, WRITE, HandleSet

_CHUNK = 65536
#: After the last answer, how long a client may go on sending before the connection is closed.
_LINGER_SECONDS = 2.0


class EventDriver:
    def __init__(self, unit: Unit, counted: Callable[[int], None], handles: HandleSet) -> None:
        """`counted` is told the number of connections whenever it changes."""
        self.connections: dict[int, Connection] = {}
        self.wheel: Wheel[Connection] = Wheel()
        self.now = monotonic()  # the model stores the time here after each wait
        self._interface = unit.interface
        self._handles = handles
        self._log = unit.log
        self._counted = counted
        self._write_seconds = unit.config.write_timeout
        self._body_seconds = unit.config.body_timeout
        self._writing = Await(
            "write", unit.config.write_timeout, rate=SLOWEST, read=False, write=True
        )
        self._lingering = Await("linger", _LINGER_SECONDS)
        self._idle_grace: float | None = None  # set when draining

    # ---- called by the model --------------------------------------------------------------

    def adopt(self, sock: socket.socket, client: Any, server: tuple[str, int]) -> None:
        """Take an accepted connection; serve at once what has already arrived."""
        sock.setblocking(False)
        conn = Connection(
            sock,
            client,
            server,
            self._interface,
            self._write_seconds,
            self._body_seconds,
            self._wake,
        )
        self.connections[conn.fd] = conn
        self._handles.add(conn.fd, READ)
        conn.mask = READ
        self._counted(len(self.connections))
        self._advance(conn, conn.resume, None)
        if conn.op.read and conn.fd in self.connections:
            self.ready(conn, READ)

    def ready(self, conn: Connection, mask: int) -> None:
        """The connection's descriptor is ready: READ, WRITE, HANGUP or several of them."""
        if conn.out:
            self._flush(conn)
            return
        op = conn.op
        if op.write and mask & WRITE:
            self._advance(conn, conn.resume, None)
            return
        if not op.read:
            if not mask & WRITE:
                self._abort(conn)  # only HANGUP wakes a connection that waits for nothing
            return
        try:
            data = conn.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._abort(conn)
            return
        if op.rate:
            renewed = conn.deadline + len(data) / op.rate
            conn.deadline = min(renewed, self.now + op.seconds)
        if op is self._lingering:
            if not data:
                self._close(conn)
        else:
            self._advance(conn, conn.resume, data)

    def expire(self) -> None:
        """Throw `Deadline` into the sessions whose time is up."""
        for conn in self.wheel.expired(self.now):
            if conn.op is self._lingering or conn.op is self._writing:
                self._abort(conn)
            else:
                self._advance(conn, conn.session.throw, Deadline(conn.op.name))

    def drain(self, idle_grace: float) -> None:
        """Close connections that are between requests after `idle_grace` seconds, and the others
        when their sessions end. The grace is for requests that are already on their way."""
        self._idle_grace = idle_grace
        for conn in list(self.connections.values()):
            if conn.op.idle:
                self._set_deadline(conn, idle_grace)

    def abandon(self) -> None:
        """Close everything now."""
        for conn in list(self.connections.values()):
            self._abort(conn)

    # ---- the session's needs --------------------------------------------------------------

    def _advance(self, conn: Connection, step: Callable[[Any], Any], value: Any) -> None:
        """Resume the session with `step(value)` and perform what it yields until it waits."""
        resume = conn.resume
        try:
            op = step(value)
            while True:
                if type(op) is bytes:
                    sent = self._send(conn, op)
                    if sent < len(op):
                        conn.out.append(memoryview(op)[sent:])
                        self._wait(conn, self._writing)
                        return
                    op = resume(None)
                elif type(op) is Await:
                    self._wait(conn, op)
                    return
                elif op is READY:
                    op = resume(None)
                elif op is TAKE:
                    op = resume(self._give_away(conn))
                else:
                    self._queue(conn, op)
                    if not conn.flush():
                        self._wait(conn, self._writing)
                        return
                    op = resume(None)
        except StopIteration as stop:
            self._finish(conn, stop.value)
        except (OSError, Deadline):
            self._abort(conn)
        except Exception:
            self._log.exception(f"a session failed; its connection from {conn.client} is closed")
            self._abort(conn)

    def _send(self, conn: Connection, data: bytes) -> int:
        try:
            return conn.sock.send(data)
        except BlockingIOError:
            return 0

    def _queue(self, conn: Connection, op: Write | SendFile) -> None:
        if type(op) is Write:
            conn.out.extend(memoryview(buffer) for buffer in op.buffers)
        elif type(op) is SendFile:
            conn.out.append(memoryview(op.head))
            conn.out.append(FilePiece(op.fd, op.offset, op.count))
        else:
            raise TypeError(f"a session yielded {op!r}")

    def _flush(self, conn: Connection) -> None:
        try:
            done = conn.flush()
        except OSError:
            self._abort(conn)
            return
        if done:
            self._advance(conn, conn.resume, None)
        else:
            # Writable means that some left: a slow reader keeps its connection, a dead one does not.
            conn.deadline = min(conn.deadline + _CHUNK / SLOWEST, self.now + self._writing.seconds)

    def _wait(self, conn: Connection, op: Await) -> None:
        """Leave the connection in the handle set until `op` is satisfied."""
        if conn.op is not op:
            conn.op = op
            grace = self._idle_grace if op.idle else None
            self._set_deadline(conn, op.seconds if grace is None else min(grace, op.seconds))
            mask = (READ if op.read else 0) | (WRITE if op.write else 0)
            if mask != conn.mask:
                conn.mask = mask
                self._handles.modify(conn.fd, mask)

    def _set_deadline(self, conn: Connection, seconds: float) -> None:
        conn.deadline = self.now + seconds
        if conn.deadline < conn.bucket:
            self.wheel.put(conn)

    def _wake(self, conn: Connection) -> None:
        if conn.fd in self.connections and not conn.out:
            self._advance(conn, conn.resume, None)

    # ---- the end --------------------------------------------------------------------------

    def _give_away(self, conn: Connection) -> socket.socket:
        """The session takes the socket: it blocks, in this thread, until it returns."""
        self._handles.remove(conn.fd)
        conn.mask = 0
        conn.sock.settimeout(None)
        return conn.sock

    def _finish(self, conn: Connection, value: Any) -> None:
        """The session returned: send FIN, then close, without destroying what is on its way.

        Closing a socket that has unread input sends RST, upon which the client's kernel discards
        answers that it has not read yet (RFC 9112, 9.6). So wait for its EOF, for a while.
        """
        if conn.mask == 0 or conn.sock.fileno() < 0:
            self._close(conn)
            return
        try:
            unread = value is LINGER or bool(conn.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            unread = False
        except OSError:
            self._close(conn)
            return
        if not unread:
            self._close(conn)
            return
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close(conn)
            return
        self._wait(conn, self._lingering)

    def _abort(self, conn: Connection) -> None:
        """End the session where it stands; its `finally` clauses run."""
        if conn.fd not in self.connections:
            return
        session: Session = conn.session
        try:
            session.close()
        except Exception:
            self._log.exception("a session failed while it was being closed")
        self._close(conn)

    def _close(self, conn: Connection) -> None:
        if self.connections.pop(conn.fd, None) is None:
            return
        self.wheel.drop(conn)
        if conn.mask:
            # Explicitly: epoll forgets a closed descriptor only when no process has a copy of it,
            # and the application may have forked.
            self._handles.remove(conn.fd)
        conn.sock.close()
        self._counted(len(self.connections))
