"""Forks children and collects them. In the master."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, monotonic_ns
from typing import NoReturn

from forkd.errors import StartError
from forkd.ipc.heritage import Heritage, Sinks, TemplateHeritage
from forkd.ipc.messages import Channel
from forkd.log.lines import Log
from forkd.master import templates
from forkd.master.children import Child, Children, State
from forkd.master.generation import Generation
from forkd.master.lateness import FROM_OUTSIDE
from forkd.master.storage import SharedTables
from forkd.master.unanswered import Unanswered
from forkd.system import process
from forkd.system.accounts import Identity
from forkd.system.cells import REQUESTS
from forkd.system.fd_passing import make_queue
from forkd.system.lease import FULL, make_bells
from forkd.system.left import Left
from forkd.system.log_ring import Rings
from forkd.system.loop import Loop
from forkd.system.scoreboard import Scoreboard
from forkd.system.signal_sockets import SignalSockets
from forkd.system.watch import Watch
from forkd.worker import main as worker

#: Why workers usually end. Others are "SIG…" and "reload-failed".
_REASONS = (
    "boot", "boot-timeout", "error", "exit", "max-age", "max-requests", "max-rss", "reload",
    "scale-down", "stop", "timeout", "SIGKILL", "SIGSEGV",
)  # fmt: skip


@dataclass(frozen=True)
class Departure:
    """How a child ended."""

    child: Child
    code: int  # exit code, or minus the signal
    reason: str  # label of forkd_worker_exits_total
    crashed: bool  # neither asked to go nor killed from outside
    killed: bool  # from outside, while it booted
    untimely: bool  # killed for a fault, or dead by itself: anything but an ordinary retirement
    stacks: str
    peak: int  # most bytes of memory it ever had
    held: tuple[float, bytes] | None  # the request it was serving: (seconds, its line)
    left: Left  # what it had in flight
    requests: int  # that it answered


class Spawner:
    def __init__(
        self,
        slots: int,
        threads: int,
        loop: Loop,
        log: Log,
        *,
        generations: Callable[[], list[Generation]],
        on_message: Callable[[Child], None],
        on_exit: Callable[[Child], None],
        on_failure: Callable[[int, str], None],
        on_killed: Callable[[int, str], None],
        sinks: Callable[[Generation], Sinks],
        about_to_fork: Callable[[], None],
        shared: SharedTables,
    ) -> None:
        """`about_to_fork` is called before each fork."""
        self.board = Scoreboard(slots, threads)
        self.rings = Rings(slots + 1, threads + 1)
        self.children = Children(slots)
        self.bells = make_bells(slots)
        self.watch = Watch()
        # From the start, so that the first increase of each can be seen.
        self.exits: Counter[str] = Counter(dict.fromkeys(_REASONS, 0))
        self.untimely: Counter[str] = Counter()  # of these: for a fault, or by themselves
        self.templates = templates.Templates(loop, log, on_failure, on_killed)
        #: What a new child closes of the master's: filled in by the master.
        self.forget: list[Callable[[], None]] = [self.templates.forget]
        self.identity: Identity | None = None
        self.shared = shared
        self._loop = loop
        self._log = log
        self._generations = generations
        self._on_message = on_message
        self._on_exit = on_exit
        self._sinks = sinks
        self._about_to_fork = about_to_fork
        self.unanswered = Unanswered(
            self.board, self.rings, log, generations=generations, sinks=sinks
        )
        self.forget.append(self.unanswered.forget)

    def fork(self, generation: Generation, admin: str | None) -> Child | None:
        """Fork one child of `generation`; None when its template has not loaded the application yet.
        Raises StartError when the machine has no room or no slot is free, leaving nothing behind."""
        self._about_to_fork()
        generation.enter()
        make: templates.Fork | None = None
        if generation.config.preload and generation.config.app is not None:
            make = self.templates.get(self._template_heritage(generation, admin))
            if make is None:
                return None
        slot = self.children.free_slot()
        if slot is None:
            raise StartError(f"all {self.children.slots} slots are taken")
        try:
            with contextlib.ExitStack() as undo:
                child = self._fork(generation, admin, slot, make, undo)
                undo.pop_all()
        except OSError as error:
            raise StartError(process.why_no_fork(error)) from error
        seconds = generation.config.boot_timeout
        child.deadline = child.forked + seconds if seconds else float("inf")
        self.children.add(child)
        self._loop.watch(child.pidfd, lambda: self._on_exit(child))
        self._loop.watch(child.channel.fileno(), lambda: self._on_message(child))
        return child

    def _template_heritage(self, generation: Generation, admin: str | None) -> TemplateHeritage:
        keep: set[socket.socket | int] = {*(generation.queue or ())[1:]}
        if not generation.master_accepts:
            keep |= set(generation.all_sockets())
        return TemplateHeritage(
            config=generation.config,
            generation=generation.number,
            lanes=self.board.lanes,
            lease=generation.lease,
            begins=generation.begins,
            master_accepts=generation.master_accepts,
            queue=generation.queue[1] if generation.queue else None,
            logs=self._sinks(generation),
            identity=self.identity,
            admin=admin,
            units=self.shared.units(generation.config),
            watch=self.watch,
            master=os.getpid(),
            forget=self.forgetting(keep),
        )

    def forgetting(self, keep: set[socket.socket | int]) -> Callable[[], None]:
        """What a process that is forked next does with the master's descriptors: it closes all but `keep`. A
        listener that it does not serve, for one, would stay open as long as it lives."""
        self._about_to_fork()
        others = list(self.children)
        ends = [end for known in self._generations() for end in known.queue or ()]
        listening = [sock for known in self._generations() for sock in known.all_sockets()]
        directories = [known.directory for known in self._generations()]

        def forget() -> None:
            for other in others:
                other.close()
            for sock in [*listening, *ends]:
                if sock not in keep:
                    sock.close()
            for directory in directories:
                os.close(directory)
            for call in self.forget:
                call()

        return forget

    def _fork(
        self,
        generation: Generation,
        admin: str | None,
        slot: int,
        make: templates.Fork | None,
        undo: contextlib.ExitStack,
    ) -> Child:
        """Raises OSError; `undo` closes then what was opened."""
        number = self.children.free_number(generation.number)
        with process.naming("socketpair"):
            ours, theirs = Channel.pair()
        undo.callback(ours.close)
        undo.callback(theirs.close)
        stacks = process.make_memfd(f"forkd-stacks-{slot}")
        undo.callback(os.close, stacks)
        sockets, listening = SignalSockets.pair(worker.SENT)
        undo.callback(sockets.close)
        undo.callback(listening.close)
        own_queue = None
        if generation.master_accepts and generation.queue is None:
            with process.naming("socketpair"):
                own_queue = make_queue()
            for end in own_queue:
                undo.callback(end.close)
        queue = own_queue or generation.queue
        receiving = queue[1] if queue else None
        listeners = [] if queue else generation.sockets_of(number)
        if generation.lease is not None:
            generation.lease.load[slot] = 0
        if make is not None:
            passed = [
                theirs.fileno(),
                stacks,
                1,
                2,
                *listening.filenos(),
                *([own_queue[1].fileno()] if own_queue else []),
            ]
            pid, pidfd = make(slot, number, passed)
        else:
            keep: set[socket.socket | int] = {sock for sock, _ in listeners}
            keep |= {receiving} if receiving is not None else set()
            masters = self.forgetting(keep)
            ends = [ours, *(own_queue or ())[:1], sockets]

            # It must not know `heritage`, which has it: in a cycle they would keep this generation's
            # shared memory until the next garbage collection.
            def forget() -> None:
                for end in ends:
                    end.close()
                masters()

            heritage = Heritage(
                config=generation.config,
                slot=slot,
                number=number + 1,
                generation=generation.number,
                channel=theirs,
                lanes=self.board.lanes[slot],
                lease=generation.lease,
                listeners=listeners,
                queue=receiving,
                stacks=stacks,
                sockets=listening,
                logs=self._sinks(generation),
                identity=self.identity,
                admin=admin,
                units=self.shared.units(generation.config),
                watch=self.watch,
                master=os.getpid(),
                forget=forget,
            )

            def child_main() -> NoReturn:
                worker.main(heritage)

            pid, pidfd = process.fork(child_main)
        theirs.close()
        listening.close()
        child = Child(
            slot, number, generation.number, pid, pidfd, ours, stacks, sockets, monotonic()
        )  # fmt: skip
        child.queue = own_queue
        return child

    def collect(self, child: Child) -> Departure | None:
        """Reap a child whose pidfd became readable; fold its counters. None when it still lives.
        The caller closes it."""
        found = process.collect(child.pid)
        if found is None:
            return None
        self.shared.died(child.slot)
        code, peak, cpu_ns = found
        stacks = child.read_stacks()
        died = child.state is State.RETIRING and code != 0  # and what it was to go for is not why
        if child.why is not None and not died:
            reason = child.why
        elif child.ready is None:
            reason = "boot"
        else:
            reason = process.exit_reason(code)
        asked = child.state in (State.RETIRING, State.KILLED) or child.why is not None
        # Not a crash: what comes from outside (an operator, the OOM killer, systemd-oomd). Exit code 0 is
        # one: a child that was not asked to go has no reason to.
        outside = not asked and -code in FROM_OUTSIDE
        crashed = not asked and not outside
        untimely = crashed or died or child.fault is not None or not asked
        held = self.board.longest(child.slot, monotonic_ns())
        left = self.unanswered.account_for(child, reason)
        requests = self.board.counter(child.slot, REQUESTS) - len(left.requests) - left.more
        self.exits[reason] += 1
        if untimely:
            self.untimely[reason] += 1
        self._loop.unwatch(child.pidfd)
        self._loop.unwatch(child.channel.fileno())
        self.board.fold(child.slot)
        self.board.spend(child.slot, max(cpu_ns, child.cpu_ns))
        self.children.remove(child)
        killed = outside and child.ready is None
        return Departure(
            child, code, reason, crashed, killed, untimely, stacks, peak, held, left, requests
        )

    def reap_strangers(self, ours: set[int]) -> None:
        """As PID 1, or as a subreaper, the master is the parent of orphans. `ours`: processes besides the
        children and the templates that are collected elsewhere."""
        ours = {*ours, *(child.pid for child in self.children), *self.templates.pids()}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return  # a child of ours is next: its pidfd collects it, and this is called again
            process.reap(found.si_pid)


def mark_gone(generation: Generation, slot: int) -> None:
    """No child is in the slot: no leader shall think that it is idle."""
    if generation.lease is not None:
        generation.lease.load[slot] = FULL
