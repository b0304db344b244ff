"""The master's tick: limits that no event announces. Once a second, or oftener for a short --timeout.

Requests that hold a child for too long, children that are old, have grown too fat or were left by a crowd,
a series of crashes that is over, a service that has more children than it needs. All times are monotonic.
"""

from __future__ import annotations

import random
from functools import partial
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING

from forkd.config import Config
from forkd.errors import ForkdError
from forkd.log import escape
from forkd.models import registry
from forkd.supervise import plan, scaling
from forkd.supervise.children import Child, State
from forkd.supervise.lateness import LAST_WORDS
from forkd.supervise.messages import Trim
from forkd.system import process
from forkd.system.scoreboard import CONNECTIONS

if TYPE_CHECKING:
    from forkd.supervise.master import Master

_TICK = 1.0
_RSS_TICK = 5.0
#: Connections at once that need memory worth giving back.
_CROWD = 250


def expiry(config: Config, now: float) -> float:
    """When a child that is ready now is to be replaced for its age; jitter keeps children apart."""
    if not config.max_age:
        return float("inf")
    return now + config.max_age + random.SystemRandom().uniform(0, config.max_age_jitter)


class Watchdog:
    def __init__(self, master: Master) -> None:
        self._master = master
        self._demand = scaling.Demand()
        self._rss_due = 0.0
        self._no_pidfile = ""  # why there is none, as it was said

    def tick(self) -> None:
        config = self._master.generation.config
        now = monotonic()
        if config.timeout and not registry.get(config.model).forks:
            self._find_stuck(config.timeout)
        self._age(now)
        if now >= self._rss_due:
            self._rss_due = now + _RSS_TICK
            self._weigh(config.max_rss)
        self._master.doorbell.forgive()
        self._master.listening.look()
        self._keep_pidfile()
        self._master.leadership.measure()
        self._thin_out()
        self._master.log.sink.retry()
        self._settle(now)
        self._calm_down(now)
        period = min(_TICK, max(0.1, config.timeout / 4)) if config.timeout else _TICK
        self._master.loop.timers.set("tick", now + period, self.tick)

    def restless(self) -> None:
        """The service was just too small: count its calm anew."""
        self._demand = scaling.Demand()

    def _keep_pidfile(self) -> None:
        """Without it no verb finds the daemon, and another one of its name starts. Whoever has removed it has
        hardly left the control socket."""
        master = self._master
        if master.launch.pidfile is None or not master.owns or master.handed_over:
            return
        why = ""
        try:
            if master.launch.pidfile.restore():
                path = master.launch.pidfile.path
                master.log.warning(f"pid file {path}: it had been removed or replaced; made again")
                master.listening.restore_own()
        except ForkdError as error:
            why = f"the pid file was removed or replaced, and cannot be made again: {error}"
            if why != self._no_pidfile:
                master.log.error(why)
        self._no_pidfile = why

    # ---- stuck ----------------------------------------------------------------------------

    def _find_stuck(self, timeout: float) -> None:
        for child in self._master.children:
            if self._held(child, timeout) and not child.accused and child.state is not State.KILLED:
                child.accused = True
                self._master.departures.ask(child)
                judge = partial(self._judge, child, timeout)
                self._master.loop.timers.set(f"judge {child.pid}", monotonic() + LAST_WORDS, judge)

    def _held(self, child: Child, timeout: float) -> tuple[float, str] | None:
        """The request that holds the child for longer than `timeout`: (seconds, its line)."""
        longest = self._master.board.longest(child.slot, monotonic_ns())
        if longest is None or longest[0] <= timeout:
            return None
        return longest[0], longest[1].decode("latin-1")

    def _judge(self, child: Child, timeout: float) -> None:
        """The accused had its last words; unless it came back meanwhile, it is killed."""
        if self._master.children.get(child.slot) is not child:
            return
        held = self._held(child, timeout)
        if held is None:
            child.accused = False
            return
        seconds, line = held
        self._master.departures.end(
            child,
            "timeout",
            f'"{escape(line)}" has held it for {seconds:.1f} s (--timeout {timeout:g})',
        )

    # ---- old ------------------------------------------------------------------------------

    def _age(self, now: float) -> None:
        """The plan replaces one at a time, however many are due."""
        for child in self._master.children:
            if child.expires <= now and child.state is State.READY and not child.replace:
                child.replace = "max-age"

    # ---- fat ------------------------------------------------------------------------------

    def _weigh(self, limit: int) -> None:
        for child in self._master.children:
            size = child.rss = process.resident_bytes(child.pid)
            if limit and size > limit and child.state is State.READY and not child.replace:
                self._master.log.warning(
                    f"worker {child.slot} (pid {child.pid}) has {size >> 20} MiB (--max-rss "
                    f"{limit >> 20} MiB); it is replaced"
                )
                child.replace = "max-rss"

    def _thin_out(self) -> None:
        """Children that a crowd has left give back what it needed: an allocator keeps it by itself."""
        for child in self._master.children:
            connections = self._master.board.gauge(child.slot, CONNECTIONS)
            child.crowd = max(child.crowd, connections)
            if child.crowd >= _CROWD and connections <= child.crowd // 4:
                child.crowd = connections
                child.channel.send(Trim())

    # ---- stable, and idle -----------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Children that have served for a while end a series of crashes."""
        master = self._master
        ready = len(master.leadership.serving(master.generation))
        if (master.backoff.crashes or master.backoff.waits) and ready >= master.generation.want:
            youngest = max((c.ready or now for c in master.children), default=now)
            if now - youngest >= plan.SETTLED:
                master.log.info("children are stable again")
                master.backoff = master.backoff.settled()

    def _calm_down(self, now: float) -> None:
        master, generation = self._master, self._master.generation
        if master.paused or master.reloader.incoming or generation.least == generation.most:
            return
        board, now_ns = master.board, monotonic_ns()
        busy = sum(
            1
            for c in master.children
            if board.gauge(c.slot, CONNECTIONS) or board.working(c.slot, now_ns) is not None
        )
        want, self._demand = scaling.shrink(
            generation.want, generation.least, busy, self._demand, now,
            generation.config.scale_down_after,
        )  # fmt: skip
        if want != generation.want:
            master.log.info(f"scaling down to {want}: idle")
            generation.want = want
