"""Leader/Followers within a child: threads take turns at the child's handle set.

1. One thread leads: it waits, accepts, and handles what is ready, inline, as if it were alone.
2. One follower watches it. While the leader comes back from the application within a millisecond
   (a quarter of one, when some were not back by then lately), the watcher only counts: a fast
   application pays little for threads.
3. When the leader stays inside the application, the watcher takes its leadership: it lends the
   leader's connection to the leader, and leads itself. The next follower watches.
4. The former leader finishes its connection, hands the outcome to the leader, and goes on with
   what waits at the bulkhead, or joins the followers.
5. Before a request that is likely to block (engine/routes.py), the leader promotes a follower, rather than
   be overtaken a millisecond later.

With `--threads N` up to N requests are in the application (engine/bulkhead.py). There is one thread more, so
that one leads even then: it reads, writes, and keeps deadlines, but accepts nothing.

The handle set, the connections and the acceptor belong to the thread that leads. While it is inside the
application its leadership is at stake (engine/baton.py): the thread that takes the connection out leads on,
which is the leader itself when it comes back, or the watcher. A watcher holds `_lock` from there until it
leads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from forkd.engine import baton
from forkd.engine.baton import Entered
from forkd.engine.bulkhead import Bulkhead, Work
from forkd.engine.connection import Connection
from forkd.engine.context import ChildContext
from forkd.engine.inline import InlineLoop
from forkd.engine.multiplexing import Multiplexing
from forkd.engine.routes import SLOW_SECONDS, Routes, route_of
from forkd.engine.steps import FINISHED, SUSPENDED, Outcome, advance
from forkd.session.seam import HIJACK, Await, Exchange, Multiplexed
from forkd.system.forked import in_fork, leave
from forkd.system.handles import Events
from forkd.system.lanes import Lanes
from forkd.system.originals import (
    Lock,
    ThreadLocal,
    get_ident,
    monotonic,
    monotonic_ns,
    start_thread,
)
from forkd.system.scoreboard import Row

_STANDSTILL_SECONDS = 0.001  # that a leader may stand still before it is overtaken
_ALERT_SECONDS = 0.00025  # the same, while some requests do so: then it is worth looking more often
_MAX_PASSED_OVER_TURNS = 16
#: After a turn that had events the next one comes so soon: it looks for what other threads have logged.
_SOON_SECONDS = 0.01
_NO_THREAD_ID = 0  # no thread has this identifier


class _Deposed(Exception):
    """This thread no longer leads; another goes on with the turn."""


class LeaderThreads(InlineLoop):
    def __init__(self, context: ChildContext) -> None:
        self._baton = baton.make(context.config.native)
        super().__init__(context, self._baton)
        self.demultiplex = self._run_as_leader
        assert context.lanes is not None
        self._lock = Lock()
        self._leader = get_ident()
        self._own = ThreadLocal()  # the lane of each thread
        self._own.row = context.row
        self._watching = Lock()  # held by the one follower that watches
        self._routes = Routes()
        self._access = context.access
        self._multiplexing = Multiplexing(self.connections, self._enter_step, self._resume)
        self._returned = self._multiplexing.returned
        self._bulkhead = Bulkhead(context.config.threads)
        self._passed_over = 0  # turns since the listeners had their share
        self._alert = True  # the last turn's answer to whether any request blocks
        self._had_events = False  # the last turn
        self._soon = False  # the leader takes another turn soon, whatever happens
        self._outcomes: deque[tuple[Connection, Outcome]] = deque()
        self._rung = False  # a thread has rung the bell, or is about to
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.watch(self._bell, self._collect)
        for number in range(context.config.threads):
            start_thread(partial(self._follow, context.lanes), f"forkd-{number + 2}")

    def turn(self, timeout: float | None) -> None:
        """One turn as the leader, however this thread becomes it. Called by every thread."""
        if self._leader != get_ident():
            self._wait_for_leadership()
        if self.done:
            return
        alert = self._routes.alert or self._bulkhead.inside > 0
        if alert or self._alert:
            self._alert = alert
            self._look_around()
        self._soon = self._had_events and self._access is not None
        if self._soon:
            self.again = min(self.again, monotonic() + _SOON_SECONDS)
        try:
            super().turn(timeout)
        except _Deposed:
            pass
        if self.done:
            self._baton.end()  # let the followers see it

    def _run_as_leader(self, events: Events) -> None:
        """As the driver; but a turn ends with the first request that blocks, and then the listeners,
        which come last, wait for the next turn. After so many of those they come first."""
        self._had_events = len(events) > 0
        self._passed_over += 1
        if self._passed_over > _MAX_PASSED_OVER_TURNS:
            self._passed_over = 0
            for fd, _ in events:
                self.other(fd)
        self.driver.run(events)

    def lead(self, fd: int) -> None:
        self._passed_over = 0
        super().lead(fd)

    def _look_around(self) -> None:
        """Set how careful the next turn has to be, if requests block, or have until now."""
        backpressure, routes = self.acceptor.backpressure, self._routes
        backpressure.busy = True  # a thread that leaves from here on rings the bell
        full = self._bulkhead.full
        backpressure.occupied(full)
        self.driver.watch_requests(full or routes.wary, 0.0 if routes.alert else SLOW_SECONDS)

    def _follow(self, lanes: Lanes) -> None:
        self._own.row = lanes.bind()
        try:
            while not self.done:
                self.turn(None)
        except BaseException as error:  # a bug in forkd: better no child than one that waits for its leader
            if in_fork:
                leave(error)
            self.log.exception("the child crashed")
            os._exit(70)

    # ---- followers ------------------------------------------------------------------------

    def _wait_for_leadership(self) -> None:
        """Watch, when it is this thread's turn to watch; return as the leader, or when done."""
        with self._watching:
            while not self.done:
                found = self._baton.watch(_ALERT_SECONDS if self._routes.surprises else _STANDSTILL_SECONDS)
                if found == baton.GIVEN:
                    self._leader = get_ident()
                    return
                if found == baton.STILL and self._overtake():
                    return

    def _overtake(self) -> bool:
        """Step 3. False when the leader has just come back."""
        with self._lock:
            held = self._baton.seize()
            if held is not None:
                self._leader = get_ident()
                self._bulkhead.entered()
                if not isinstance(held, Multiplexed):
                    self.connections.check_out(held)
            return held is not None

    # ---- the leader -----------------------------------------------------------------------

    def claims(self, conn: Connection, request: Any) -> bool:
        """Native code has read this usual request: whether it was entered or queued here. Asked while that
        is wary."""
        route = route_of(request.line)
        if not self._bulkhead.full and not self._routes.blocks(route):
            return False
        self._enter_apart(Work(conn, conn.exchange, request, route, self._routes.long(route)))
        return True

    def judge(self, line: bytes, took: float) -> None:
        """The application has taken so many seconds for a request."""
        self._routes.judge(route_of(line), took)

    def _go(self, conn: Connection, step: Callable[[Any], Any], value: Any) -> None:
        if conn.op is self.connections.writing:
            self._enter(conn, None)
            return
        self._baton.hold(conn)
        outcome = advance(conn, step, value, self.log, to_ready=True)
        if not self._baton.release(conn):
            self._deposed(conn, outcome)
        if type(outcome) is Exchange or outcome is HIJACK:
            self._enter(conn, outcome)
        else:
            self.connections.follow(conn, outcome)

    def _enter(self, conn: Connection, reached: Outcome) -> None:
        outcome = self._enter_holding(conn, conn, conn.exchange, reached)
        if outcome is not None:
            self.connections.follow(conn, outcome)

    def _enter_holding(
        self, held: Entered, conn: Connection, exchange: Exchange, reached: Any
    ) -> Outcome | None:
        """Go on from what was reached, here, with the baton for `held`. None: it was queued, since it is
        likely to block, or there is no room."""
        route, routes = route_of(exchange.line), self._routes
        if routes.blocks(route) or self._bulkhead.full:
            self._enter_apart(Work(conn, exchange, reached, route, routes.long(route)))
            return None
        self._baton.hold(held)
        began = monotonic()
        outcome = self._advance(conn, reached)
        took = monotonic() - began
        if took > SLOW_SECONDS or routes.alert:
            routes.judge(route, took)
        if not self._baton.release(held):
            self._deposed(conn, outcome)
        return outcome

    def _enter_apart(self, work: Work) -> None:
        """Step 5."""
        if type(work.exchange) is not Multiplexed:
            self.connections.check_out(work.conn)
        work.exchange.lent = self.connections.now
        if self._bulkhead.enter(work):
            self._leader = _NO_THREAD_ID
            self._baton.pass_on()
            self._work(work, queued=True)

    # ---- exchanges apart from their connections -------------------------------------------

    def run_apart(self, exchange: Multiplexed) -> bool:
        self._multiplexing.begin(exchange)
        self.aside = True
        self._ring()  # this thread may lead no longer
        return True

    def has_exchanges_apart(self) -> bool:
        return self._multiplexing.busy

    def attend(self) -> bool:
        more = self._multiplexing.attend()  # the last one may be what the end waits for
        return super().attend() or more

    def _enter_step(self, exchange: Multiplexed) -> None:
        """As `_enter`, while its connection is kept: what comes there goes to whoever leads."""
        conn: Connection = exchange.peer  # type: ignore[assignment]
        if self._enter_holding(exchange, conn, exchange, exchange) is not None:
            self._returned.append(exchange)

    def _resume(self, conn: Connection, exchange: Multiplexed) -> None:
        self._go(conn, conn.resume, exchange)

    # ---- former leaders -------------------------------------------------------------------

    def deposed(self, conn: Connection, request: Any) -> None:
        """Native code has begun with this, and another leads by now."""
        outcome = (
            advance(conn, conn.resume, request, self.log) if conn.call is None else SUSPENDED
        )
        self._routes.judge(route_of(request.line), (monotonic_ns() - request.began) / 1e9)
        self._deposed(conn, outcome)

    def _deposed(self, conn: Connection, outcome: Outcome) -> NoReturn:
        with self._lock:
            pass  # from here on the other leads
        if type(outcome) is Exchange or outcome is HIJACK:
            self._work(Work(conn, conn.exchange, outcome, route_of(conn.exchange.line), False))
        self._work(self._hand_back(conn, outcome, False), queued=True)

    def _work(self, work: Work | None, queued: bool = False) -> NoReturn:
        """Step 4. `queued`: it came by the bulkhead, as what follows it does."""
        row: Row = self._own.row
        while work is not None:
            row.occupy(work.exchange.lent if queued else None)
            queued = True
            began = monotonic()
            outcome = self._advance(work.conn, work.reached)
            self._routes.judge(work.route, monotonic() - began)
            work.exchange.lent = 0.0  # the next request of its connection may not wait here
            work = self._hand_back(work.conn, outcome, work.long)
        row.vacate()
        raise _Deposed

    def _advance(self, conn: Connection, reached: Any) -> Outcome:
        value = None
        if reached is HIJACK:
            value = conn.hijack()
        elif type(reached) is Multiplexed:
            return reached.step()
        elif type(reached) is not Exchange and reached is not None:
            outcome = self.driver.answer(conn, reached)
            if outcome is not None:
                if not reached.close:
                    return outcome
                conn.end(self.log)
                return FINISHED
            if conn.call is not None:
                return SUSPENDED
            value = reached
        return advance(conn, conn.resume, value, self.log)

    def _hand_back(self, conn: Connection, outcome: Outcome, long: bool) -> Work | None:
        """Hand the connection back to the handle set, or to the leader. Returns the next work, if there is
        any."""
        work = self._bulkhead.leave(long)
        if type(outcome) is not Await or not self.connections.keep_from_thread(conn, outcome):
            self._outcomes.append((conn, outcome))
            self._ring()
        elif (
            (work is None and self.acceptor.backpressure.busy)
            or (self._access is not None and not self._soon and self._access.news)
            or self._returned
        ):
            # There is room again: `_look_around` sets `busy` before it asks whether there is, so that a
            # thread that leaves finds it set, or was seen to have left. Or the logger has to be woken for a
            # line of the access log, and the leader would not look soon. Or an exchange waits for its
            # session, maybe this one.
            self._ring()
        return work

    def _ring(self) -> None:
        """Have the leader, which may be waiting, take a turn, for something that was done before this
        call."""
        # A thread that finds it set leaves the ringing to the one that set it: `_collect`, which clears it
        # before it looks for anything, is yet to come. Two that find it clear both ring, which does no harm.
        # To ask whether an outcome is the only one would not do: when two append before either asks, neither
        # finds one, and neither rings.
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._bell, 1)

    def _collect(self) -> None:
        """Outcomes of former leaders."""
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass
        self._rung = False  # from here on it is rung again: see `_ring`
        while self._outcomes:
            conn, outcome = self._outcomes.popleft()
            if type(outcome) is Multiplexed:
                self._returned.append(outcome)
            else:
                self.connections.follow(conn, outcome)
        if self._multiplexing.waits:
            self.aside = True

    def abandon(self) -> None:
        super().abandon()
        self._baton.end()
