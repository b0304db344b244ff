"""Process per connection: the plain concurrent server (Stevens, UNIX Network Programming).

1. The master accepts, woken by its epoll or by SIGIO (`--io sigio`), and sends the socket to a
   worker, which has the application loaded.
2. The worker forks a process for the client, and closes its copy of the socket.
3. That process serves the one client to its end, with blocking calls (`--io blocking`) or from a
   handle set of its own (`--io epoll`), and exits.
4. The worker learns of the exit by the process's pidfd, and reaps it.

The master itself never runs application code, so it is not the process that forks here; a worker is
a template, and `--workers 1` is enough for most services. A request that holds its process for
longer than `--timeout` is ended by the worker: only its own client is affected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn

from forkd.engine.account import account_for
from forkd.engine.blocking import BlockingFollowers
from forkd.engine.context import ChildContext
from forkd.engine.deadlines import NEVER
from forkd.engine.inline import InlineLoop
from forkd.engine.intake import Accepted
from forkd.engine.loop import ChildLoop
from forkd.engine.parting import Parting
from forkd.models.row import ModelRow
from forkd.session.begin import BoundBegin
from forkd.session.late import late_answers
from forkd.system import process
from forkd.system.cells import EVICTED, HELD, IN_FLIGHT, LOST_ACCESS, LOST_ERROR, REQUEST
from forkd.system.left import left_by
from forkd.system.originals import monotonic, monotonic_ns, os, renew_loops, signal, socket
from forkd.system.retry import WAITING_CALL, Retry
from forkd.system.scoreboard import Row, scratch_row
from forkd.system.signals import MAKE_ROOM, SignalQueue

#: Processes of one worker; more clients wait in its queue.
MAX_PROCESSES = 256
_IDLE_GRACE_SECONDS = 0.5
#: They write into one file, so one waits until the other has written. Who has waited for so long is killed
#: without.
_QUEUE_SECONDS = 5.0
#: Time that a process gets to write its stacks before it is killed.
_LAST_WORDS_SECONDS = 0.4
_RETRY_SECONDS = 0.5  # until lines that the access log did not take are tried again


@dataclass(frozen=True, eq=False)
class Servant:
    """A process that was forked for a client."""

    pid: int
    pidfd: int
    row: Row


def _no_stacks(pidfd: int) -> Callable[[], str]:
    return str


class ProcessPerConnection(ChildLoop):
    def __init__(self, context: ChildContext) -> None:
        limit = min(context.config.worker_connections, MAX_PROCESSES)
        super().__init__(replace(context, config=replace(context.config, worker_connections=limit)))
        assert context.lanes is not None
        self._lanes = context.lanes
        self._servants: dict[Servant, None] = {}  # the oldest first
        self._partings: dict[Servant, Parting] = {}  # of those killed for a request that took too long
        # Before they are killed: when they were asked for their stacks, and what reads them.
        self._accused: dict[Servant, tuple[float, Callable[[], str]]] = {}
        self._asked: Servant | None = None  # to end, so that there is room
        self._retry = Retry(context.log.error)
        self._held: deque[Accepted] = deque()  # no process could be forked for them yet

    def serve(self, sock: socket.socket, client: Any, begin: BoundBegin) -> None:
        """Step 2."""
        row = self._lanes.take()
        assert row is not None  # as many rows as connections that the acceptor takes
        worker = os.getpid()

        def servant_main() -> NoReturn:
            self._become_servant(row, worker, sock, client, begin)

        try:
            pid, pidfd = process.fork(servant_main)
        except OSError as error:
            self._lanes.give_back(row)
            self._held.append((sock, client, begin))
            self.acceptor.pause("fork", error)
        else:
            sock.close()
            servant = Servant(pid, pidfd, row)
            try:
                self.watch(pidfd, lambda: self._exited(servant))
            except OSError as error:  # its end would not be noticed: refuse its client
                self._end_unwatched(servant, error)
            else:
                self._servants[servant] = None
        self._recount()

    def _end_unwatched(self, servant: Servant, error: OSError) -> None:
        self.calls.pop(servant.pidfd, None)
        process.send_signal(servant.pidfd, signal.SIGKILL)
        os.waitpid(servant.pid, 0)
        os.close(servant.pidfd)
        self._lanes.give_back(servant.row)
        self.context.row.failed(error.errno or 0)
        self._retry.refuse(WAITING_CALL, error)

    def _recount(self) -> None:
        self.acceptor.announce(len(self._servants) + len(self._held))

    def _exited(self, servant: Servant) -> None:
        """Step 4."""
        code = process.reap(servant.pid)
        if code is None:
            return
        if code:
            self.log.error(
                f"the process {servant.pid} of a client ended: {process.exit_reason(code)}"
            )
        self._account_for(servant, code)
        self.unwatch(servant.pidfd)
        os.close(servant.pidfd)
        self._servants.pop(servant, None)
        self._accused.pop(servant, None)
        self._lanes.give_back(servant.row)
        self._recount()

    def _account_for(self, servant: Servant, code: int) -> None:
        """Count and log what it had in flight, as the master does for a worker."""
        now, row, access = monotonic_ns(), servant.row, self.context.access
        head = access.sink.head_of(row.index) if access is not None else 0
        left = left_by([row], [head], False, now)
        late = servant in self._partings
        if left.requests or left.more:
            reason = "timeout" if late else process.exit_reason(code)
            told = self._partings.pop(servant).tell(left.requests) if late else {}
            account_for(left, late, reason, row, access, now, told)
        self._partings.pop(servant, Parting(late_answers(self.context.config))).close()

    def make_room(self) -> bool:
        """Ask the oldest process without a request in hand to end: it answers what has come, and its exit
        makes room. How long each has been idle is not known."""
        if self._asked not in self._servants:
            idle = (s for s in self._servants if s.row.cells[IN_FLIGHT] <= 0)
            self._asked = next(idle, None)
            if self._asked is not None:
                self._cells[EVICTED] += 1
                process.send_signal(self._asked.pidfd, MAKE_ROOM)
        return False

    def turn(self, timeout: float | None) -> None:
        if self._servants and self.context.config.timeout:
            look = _LAST_WORDS_SECONDS if self._accused else 1.0  # at the clock
            timeout = look if timeout is None else min(timeout, look)
        super().turn(timeout)
        while self._held and self.acceptor.pause_ends == NEVER:
            self.serve(*self._held.popleft())
        most = self.context.config.timeout
        for servant in self._servants:
            held = servant.row.since(REQUEST, monotonic_ns())
            if held is not None and 0 < most < held and servant not in self._partings:
                self._late(servant, held, most)
            elif held is None:
                self._accused.pop(servant, None)

    def _late(self, servant: Servant, held: float, most: float) -> None:
        """A request has held it for so many seconds, too long: it writes its stacks, then it is killed."""
        if servant not in self._accused:
            writing = any(other not in self._partings for other in self._accused)
            if writing and held < most + _QUEUE_SECONDS:
                return
            ask = _no_stacks if writing else self.context.ask_stacks
            self._accused[servant] = monotonic(), ask(servant.pidfd)
            return
        since, stacks = self._accused[servant]
        if monotonic() < since + _LAST_WORDS_SECONDS:
            return
        line, id = servant.row.line().decode("latin-1"), servant.row.entries.id(servant.row.cells[HELD])
        named = f'"{line}" ({id})' if id else f'"{line}"'
        where = stacks() or process.state(servant.pid)
        self.log.error(
            f"process {servant.pid} killed: {named} has held it for {held:.1f} s; it was here:\n{where}"
        )
        self._partings[servant] = Parting(late_answers(self.context.config))
        self._partings[servant].take(servant.pidfd, [servant.row], pool=False)
        process.send_signal(servant.pidfd, signal.SIGKILL)

    def retire(self, idle_grace: float, drain_queue: bool) -> None:
        super().retire(idle_grace, drain_queue)
        for servant in self._servants:
            process.send_signal(servant.pidfd, signal.SIGTERM)

    def abandon(self) -> None:
        for servant in self._servants:
            process.send_signal(servant.pidfd, signal.SIGKILL)
        super().abandon()

    def descriptors(self) -> set[int]:
        return super().descriptors() | {sock.fileno() for sock, *_ in self._held}

    # ---- in the forked process ------------------------------------------------------------

    def _become_servant(
        self, row: Row, worker: int, sock: socket.socket, client: Any, begin: BoundBegin
    ) -> NoReturn:
        """Step 3."""
        self.handles.close()
        for fd in [*self.acceptor.intakes, *self.calls]:
            os.close(fd)  # the worker's: its queue, its channel to the master, other pidfds
        for other, *_ in (*self._held, *self._left):
            other.close()
        for parting in self._partings.values():
            parting.close()
        signals = SignalQueue([signal.SIGTERM, MAKE_ROOM])
        process.die_with_parent(worker)
        process.unblock()
        renew_loops()
        self._lanes.leave_pool()
        self._lanes.become(row)
        self.log.sink.forked(row.index, partial(row.add, LOST_ERROR))
        if self.context.access is not None:
            self.context.access.sink.forked(row.index, partial(row.add, LOST_ACCESS))
        host, context = self.context.host, self.context
        context = replace(
            context, row=scratch_row(), lease=None, intakes=[], watched={}, after_turn=self._flush
        )
        loop: ChildLoop = BlockingFollowers(context) if context.io == "blocking" else InlineLoop(context)

        def told_to_end() -> None:
            came = signals.read()  # the others change nothing, as in any child
            if signal.SIGTERM in came or MAKE_ROOM in came:
                host.draining = True
                loop.retire(_IDLE_GRACE_SECONDS if signal.SIGTERM in came else 0.0, False)

        loop.watch(signals.fileno(), told_to_end)
        context.serves(loop)
        if host.draining:
            loop.retire(_IDLE_GRACE_SECONDS, False)
        loop.serve(sock, client, begin)
        while loop.connections.by_fd and not loop.done:
            loop.turn(None)
        if context.access is not None:
            context.access.finish()
        os._exit(0)

    def _flush(self) -> float:
        waits = self.context.access is not None and self.context.access.flush()
        return monotonic() + _RETRY_SECONDS if waits else NEVER


ROW = ModelRow(
    name="process-per-connection",
    make=ProcessPerConnection,
    ios=("epoll", "blocking", "sigio"),
    master_accepts=True,
    forks=True,
    threaded=False,
    pooled=False,
    waits="the master, woken by its epoll or by SIGIO",
    moves="a process forked for the client",
    logic="that process",
    handoff="the socket goes to a worker, which has the application loaded, and forks",
    good_for="long sessions that must not harm each other: a crash or a leak ends with its client",
    weakness="a fork for each client, and the memory of a process",
    refused={
        (io, "asyncio"): "the event loop runs in the process that forks, and cannot be carried "
        "into the one that is forked; use a socketserver handler, or --model leader-followers"
        for io in ("epoll", "blocking", "sigio")
    }
    | {
        (io, "asgi"): "an application has one lifespan and one event loop for all clients of a worker, and "
        "neither can be carried into a process for each; use --model leader-followers"
        for io in ("epoll", "blocking", "sigio")
    },
)
