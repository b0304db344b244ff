"""The connections of one handle set, and what each waits for.

Belongs to the thread that waits on the handle set. A connection is either kept (in the handle set,
with a deadline), or checked out to another thread, which has it to itself until the outcome of its step is
followed here, or the thread itself leaves it to be kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from forkd.engine.connection import Connection, Owner
from forkd.engine.context import ChildContext
from forkd.engine.deadlines import NOWHERE, Wheel
from forkd.engine.steps import ABORTED, FINISHED, LINGERING, SUSPENDED, WRITING, Outcome, receive
from forkd.session.begin import BoundBegin
from forkd.session.seam import SLOWEST_BYTES_PER_SECOND, Await, Multiplexed
from forkd.system.handles import READ, HandleSet
from forkd.system.originals import Lock, monotonic, socket
from forkd.system.retry import WAITING_CALL, Retry

#: After the last answer, how long a client may go on sending before the connection is closed.
LINGER_SECONDS = 2.0


class Connections:
    def __init__(
        self,
        context: ChildContext,
        handles: HandleSet,
        counted: Callable[[int], None],
        make: Callable[..., Connection],
        owner: Owner,
    ) -> None:
        """`counted` is called with the number of connections whenever it changes; `make` is their class."""
        self.by_fd: dict[int, Connection] = {}
        self.wheel: Wheel[Connection] = Wheel()
        self.now = monotonic()  # the model stores the time here after each wait
        self.log = context.log
        self.writing = Await(
            "write", context.config.write_timeout, rate=SLOWEST_BYTES_PER_SECOND, read=False, write=True
        )
        self.lingering = Await("linger", LINGER_SECONDS)
        self.suspended = Await("answer", 0)  # of the application, which takes its time: nothing is read
        #: The same, where something has come by now: it is not looked for any more.
        self._deaf = Await("answer", 0, read=False)
        self._context = context
        self._handles = handles
        self._counted = counted
        self._make = make
        self._owner = owner
        self._retry = Retry(context.log.error)
        self._idle_grace: float | None = None  # set when draining
        self._lock = Lock()  # between `keep_from_thread` and what looks at connections that are lent

    def add(self, sock: socket.socket, client: Any, begin: BoundBegin) -> Connection:
        """Take an accepted socket. The caller starts its session and has its outcome followed."""
        if sock.gettimeout() != 0:
            sock.setblocking(False)
        seconds, recorder = self._context.config.write_timeout, self._context.host.recorder
        conn = self._make(sock, client, begin, seconds, self._owner, recorder)
        self.by_fd[conn.fd] = conn
        self._counted(len(self.by_fd))
        return conn

    def follow(self, conn: Connection, outcome: Outcome) -> None:
        """A step is done: leave the connection as its outcome says."""
        if type(outcome) is Await:
            self._wait(conn, outcome)
        elif outcome is WRITING:
            self._wait(conn, self.writing)
        elif outcome is FINISHED or outcome is LINGERING:
            self._finish(conn, outcome is LINGERING)
        elif outcome is ABORTED:
            self.close(conn)
        elif outcome is SUSPENDED:
            call = conn.call
            self._wait(conn, self.suspended)
            call.suspend()
        else:
            raise TypeError(f"a connection cannot be kept in {outcome!r}")

    def report(self, exchange: Multiplexed) -> None:
        """Log what an exchange has raised that has no session any more."""
        try:
            if exchange.failure is not None:
                raise exchange.failure
        except BaseException:
            self.log.exception("an exchange failed after its client had left")

    def resumable(self, conn: Connection) -> bool:
        """Whether the connection is kept, and its session waits in an Await: the caller may resume that."""
        with self._lock:
            return conn.mask is not None and conn.op is not self.writing and conn.call is None

    def check_out(self, conn: Connection) -> None:
        """Take the connection out of the handle set: a thread has it until its outcome is followed."""
        if conn.mask is not None:
            self._handles.remove(conn.fd)
            conn.mask = None

    def keep_from_thread(self, conn: Connection, op: Await) -> bool:
        """Keep the connection for input, as `follow`, by the thread that it was lent to and without its
        owner's help. Not where that has to set a deadline first, or does not see what is added to its handle
        set while it waits there: then False."""
        deadline = monotonic() + op.seconds
        with self._lock:
            if (
                not self._handles.concurrent
                or self._idle_grace is not None
                or deadline < conn.bucket
                or op.write
                or not op.read
            ):
                return False
            conn.op = op
            conn.deadline = deadline
            conn.mask = READ
            conn.moved = 0
            try:
                self._handles.add(conn.fd, READ)
            except OSError:
                conn.mask = None
                return False  # `follow` will see it, too, and can say so
        return True

    def linger(self, conn: Connection) -> bool:
        """Whether the session is not to be resumed now that the connection is ready: it waits for nothing, or
        only for the client's EOF, which was looked for."""
        if conn.mask == 0 or conn.op is self.suspended:
            return not self._look(conn)
        if conn.op is not self.lingering:
            return False
        try:
            ended = receive(conn) == b""
        except OSError:
            ended = True
        if ended:
            self.close(conn)
        return True

    def _look(self, conn: Connection) -> bool:
        """A suspended connection is readable, or one that waits for nothing has failed. What the client sends
        before it has its answer, and that it sends no more, waits in the socket: only RST, or the close of
        both directions, says that it has left. Where the application listens for that, the session goes on
        with the call; whether it is to be resumed now."""
        there = bool(conn.mask)
        try:
            if there:
                conn.has_input()
                if not conn.call.listens:
                    self._handles.modify(conn.fd, 0)
                    conn.mask, conn.op, conn.call.deaf = 0, self._deaf, True
                    return False
        except OSError:
            there = False  # it has left, or there is no room to wait
        if there:
            conn.call.answered(None)
            return bool(conn.mask) and conn.op.read
        conn.end(self.log)
        self.close(conn)
        return False

    def overdue(self) -> list[Connection]:
        """Connections whose time is up, and whose sessions may still say something. Those that
        were only being written to are closed: the client does not read."""
        with self._lock:
            return self._overdue()

    def _overdue(self) -> list[Connection]:
        due: list[Connection] = []
        for conn in self.wheel.expired(self.now):
            if conn.mask is None:
                conn.deadline = self.now + 1.0  # lent: look again when it has come back
                self.wheel.put(conn)
            elif conn.moved and conn.op.rate:
                # The session has sent by itself (`Peer.send`): the peer is alive.
                grace = self._idle_grace if conn.op.idle else None
                most = conn.op.seconds if grace is None else min(grace, conn.op.seconds)
                conn.deadline = min(conn.deadline + conn.moved / conn.op.rate, self.now + most)
                conn.moved = 0
                self.wheel.put(conn)
            elif conn.op is self.lingering or conn.op is self.writing:
                conn.end(self.log)
                self.close(conn)
            else:
                due.append(conn)
        return due

    def reprieve(self, conn: Connection) -> bool:
        """Whether an idle connection, whose time is up, has a request in its socket that came since
        we waited: that is answered first. To be asked just before the connection is given up."""
        try:
            if not conn.op.idle or not conn.has_come():
                return False
        except OSError:
            return False
        conn.deadline = self.now + 1.0  # the next wait reports the request
        self.wheel.put(conn)
        return True

    def drain(self, idle_grace: float) -> None:
        """Close connections that are between requests after `idle_grace` seconds, and the others
        when their sessions end. The grace is for requests that are already on their way."""
        with self._lock:
            self._idle_grace = idle_grace
            for conn in list(self.by_fd.values()):
                if conn.op.idle and conn.mask is not None:
                    self._set_deadline(conn, idle_grace)

    def abandon(self) -> None:
        """Close everything now. Lent connections end with the process."""
        with self._lock:
            for conn in list(self.by_fd.values()):
                if conn.mask is not None:
                    conn.end(self.log)
                    self.close(conn)

    def close(self, conn: Connection) -> None:
        if self.by_fd.pop(conn.fd, None) is None:
            return
        self.wheel.drop(conn)
        # Explicitly: epoll forgets a closed descriptor only when no process has a copy of it, and
        # the application may have forked.
        self.check_out(conn)
        conn.close()
        self._counted(len(self.by_fd))

    def _wait(self, conn: Connection, op: Await) -> None:
        """Leave the connection in the handle set until `op` is satisfied."""
        grace = self._idle_grace if op.idle else None
        if conn.op is not op or conn.bucket == NOWHERE or grace is not None:
            conn.op = op
            self._set_deadline(conn, op.seconds if grace is None else min(grace, op.seconds))
        elif op.rate:
            # Bytes have moved: the peer is alive.
            conn.deadline = min(conn.deadline + conn.moved / op.rate, self.now + op.seconds)
        conn.moved = 0
        mask = op.mask
        if mask != conn.mask:
            try:
                if conn.mask is None:
                    self._handles.add(conn.fd, mask)
                else:
                    self._handles.modify(conn.fd, mask)
            except OSError as error:
                self._refuse(conn, error)
                return
            conn.mask = mask

    def _refuse(self, conn: Connection, error: OSError) -> None:
        """Close it: there is no room to wait for it (epoll_ctl(2): ENOSPC, ENOMEM; FD_SETSIZE). The others go
        on."""
        self._context.row.failed(error.errno or 0)
        self._retry.refuse(WAITING_CALL, error)
        conn.end(self.log)
        with contextlib.suppress(OSError, KeyError):
            self.check_out(conn)
        conn.mask = None
        self.close(conn)

    def _set_deadline(self, conn: Connection, seconds: float) -> None:
        conn.deadline = self.now + seconds
        if conn.deadline < conn.bucket:
            self.wheel.put(conn)

    def _finish(self, conn: Connection, linger: bool) -> None:
        """The session returned: send FIN, then close, without destroying what is on its way.

        Closing a socket that has unread input sends RST, upon which the client's kernel discards
        answers that it has not read yet (RFC 9112, 9.6). So wait for its EOF, for a while.
        """
        try:
            if not conn.hijacked and (linger or conn.has_input()):
                conn.sock.shutdown(socket.SHUT_WR)
                self._wait(conn, self.lingering)
                return
        except OSError:
            pass  # it is gone already
        self.close(conn)
