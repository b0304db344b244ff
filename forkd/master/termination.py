"""Ending children: asked to retire, told to quit, or killed, after they have had time to write their stacks.

In the master. The plan, the tick and the phase say which child is to end and why.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from time import monotonic

from forkd.ipc.messages import Quit, Retire
from forkd.log.lines import Log
from forkd.master import plan
from forkd.master.children import Child, Children, State
from forkd.master.dispatcher import Dispatcher
from forkd.master.lateness import LAST_WORDS_SECONDS, not_booted
from forkd.master.signalling import send
from forkd.master.unanswered import Unanswered
from forkd.system import process
from forkd.system.loop import Loop
from forkd.system.signals import STACKS


class Termination:
    def __init__(
        self,
        loop: Loop,
        log: Log,
        children: Children,
        unanswered: Unanswered,
        dispatcher: Dispatcher,
        boot_failed: Callable[[int, str], None],
    ) -> None:
        """`boot_failed` is told the generation of a child that was killed since it was not ready in time, and
        the error."""
        self._loop = loop
        self._log = log
        self._children = children
        self._unanswered = unanswered
        self._dispatcher = dispatcher
        self._boot_failed = boot_failed

    def retire(self, child: Child, why: str, seconds: float, message: Retire) -> bool:
        """Have it finish what it has begun, in `seconds` at most. Returns whether its state has changed."""
        if not child.on("retire"):
            return False
        child.why = why
        child.deadline = monotonic() + seconds
        self._dispatcher.retire(child)
        if child.state is State.KILLED or not child.channel.send(message):
            send(self._log, child, signal.SIGKILL)
        return True

    def quit(self, child: Child) -> None:
        """Have it end at once; what is under way is lost."""
        child.on("kill")
        child.why = child.why or "stop"
        if not child.channel.send(Quit()):
            send(self._log, child, signal.SIGKILL)

    def kill_all(self) -> None:
        for child in self._children:
            send(self._log, child, signal.SIGKILL)

    def kill(self, child: Child, why: str) -> None:
        child.on("kill")
        child.why = child.why or why
        send(self._log, child, signal.SIGKILL)

    def ask_stacks(self, child: Child) -> None:
        """faulthandler writes them in the signal handler itself, in C: also when the child is stuck there and
        holds the GIL."""
        child.forget_stacks()
        send(self._log, child, STACKS)

    def end_late(self, child: Child, why: str, fault: str) -> None:
        """Kill a child for `fault`, a sentence, once it has had time to write its stacks."""
        child.on("kill")
        self.ask_stacks(child)
        end = partial(self.end, child, why, fault)
        self._loop.timers.set(f"kill {child.pid}", monotonic() + LAST_WORDS_SECONDS, end)

    def end_boot(self, child: Child, seconds: float) -> None:
        """Kill a child that is not ready yet, unless it is once it has had time to write its stacks."""
        child.deadline = float("inf")
        self.ask_stacks(child)
        end = partial(self._end_boot, child, seconds)
        self._loop.timers.set(f"boot {child.pid}", monotonic() + LAST_WORDS_SECONDS, end)

    def _end_boot(self, child: Child, seconds: float) -> None:
        if child.state is State.STARTING and self._children.get(child.slot) is child:
            fault = not_booted(f"worker {child.slot} (pid {child.pid})", seconds)
            child.error = f"{fault}; it was here:\n{child.read_stacks() or process.state(child.pid)}"
            self.end(child, plan.BOOT_TIMEOUT, fault)
            # Now: its end may take as long as a disk that is gone.
            self._boot_failed(child.generation, child.error)

    def end(self, child: Child, why: str, fault: str) -> None:
        """Kill it now; noted first is what the kernel forgets with the process."""
        if self._children.get(child.slot) is child:
            child.why, child.fault = why, fault
            child.doing = process.state(child.pid)
            child.rss = process.resident_bytes(child.pid) or child.rss
            self._unanswered.part(child)
            self.kill(child, why)

    def report_unkillable(self) -> None:
        """At the master's end: children that no signal has ended."""
        for child in self._children:
            if child.killed is not None and child.killed + plan.DEATH_SECONDS <= monotonic():
                self._log.error(f"{child} {process.unkillable(child.pid)}")
