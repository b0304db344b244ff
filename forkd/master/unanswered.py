"""Requests that a dead child has left unanswered: they are counted and logged. In the master.

Each request that reached the application is counted once, and has one line in the access log. A child does
both when its request ends; for those that it had in flight when it died the master does, with 504 where
forkd has killed it for being late, and else with 502. What the child wrote is read when it is dead, and
believed as far as it makes sense (system/scoreboard.py).
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns

from forkd.engine.account import account_for
from forkd.engine.parting import Parting
from forkd.ipc.heritage import Sinks
from forkd.log.lines import AccessLog, Log
from forkd.master.children import Child
from forkd.master.generation import Generation
from forkd.models import registry
from forkd.session.late import late_answers
from forkd.system.left import Left, left_by
from forkd.system.log_ring import ACCESS, Rings
from forkd.system.scoreboard import Scoreboard


class Unanswered:
    def __init__(
        self,
        board: Scoreboard,
        rings: Rings,
        log: Log,
        *,
        generations: Callable[[], list[Generation]],
        sinks: Callable[[Generation], Sinks],
    ) -> None:
        self._board, self._rings, self._log = board, rings, log
        self._generations, self._sinks = generations, sinks
        self._partings: dict[int, Parting] = {}  # by slot, of children that are being killed

    def part(self, child: Child) -> None:
        """The child is killed next, for being late. What processes that it has forked name are their own
        descriptors, and not its."""
        generation = self._generation(child)
        if generation is None or self._forks(generation):
            return
        parting = self._partings.setdefault(child.slot, Parting(late_answers(generation.config)))
        parting.take(child.pidfd, self._board.used(child.slot), pool=True)

    def forget(self) -> None:
        """In a new process: a copy of a client's socket would keep the connection open."""
        for parting in self._partings.values():
            parting.close()

    def account_for(self, child: Child, reason: str) -> Left:
        """Count and log what the child has left, whose process is gone. Its lanes are folded next."""
        generation = self._generation(child)
        rows, now = self._board.used(child.slot), monotonic_ns()
        forks = self._forks(generation)
        # Processes that it has forked have rings of their own; threads share the main one's.
        lanes = [row.index if forks else rows[0].index for row in rows]
        heads = [self._rings.heads[self._rings.index(lane, ACCESS)] for lane in lanes]
        left = left_by(rows, heads, not forks, now)
        if forks:  # threads of other processes, of which the child's stacks say nothing
            left = Left([request._replace(thread=0) for request in left.requests], left.more)
        late = child.fault is not None
        if late and reason != "timeout":
            reason = f"{reason}: graceful-timeout"
        parting = self._partings.pop(child.slot, None)
        told = parting.tell(left.requests) if parting is not None else {}
        account_for(left, late, reason, rows[0], self._access(generation), now, told)
        # What it has written, and not told of, is in its ring.
        self._rings.ring_bell()
        return left

    def _generation(self, child: Child) -> Generation | None:
        return next((g for g in self._generations() if g.number == child.generation), None)

    def _forks(self, generation: Generation | None) -> bool:
        return generation is not None and registry.get(generation.config.model).forks

    def _access(self, generation: Generation | None) -> AccessLog | None:
        if generation is None or generation.config.access_log is None:
            return None
        sink = self._sinks(generation).access(self._board.lanes[0][0])  # the master's own
        config = generation.config
        return AccessLog(sink, config.log_format, self._log, config.native, config.access_log_format)
