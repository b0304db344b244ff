"""Event loops that do not come round: found, and told, while they do not (--lag-limit). In the master.

A worker whose loop begins a turn rings, unless the master looks (system/watch.py). From then on it looks at
the scoreboard whenever the oldest turn there may have taken too long, until no loop is in one: then the next
turn rings again. A loop that is blocked is signalled: the stack of its thread is written at once, and what it
is at comes as a message, when its interpreter gets to that (worker/turns.py). One line in the error log for
each route and minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path
from time import monotonic, monotonic_ns

import forkd
from forkd.app.interfaces import named
from forkd.ipc.messages import Blocked
from forkd.log.lines import Log, escape
from forkd.master.children import Block, Child, Children, State
from forkd.master.generation import Generation
from forkd.master.signalling import send
from forkd.system.cells import REQUEST, WORKING
from forkd.system.loop import Loop
from forkd.system.scoreboard import Scoreboard
from forkd.system.signals import LOOP_STACK
from forkd.system.watch import Watch

#: For a blocked worker to answer, before what is known is told.
_ANSWER_SECONDS = 0.05
#: So often, where it has not: the processors are busy.
_MAX_TRIES = 4
#: Between two lines about the same route; and so many lines in that time at most.
_SILENCE_SECONDS = 60.0
_MAX_LINES = 20
_MAX_FRAMES = 20  # of a stack in the log
_RUNS_THE_LOOP = tuple(f'  File "{Path(forkd.__file__).parent / name}/' for name in ("worker", "engine"))


class Lag:
    def __init__(
        self, loop: Loop, log: Log, board: Scoreboard, children: Children, watch: Watch,
        generations: Callable[[], list[Generation]],
    ) -> None:  # fmt: skip
        self._loop = loop
        self._log = log
        self._board = board
        self._children = children
        self._watch = watch
        self._generations = generations
        self._looking = False
        self._told: dict[str, float] = {}  # when, by what has blocked a loop
        loop.watch(watch.fileno(), self._rung)

    # ---- when to look ---------------------------------------------------------------------

    def _rung(self) -> None:
        self._watch.hear()
        limits = self._limits()
        if not self._looking and limits:
            self._look_in(min(limits.values()))

    def _look_in(self, seconds: float) -> None:
        self._looking = True
        self._loop.timers.set("lag", monotonic() + seconds, self._look)

    def _look(self) -> None:
        limits, now, soonest = self._limits(), monotonic_ns(), math.inf
        self._looking = False
        self._watch.looks[0] = 0  # before the turns are looked at: one that begins from here on rings
        for child in self._children:
            limit = limits.get(child.generation, 0.0)
            seconds = self._board.working(child.slot, now) if limit else None
            if seconds is None or child.state not in (State.READY, State.RETIRING):
                continue
            if seconds >= limit:
                self._find(child, seconds, limit)
            # Once for many workers: each is found within a quarter of its limit.
            soonest = min(soonest, max(limit - seconds, limit / 4))
        if soonest < math.inf:
            self._watch.looks[0] = 1
            self._look_in(soonest)

    def _limits(self) -> dict[int, float]:
        """Seconds by generation, of those whose workers have a loop and a limit."""
        found = {}
        for generation in self._generations():
            speaks, limit = named(generation.interface), generation.config.lag_limit
            if limit and speaks is not None and speaks.needs_loop:
                found[generation.number] = limit
        return found

    # ---- a turn that takes too long -------------------------------------------------------

    def _find(self, child: Child, seconds: float, limit: float) -> None:
        row, block, now = self._board.lanes[child.slot][0], child.block, monotonic_ns()
        turn, began, line = row.cells[WORKING], row.cells[REQUEST], row.line()
        step = (now - began) / 1e9 if began else None
        alone = step is not None and step >= limit  # to blame, whatever was found before it in this turn
        if block is None or block.turn != turn or (alone and (block.many or block.step != began)):
            block = child.block = Block(turn, began)
            # Of several steps none is to blame. What runs in the middle of one that is no request's may be.
            block.many = not alone and step is not None and step < seconds / 2
            if line and not block.many:
                block.by = _route(line.decode("latin-1"))
            # Once a step: what it waits for in the kernel is interrupted.
            if self._is_news(block.by):
                if not child.accused:  # else its stacks are being taken: the answer is part of its report
                    child.forget_stacks()
                send(self._log, child, LOOP_STACK)
                self._tell_soon(child, block, _MAX_TRIES)
        block.seconds = seconds
        child.note_worst(block)

    def hear(self, child: Child, message: Blocked) -> None:
        """A blocked worker says what it is at."""
        block = child.block
        if block is None or block.by:
            return
        if message.line:
            block.by = _route(message.line)
        else:
            block.by = f"task {message.task}" if message.task else "a callback"
        self._look_again(child, block)
        if block.told and self._is_news(block.by):
            self._say(child, block, _frames(child.read_stacks()))

    def _tell_soon(self, child: Child, block: Block, tries: int) -> None:
        tell = partial(self._tell, child, block, tries)
        self._loop.timers.set(f"blocked {child.pid}", monotonic() + _ANSWER_SECONDS, tell)

    def _tell(self, child: Child, block: Block, tries: int) -> None:
        if self._children.get(child.slot) is not child or child.accused or child.state is State.KILLED:
            return
        stack = _frames(child.read_stacks())
        self._look_again(child, block)
        if not stack and block.lasts and tries > 1:
            self._tell_soon(child, block, tries - 1)
            return
        child.forget_stacks()
        if self._is_news(_key(block, stack)):
            block.told = True
            self._say(child, block, stack)
        elif not (block.by or stack):
            block.told = True  # of this one nothing is known, as of another before: it may be yet

    def _look_again(self, child: Child, block: Block) -> None:
        block.lasts = self._board.lanes[child.slot][0].cells[WORKING] == block.turn
        if block.lasts:
            block.seconds = (monotonic_ns() - block.turn) / 1e9
        child.note_worst(block)

    def _is_news(self, by: str) -> bool:
        now = monotonic()
        self._told = {known: when for known, when in self._told.items() if when > now - _SILENCE_SECONDS}
        return by not in self._told and len(self._told) < _MAX_LINES

    def _say(self, child: Child, block: Block, stack: str) -> None:
        self._told[_key(block, stack)] = monotonic()
        by = escape(block.by)
        if block.many:
            by = f"by many short steps{', now by ' + by if by else ''}"
        elif by:
            by = f"by {by}"
        how, so_far = ("is blocked", " so far") if block.lasts else ("was blocked", "")
        title = f"the event loop of {child} {how} for {block.seconds:.2f} s{so_far} {by}".rstrip()
        self._log.report(
            "warning", title, stack, worker=child.slot, seconds=round(block.seconds, 3),
            blocked_by=block.by or None, stack=stack or None,
        )  # fmt: skip


def _key(block: Block, stack: str) -> str:
    """What silences lines of the same: not "", as which all begins that is no request's step."""
    return block.by or stack.partition("\n")[0] or "?"


def _route(line: str) -> str:
    """Method and path of a request line, without what the query says."""
    return " ".join(line.partition("?")[0].split(" ")[:2])


def _frames(text: str) -> str:
    """Those of a stack as faulthandler writes it, the innermost first, without those that run the loop."""
    frames = [line for line in text.splitlines() if line.startswith("  File ")]
    frames = list(takewhile(lambda line: not line.startswith(_RUNS_THE_LOOP), frames))
    return "\n".join(frames[:_MAX_FRAMES])
