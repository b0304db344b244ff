"""Proactor (POSA2, Schmidt, Stal, Rohnert, Buschmann): the kernel reads and writes.

1. The *initiator*, which is the loop or the acceptor, starts an *asynchronous operation*: to wait for
   a client is to start a receive into our buffers, to lead is to start an accept.
2. The *asynchronous operation processor* carries it out: the kernel (`--io io_uring`, system/uring.py),
   or the threads of glibc (`--io aio`, system/aio.py).
3. Its completion, with the result, goes into the *completion event queue*: the ring's, or that of
   real-time signals.
4. The *proactor*, the child's main thread, waits for completions and dispatches each to its
   *completion handler*: `_accepted`, `_received` or `_sent`.
5. A handler of a receive resumes the session with the bytes: inline, or, with `--threads N`, once the
   request is complete, in a thread of the pool. What the application answers starts a send (step 1).
6. The handler of that send takes care of the aftermath: it resumes the session, which keeps the
   connection, and step 1 comes again, or ends it: what is under way is cancelled, then it is closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, NoReturn

from forkd.engine.completing import Completing
from forkd.engine.connection import Connection
from forkd.engine.context import ChildContext
from forkd.engine.deadlines import NEVER
from forkd.engine.pooled import PooledLoop
from forkd.engine.steps import ABORTED, FINISHED, LINGERING, SUSPENDED, WRITING, Outcome
from forkd.models.row import MULTIPLEXED, ModelRow
from forkd.session.seam import Await
from forkd.system.aio import MAX_CLIENTS, AioOperations
from forkd.system.cells import RECEIVED, SENT
from forkd.system.handles import Events
from forkd.system.operations import Kind, Operations
from forkd.system.originals import monotonic, os
from forkd.system.uring import UringOperations

_ACCEPTED: Final = Kind.ACCEPTED
_RECEIVED: Final = Kind.RECEIVED


class Proactor(PooledLoop):
    handles: Operations
    sends = False

    def __init__(self, context: ChildContext) -> None:
        self.pooled = context.config.threads > 1
        if context.io == "aio":
            limit = min(context.config.worker_connections, MAX_CLIENTS)
            context = replace(context, config=replace(context.config, worker_connections=limit))
        super().__init__(context)
        self.demultiplex = self._complete
        self._arrived: deque[tuple[int, Any]] = deque()  # accepted by the kernel, and not served yet
        if not self.pooled:
            self.handles.serve(self, self.connections.by_fd)

    def handle_set(self) -> Operations:
        if self.context.io == "aio":
            return AioOperations()
        listeners = {intake.fileno() for intake in self.context.intakes}
        alone = self.context.lease is None or self.context.config.workers.max == 1
        native, paced = self.context.config.native, self.context.interface.paced
        return UringOperations(listeners, shared=not alone, pooled=self.pooled, paced=paced, native=native)

    def connection_type(self) -> Callable[..., Connection]:
        return partial(Completing, self.handles)

    def _interrupted(self, error: Exception) -> NoReturn:
        raise error  # what its wait had found by then may be lost

    # ---- step 4: dispatch -----------------------------------------------------------------

    def _complete(self, events: Events) -> None:
        self.dispatch(events)  # aio has no accept: its listeners are reported as ready
        connections = self.connections.by_fd
        for kind, fd, result in self.handles.completed():
            if kind is _ACCEPTED:
                self._arrived.append((fd, result))
                continue
            conn = connections[fd]
            assert isinstance(conn, Completing)
            if isinstance(result, OSError):
                conn.end(self.log)
                self.connections.close(conn)
            elif kind is _RECEIVED:
                self._received(conn, result)
            else:
                self._sent(conn, result)
        if self._arrived:
            self._welcome()

    # ---- completion handlers --------------------------------------------------------------

    def _welcome(self) -> None:
        """Serve the connections that have arrived, as far as the share of this turn goes. A multishot accept
        takes all that wait, and reports all of them before any request that comes next."""
        share = self.share
        share.lead(monotonic())
        while self._arrived and not share.over(monotonic()):
            share.taken += 1
            if len(self.connections.by_fd) >= self.crowd:
                self.make_room()
            self._accepted(*self._arrived.popleft())
        self.driver_due = 0.0 if self._arrived else NEVER  # the next turn goes on

    def _accepted(self, fd: int, result: Any) -> None:
        accepted = self.acceptor.accepted(fd, result)
        if accepted is not None:
            if self.connections.now >= self.accept_wait.due:
                self.accept_wait.look(accepted[0], self.connections.now)
            self.serve(*accepted)

    def _received(self, conn: Completing, data: Any) -> None:
        """Step 5."""
        if conn.op is self.connections.suspended:
            self._early(conn, data)
            return
        conn.moved += len(data)
        conn.recorder.add(RECEIVED, len(data))
        if conn.op is not self.connections.lingering:
            self.go(conn, conn.resume, data)
        elif not data:
            self.connections.close(conn)

    def _early(self, conn: Completing, data: Any) -> None:
        """What the client sends before it has its answer is held until then, and that it sends no more. Where
        the application listens for that, the session goes on with the call."""
        self.handles.put_back(conn.fd, data)
        conn.mask = 0
        if conn.call.listens:
            conn.call.answered(None)
        else:
            conn.call.deaf = True

    def _sent(self, conn: Completing, count: Any) -> None:
        """Step 6, when all is sent."""
        conn.moved += count
        conn.recorder.add(SENT, count)
        if self.handles.sending(conn.fd):
            if conn.op is self.connections.writing:
                self.connections.follow(conn, WRITING)  # a part: the client is alive
        elif conn.last is not None:
            self.connections.follow(conn, conn.last)
        elif conn.op is self.connections.writing:
            self._write(conn)
        elif conn.op.write:
            self.go(conn, conn.resume, None)

    # ---- what native code calls: as in engine/inline.py ------------------------------------------

    def feed(self, conn: Connection, value: Any) -> None:
        self.go(conn, conn.resume, value)

    def late(self, conn: Connection) -> None:
        if self.handles.answering(conn.fd):  # the client reads slowly; but it was the last answer
            self.ended(conn)
        else:
            super().late(conn)

    def rests(self, conn: Connection, op: Await) -> None:
        self.connections.follow(conn, op)

    def suspended(self, conn: Connection) -> None:
        self.connections.follow(conn, SUSPENDED)

    def ended(self, conn: Connection) -> None:
        conn.end(self.log)
        self.begun(conn, FINISHED)

    # ---- the end --------------------------------------------------------------------------

    def retire(self, idle_grace: float, drain_queue: bool) -> None:
        while self._arrived:
            self._accepted(*self._arrived.popleft())
        super().retire(idle_grace, drain_queue)
        # An accept of io_uring waits exclusively: a client that came before it was cancelled has woken this
        # child alone, and another one, which waits already, would not be woken for it again.
        for fd in self._kernels:
            while not self.acceptor.no_room() and (found := self.acceptor.leftover(fd)) is not None:
                self.serve(*found)

    def abandon(self) -> None:
        for _, result in self._arrived:
            if isinstance(result, int):
                os.close(result)
        self._arrived.clear()
        super().abandon()

    def descriptors(self) -> set[int]:
        arrived = {result for _, result in self._arrived if isinstance(result, int)}
        return super().descriptors() | arrived

    # ---- what handlers start --------------------------------------------------------------

    def begun(self, conn: Connection, outcome: Outcome) -> None:
        assert isinstance(conn, Completing)
        if outcome is WRITING:
            if self.handles.sending(conn.fd):  # what was sent by `Peer.send`: `_sent` goes on
                self.connections.follow(conn, WRITING)
            else:
                self._write(conn)
        elif (outcome is FINISHED or outcome is LINGERING) and self.handles.sending(conn.fd):
            conn.last = outcome
            self.connections.follow(conn, WRITING)
        elif type(outcome) is Await and outcome.write and not self.handles.sending(conn.fd):
            self.go(conn, conn.resume, None)  # there is room: what was under way has ended by now
        else:
            super().begun(conn, outcome)

    finished = begun

    def _write(self, conn: Completing) -> None:
        """Start the next send; when there is none, the session goes on."""
        try:
            piece = conn.piece()
        except OSError:
            conn.end(self.log)
            self.connections.follow(conn, ABORTED)
            return
        if piece:
            self.handles.send(conn.fd, piece)
            self.connections.follow(conn, WRITING)
        elif self.pooled and conn.exchange.line:
            self.lend(conn, lambda: self.logic(conn, conn.exchange))
        else:
            self.go(conn, conn.resume, None)

    def woken(self, conn: Connection) -> None:
        if conn.mask is not None and conn.op is not self.connections.writing and conn.call is None:
            self.go(conn, conn.resume, None)


_ONE_OPERATION = (
    "glibc does the operations of one descriptor one after the other, so a read that waits would hold up the "
    "write; use --io io_uring"
)

ROW = ModelRow(
    name="proactor",
    make=Proactor,
    ios=("io_uring", "aio"),
    master_accepts=False,
    forks=False,
    threaded=True,
    pooled=False,
    waits="the kernel; the child's main thread waits for completions",
    moves="the kernel, into and out of our buffers",
    logic="completion handlers: inline, or in the pool with --threads",
    handoff="completions",
    good_for="many busy connections: one system call starts and ends dozens of operations",
    weakness="io_uring is denied in many containers (see io_fallback), and the answers of a turn are sent at "
    "its end: they wait for a request that holds it, and are lost with a worker that is killed in it; aio is "
    "a thread of glibc for each client, 256 at most, and is here for the pattern's sake",
    refused={("aio", name): _ONE_OPERATION for name in ("asyncio", "asgi", MULTIPLEXED)},
)
