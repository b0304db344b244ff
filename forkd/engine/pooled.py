"""A pool of threads behind a bounded request queue, and the loop of the models that have one.

The waiting thread lends a connection to the pool as a task; a pool thread runs it, and hands its
outcome back, by an eventfd in the waiting thread's handle set. When the queue is full
the waiting thread stops reading: what becomes ready waits outside the handle set, unread, until
there is room. Nothing is dropped.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from forkd.engine.connection import Connection
from forkd.engine.context import ChildContext
from forkd.engine.loop import ChildLoop
from forkd.engine.multiplexing import Multiplexing
from forkd.engine.steps import ABORTED, Outcome, advance
from forkd.session.begin import BoundBegin
from forkd.session.seam import HIJACK, Deadline, Exchange, Log, Multiplexed
from forkd.system.forked import in_fork, leave
from forkd.system.originals import SimpleQueue, socket, start_thread
from forkd.system.scoreboard import Row

#: Tasks that may wait in the queue, for each thread.
_QUEUE_TASKS = 4

Task = Callable[[], Outcome]


class RequestQueue:
    """Tasks for the pool's threads, which compete for them; outcomes for the waiting thread."""

    def __init__(self, threads: int, log: Log, enter: Callable[[], Row] | None) -> None:
        """`enter` is called in each thread when it starts, and gives it a lane of the scoreboard."""
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._tasks: SimpleQueue[tuple[Connection, Exchange, Task] | None] = SimpleQueue()
        self._outcomes: deque[tuple[Connection, Outcome]] = deque()
        self._room = threads * (1 + _QUEUE_TASKS)
        self._log = log
        for number in range(threads):
            start_thread(partial(self._run, enter), f"forkd-pool-{number}")

    @property
    def full(self) -> bool:
        return self._room <= 0

    def put(self, conn: Connection, exchange: Exchange, task: Task) -> None:
        """Called by the waiting thread only."""
        self._room -= 1
        self._tasks.put((conn, exchange, task))

    def ring(self) -> None:
        """Have `outcomes` called. In any thread."""
        os.eventfd_write(self.bell, 1)

    def outcomes(self) -> list[tuple[Connection, Outcome]]:
        """The tasks that were finished since the last call. Called by the waiting thread only."""
        try:
            os.eventfd_read(self.bell)
        except BlockingIOError:
            pass
        found = [self._outcomes.popleft() for _ in range(len(self._outcomes))]
        self._room += len(found)
        return found

    def _run(self, enter: Callable[[], Row] | None) -> None:
        assert enter is not None
        row = enter()
        while (item := self._tasks.get()) is not None:
            conn, exchange, task = item
            row.occupy(exchange.lent)
            try:
                outcome = task()
            except BaseException as error:  # also CancelledError and the like: the thread must live on
                if in_fork:
                    leave(error)
                self._log.exception("a pool thread failed; its connection is closed")
                outcome = ABORTED
            if in_fork:
                leave()
            row.vacate()
            self._outcomes.append((conn, outcome))
            # Each one rings, after that: `outcomes` clears the bell before it counts what there is.
            os.eventfd_write(self.bell, 1)


class PooledLoop(ChildLoop):
    """A waiting thread with a pool. The models say which step runs where."""

    #: Whether the thread that runs the application also sends what it answers.
    sends = True
    #: Whether the application runs in the pool, rather than in the waiting thread.
    pooled = True

    def __init__(self, context: ChildContext) -> None:
        super().__init__(context)
        threads, enter = 0, None
        if self.pooled:
            assert context.lanes is not None
            threads, enter = context.config.threads, context.lanes.bind
        self._queue = RequestQueue(threads, context.log, enter)
        self._waiting: deque[tuple[Connection, Exchange, Task]] = deque()  # lent, and the queue is full
        self._multiplexing = Multiplexing(self.connections, self._give, self.resume)
        self.watch(self._queue.bell, self._collect)

    # ---- what a model decides -------------------------------------------------------------

    def finished(self, conn: Connection, outcome: Outcome) -> None:
        """A task is done: keep the connection as its outcome says. A model that goes on
        elsewhere (an Exchange, WRITING) overrides this."""
        self.connections.follow(conn, outcome)

    def resume(self, conn: Connection, exchange: Multiplexed) -> None:
        """A step of the exchange has run, and its session waits. A model whose pool resumes its sessions
        overrides this."""
        self.go(conn, conn.resume, exchange)

    # ---- the queue ------------------------------------------------------------------------

    def lend(self, conn: Connection, task: Task) -> None:
        """Put a task for the connection into the request queue."""
        self.connections.check_out(conn)
        self._put(conn, conn.exchange, task)

    def _put(self, conn: Connection, exchange: Exchange, task: Task) -> None:
        exchange.lent = self.connections.now
        if self._queue.full:
            self._waiting.append((conn, exchange, task))
        else:
            self._queue.put(conn, exchange, task)

    def _collect(self) -> None:
        for conn, outcome in self._queue.outcomes():
            if type(outcome) is Multiplexed:
                self._multiplexing.returned.append(outcome)
            else:
                self.finished(conn, outcome)
        if self._multiplexing.waits:
            self.aside = True
        while self._waiting and not self._queue.full:
            self._queue.put(*self._waiting.popleft())

    # ---- exchanges apart from their connections -------------------------------------------

    def run_apart(self, exchange: Multiplexed) -> bool:
        if not self.pooled:
            return False
        self._multiplexing.begin(exchange)
        self.aside = True
        self._queue.ring()  # this may not be the thread that waits
        return True

    def _give(self, exchange: Multiplexed) -> None:
        conn: Connection = exchange.peer  # type: ignore[assignment]
        self._put(conn, exchange, exchange.step)

    def has_exchanges_apart(self) -> bool:
        return self._multiplexing.busy

    def attend(self) -> bool:
        more = self._multiplexing.attend()  # the last one may be what the end waits for
        return super().attend() or more

    # ---- common to the pooled models ------------------------------------------------------

    def serve(self, sock: socket.socket, client: Any, begin: BoundBegin) -> None:
        """Start the session here, up to its first need; logic goes to the pool."""
        conn = self.connections.add(sock, client, begin)
        self.go(conn, conn.resume, None)

    def go(self, conn: Connection, step: Callable[[Any], Any], value: Any) -> None:
        """A step in the waiting thread."""
        self.begun(
            conn, advance(conn, step, value, self.log, send=self.sends, to_ready=self.pooled)
        )

    def begun(self, conn: Connection, outcome: Outcome) -> None:
        """A step in the waiting thread is done: logic goes to the pool, the rest is kept."""
        if type(outcome) is Exchange or outcome is HIJACK:
            self.lend(conn, lambda: self.logic(conn, outcome))
        else:
            self.connections.follow(conn, outcome)

    def logic(self, conn: Connection, reached: Outcome) -> Outcome:
        """Go on from an Exchange or HIJACK; called in a pool thread."""
        value = conn.hijack() if reached is HIJACK else None
        return advance(conn, conn.resume, value, self.log, send=self.sends)

    def late(self, conn: Connection) -> None:
        self.go(conn, conn.session.throw, Deadline(conn.op.name))

    def woken(self, conn: Connection) -> None:
        raise AssertionError(
            "only evented streams wake their connections, and no pool carries them"
        )
