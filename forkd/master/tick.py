"""The master's tick: limits that no event announces. Once a second, or oftener for a short --timeout.

Requests that hold a child for too long, children that are old, have grown too fat or were left by a crowd,
a series of crashes that is over, a service that has more children than it needs. All times are monotonic.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import partial
from time import monotonic, monotonic_ns

from forkd.config import Config
from forkd.ipc.messages import Trim
from forkd.log.lines import Log, escape
from forkd.master import deaths, plan, scaling
from forkd.master.children import Child, Children, State
from forkd.master.lateness import LAST_WORDS_SECONDS
from forkd.master.termination import Termination
from forkd.system import process
from forkd.system.cells import CONNECTIONS, WORKING
from forkd.system.loop import Loop
from forkd.system.scoreboard import Scoreboard

_TICK_SECONDS = 1.0
_RSS_SECONDS = 5.0
#: Connections at once that need memory worth giving back.
_CROWD_CONNECTIONS = 250


def period(timeout: float) -> float:
    """Seconds between two ticks, where --timeout is that."""
    return min(_TICK_SECONDS, max(0.1, timeout / 4)) if timeout else _TICK_SECONDS


def expiry(config: Config, now: float) -> float:
    """When a child that is ready now is to be replaced for its age; jitter keeps children apart."""
    if not config.max_age:
        return float("inf")
    return now + config.max_age + random.SystemRandom().uniform(0, config.max_age_jitter)


def settled(
    backoff: plan.Backoff, ready: int, want: int, children: Iterable[Child], now: float
) -> bool:
    """Whether children that have served for a while end a series of crashes. `ready`: so many serve."""
    if not (backoff.crashes or backoff.waits) or ready < want:
        return False
    if any(child.replace == deaths.LIFESPAN and child.state is State.READY for child in children):
        return False  # it serves as well as it can until another may be forked
    youngest = max((child.ready or now for child in children), default=now)
    return now - youngest >= plan.SETTLED_SECONDS


class Tick:
    """Looks after the children. What it finds it marks in their records, for the plan, or it ends them."""

    def __init__(
        self, loop: Loop, log: Log, board: Scoreboard, children: Children, termination: Termination
    ) -> None:
        self._loop = loop
        self._log = log
        self._board = board
        self._children = children
        self._termination = termination
        self._demand = scaling.Demand()
        self._rss_due = 0.0

    def look(self, now: float, timeout: float, max_rss: int) -> None:
        """`timeout`: seconds that a request may hold a child, or 0. `max_rss`: bytes of memory, or 0."""
        if timeout:
            self._find_stuck(timeout)
        self._age(now)
        if now >= self._rss_due:
            self._rss_due = now + _RSS_SECONDS
            self._weigh(max_rss)
        self._thin_out()

    # ---- stuck ----------------------------------------------------------------------------

    def _find_stuck(self, timeout: float) -> None:
        for child in self._children:
            if self._held(child, timeout) and not child.accused and child.state is not State.KILLED:
                child.accused = True
                self._termination.ask_stacks(child)
                judge = partial(self._judge, child, timeout)
                self._loop.timers.set(f"judge {child.pid}", monotonic() + LAST_WORDS_SECONDS, judge)

    def _held(self, child: Child, timeout: float) -> tuple[float, str] | None:
        """The request that holds the child for longer than `timeout`: (seconds, its line)."""
        longest = self._board.longest(child.slot, monotonic_ns())
        if longest is None or longest[0] <= timeout:
            return None
        return longest[0], longest[1].decode("latin-1")

    def _judge(self, child: Child, timeout: float) -> None:
        """The accused had its last words; unless it came back meanwhile, it is killed."""
        if self._children.get(child.slot) is not child:
            return
        held = self._held(child, timeout)
        if held is None:
            child.accused = False
            return
        seconds, line = held
        time = f"for {seconds:.1f} s (--timeout {timeout:g})"
        # Without a line: what is in its event loop is no step of a request's own.
        fault = (
            f'"{escape(line)}" has held it {time}' if line
            else f"its event loop has not come round {time}{self._at(child)}"
        )  # fmt: skip
        self._termination.end(child, "timeout", fault)

    def _at(self, child: Child) -> str:
        """What that was found to be at (master/lag.py)."""
        block = child.block
        if block is None or block.turn != self._board.lanes[child.slot][0].cells[WORKING] or block.many:
            return ""
        return f": it is at {escape(block.by)}" if block.by else ""

    # ---- old ------------------------------------------------------------------------------

    def _age(self, now: float) -> None:
        """The plan replaces one at a time, however many are due."""
        for child in self._children:
            if child.expires <= now and child.state is State.READY and not child.replace:
                child.replace = "max-age"

    # ---- fat ------------------------------------------------------------------------------

    def _weigh(self, limit: int) -> None:
        for child in self._children:
            size = child.rss = process.resident_bytes(child.pid)
            if limit and size > limit and child.state is State.READY and not child.replace:
                self._log.warning(
                    f"worker {child.slot} (pid {child.pid}) has {size >> 20} MiB (--max-rss "
                    f"{limit >> 20} MiB); it is replaced"
                )
                child.replace = "max-rss"

    def _thin_out(self) -> None:
        """Children that a crowd has left give back what it needed: an allocator keeps it by itself."""
        for child in self._children:
            connections = self._board.gauge(child.slot, CONNECTIONS)
            child.crowd = max(child.crowd, connections)
            if child.crowd >= _CROWD_CONNECTIONS and connections <= child.crowd // 4:
                child.crowd = connections
                child.channel.send(Trim())

    # ---- idle -----------------------------------------------------------------------------

    def restless(self) -> None:
        """The service was just too small: count its calm anew."""
        self._demand = scaling.Demand()

    def calm_down(self, want: int, least: int, patience: float, now: float) -> int:
        """How many children are enough, of `want`, after `patience` seconds with one too many."""
        want, self._demand = scaling.shrink(
            want, least, self._busy(self._children), self._demand, now, patience
        )
        return want

    def _busy(self, children: Iterable[Child]) -> int:
        now = monotonic_ns()
        return sum(
            1
            for child in children
            if self._board.gauge(child.slot, CONNECTIONS)
            or self._board.working(child.slot, now) is not None
        )
