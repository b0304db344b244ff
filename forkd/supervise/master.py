"""The master: owns listeners, children and generations; supervises; answers the operator.

It never runs application code, never parses a client's bytes and never blocks. Its loop waits for
signals, the exit (pidfd) and the messages of each child, the control socket, the admin listener and
timers. After each turn it asks `plan` what to do next, and does it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from time import monotonic, monotonic_ns
from typing import Any

from forkd import __version__
from forkd.address import Address
from forkd.config import Config, unreloadable
from forkd.errors import BindError, ConfigError, ForkdError
from forkd.log import Log
from forkd.metrics.admin import AdminServer
from forkd.models import registry
from forkd.sources import Sources
from forkd.supervise import plan, scaling, status, verbs, worker
from forkd.supervise.children import Child, State
from forkd.supervise.control import ControlServer, Request
from forkd.supervise.doorbell import Doorbell
from forkd.supervise.generation import Generation
from forkd.supervise.launch import Launch
from forkd.supervise.messages import Failed, Message, Quit, Ready, Recycle, Reopen, Retire
from forkd.supervise.nursery import Departure, Nursery, mark_gone
from forkd.supervise.upgrade import Upgrade
from forkd.system import process, signals
from forkd.system.lease import NOBODY
from forkd.system.loop import Loop
from forkd.system.scoreboard import CONNECTIONS, REQUEST, WORKING, Scoreboard

_SIGNALS: dict[signal.Signals, str] = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "quit",
    signal.SIGQUIT: "quit",
    signal.SIGHUP: "reload",
    signal.SIGUSR1: "reopen",
    signal.SIGUSR2: "upgrade",
    signal.SIGWINCH: "retire",
    signal.SIGTTIN: "more",
    signal.SIGTTOU: "fewer",
    signal.SIGIO: "ring",
    signal.SIGCHLD: "chld",
}
#: How long connections between requests are kept for a request that is on its way, seconds.
_IDLE_GRACE = 2.0
_STOP_GRACE = 0.05
#: What a child gets to write its stacks before it is killed, seconds.
_LAST_WORDS = 0.4
_TICK = 1.0
_RSS_TICK = 5.0


def slots_for(config: Config) -> int:
    """Rows of the scoreboard: twice the children, as a reload has both generations, and room to
    scale."""
    return max(64, 2 * config.workers.max + 16)


class Master:
    def __init__(self, sources: Sources, config: Config, launch: Launch) -> None:
        self.pid = os.getpid()
        self.version = __version__
        self.error_log = launch.error_log
        self.loop = Loop()
        self.log = Log(config.log_level, config.log_format, "master")
        self.reloads: Counter[str] = Counter(success=0, failure=0)
        self.last_error = ""
        self._sources = sources
        self._launch = launch
        self._nursery = Nursery(
            slots_for(config), self.loop, self.log, on_message=self._on_message, on_exit=self._on_exit
        )
        self.children = self._nursery.children
        self.board: Scoreboard = self._nursery.board
        self.exits = self._nursery.exits
        self.doorbell = Doorbell(self.loop.timers, self.board, self._nobody_free)
        self.backoff = plan.Backoff()
        self.admin_address: str | None = None
        self._started = monotonic()
        self._served = False  # whether the service ever answered
        self._stopping = False
        self._exit_code: int | None = None
        self._incoming: Generation | None = None
        self._leaving: list[Generation] = []  # retired generations with children left
        self._reload_waiters: list[Request] = []
        self._reload_again: list[Request] | None = None  # asked for while one was under way
        self._paused = False  # SIGWINCH: no children until asked for
        self._demand = scaling.Demand()
        self._rss_due = 0.0
        self._upgrade: Upgrade | None = None
        self._handed_over = False  # a new master serves on our listeners
        self._absorbed: list[list[int]] | None = None  # counters of the master before us
        heir = launch.inheritance
        self.generation = Generation.build(
            heir.generation + 1 if heir else 1, config, launch.binds, self.children.slots,
            known=heir.listeners if heir else [],
        )  # fmt: skip

    # ---- life -----------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        config = self.generation.config
        try:
            self._nursery.identity = process.identity(config.user, config.group)
            self._open(config)
            self._doorbell_on()
            self._tick()
            self._pursue()
            while self._exit_code is None:
                self.loop.turn()
                self._pursue()
        finally:
            self._close()
        return self._exit_code

    def _open(self, config: Config) -> None:
        self._signals = signals.SignalQueue(list(_SIGNALS))
        self.loop.watch(self._signals.fileno(), self._on_signals)
        heir = self._launch.inheritance
        pages = verbs.Admin(self)
        self._admin: AdminServer | None = None
        if heir is None:
            self._control = ControlServer.listen(config.control, self.loop, self._on_request)
            if config.admin is not None:
                self._admin = AdminServer.listen(config.admin, self.loop, pages)
            self._answer_verbs()
        else:
            self._control = ControlServer.adopt(
                heir.control, config.control, self.loop, self._on_request
            )
            if config.admin is not None and heir.admin is not None:
                self._admin = AdminServer.adopt(heir.admin, config.admin, self.loop, pages)
            self.loop.watch(heir.link.fileno(), self._on_link)
        self.admin_address = self._admin.name if self._admin is not None else None
        self._nursery.forget = [
            self.loop.close,
            self._signals.close,
            self._control.forget,
            self._launch.forget,
            *([self._admin.forget] if self._admin else []),
        ]

    def _answer_verbs(self) -> None:
        self._control.open()
        if self._admin is not None:
            self._admin.open()

    def _on_link(self) -> None:
        """Counters from the master before us; at its end, the link closes. Verbs and scrapes are
        answered from the first message on, so that no counter is ever seen to go back."""
        heir = self._launch.inheritance
        assert heir is not None
        messages, gone = heir.link.receive()
        for message in messages:
            self.board.absorb(message["counters"], self._absorbed)
            if self._absorbed is None:
                self.exits.update(message["exits"])
                self.reloads.update(message["reloads"])
                self.doorbell.absorb(message["doorbell"])
                self._answer_verbs()
            self._absorbed = message["counters"]
        if gone:
            self.loop.unwatch(heir.link.fileno())
            heir.link.close()

    def _close(self) -> None:
        for child in self.children:
            process.send_signal(child.pidfd, signal.SIGKILL)
        if self._handed_over:
            self._successor.send(self._counters())
        else:
            self.doorbell.mute()
        for generation in [self.generation, self._incoming, *self._leaving]:
            if generation is not None:
                generation.close(keep=[])
        if hasattr(self, "_control"):
            self._control.close()
            if self._admin is not None:
                self._admin.close()

    def _pursue(self) -> None:
        """Do what the plan says until it says nothing more."""
        for _ in range(100):
            self.loop.timers.cancel("plan")
            changed = False
            for action in plan.plan(self._scene()):
                changed = self._perform(action) or changed
            if not changed or self._exit_code is not None:
                return

    def _scene(self) -> plan.Scene:
        incoming = self._incoming
        return plan.Scene(
            now=monotonic(),
            want=self.generation.want,
            active=self.generation.number,
            incoming=incoming.number if incoming else None,
            incoming_want=incoming.want if incoming else 0,
            stopping=self._stopping,
            backoff=self.backoff,
            children=tuple(self.children),
        )

    def _perform(self, action: plan.Action) -> bool:
        """Returns whether anything changed."""
        match action:
            case plan.Spawn(number, count):
                return self._spawn(number, count)
            case plan.Retire(child, why):
                return self._retire(child, why)
            case plan.Kill(child, why):
                self.log.warning(f"worker {child.slot} (pid {child.pid}): {why}: not done in time; killed")
                self._kill(child, why)
                return True
            case plan.Activate():
                self._activate()
                return True
            case plan.Exit():
                self._exit_code = self._exit_code or 0
                return False
            case plan.WakeAt(when):
                self.loop.timers.set("plan", when, lambda: None)
                return False

    # ---- children -------------------------------------------------------------------------

    def _spawn(self, number: int, count: int) -> bool:
        generation = self.generation if number == self.generation.number else self._incoming
        assert generation is not None
        for _ in range(count):
            if self._nursery.fork(generation, self.admin_address) is None:
                self.backoff = plan.Backoff(
                    self.backoff.crashes, monotonic() + 1.0, "fork failed: no room for a child"
                )
                return False
        return True

    def _retire(self, child: Child, why: str) -> bool:
        if not child.on("retire"):
            return False
        child.why = why
        self._lead_by_others()
        config = self.generation.config
        child.deadline = monotonic() + config.graceful_timeout
        ending = self._stopping and not self._handed_over
        grace = _STOP_GRACE if ending else min(_IDLE_GRACE, config.graceful_timeout / 2)
        if child.state is State.KILLED or not child.channel.send(Retire(grace, ending)):
            process.send_signal(child.pidfd, signal.SIGKILL)
        return True

    def _kill(self, child: Child, why: str) -> None:
        child.on("kill")
        child.why = child.why or why
        process.send_signal(child.pidfd, signal.SIGKILL)
        self._lead_by_others()

    def _on_message(self, child: Child) -> None:
        messages: list[Message] | None = child.channel.receive()
        if messages is None:
            self.loop.unwatch(child.channel.fileno())  # its pidfd will tell the rest
            return
        for message in messages:
            if isinstance(message, Ready):
                self._on_ready(child)
            elif isinstance(message, Failed):
                child.error = message.error
            elif isinstance(message, Recycle):
                child.replace = message.why

    def _on_ready(self, child: Child) -> None:
        if not child.on("ready"):
            return
        child.ready = monotonic()
        self.log.debug(f"worker {child.slot} (pid {child.pid}) ready")
        self._lead_by_others()
        self._announce()

    def _announce(self) -> None:
        """Tell who started us, once, that the service answers."""
        if not self._served and self._ready_count() >= self.generation.want:
            self._served = True
            if self._launch.inheritance is not None:
                for listener in self.generation.listeners:
                    listener.own()
            self._launch.ready(self)

    def _on_exit(self, child: Child) -> None:
        departure = self._nursery.collect(child)
        if departure is None:
            return
        self._report(departure)
        for generation in (self.generation, self._incoming):
            if generation is not None and generation.number == child.generation:
                mark_gone(generation, child.slot)
        self._lead_by_others()
        lease = self.generation.lease
        if lease is not None and lease.holder() != NOBODY:
            lease.ring(lease.holder())  # it may have died between naming a leader and its bell
        if departure.crashed:
            self._on_crash(departure)
        for generation in [g for g in self._leaving if not self._has_children(g)]:
            self._leaving.remove(generation)
            generation.close(keep=self._kept_listeners())
        self._reap_strangers()

    def _on_crash(self, departure: Departure) -> None:
        child = departure.child
        error = child.error or f"worker {child.slot} ended by {departure.reason}"
        self.last_error = error
        if self._incoming is not None and child.generation == self._incoming.number:
            self._reload_failed(error)
        elif not self._served:
            self._give_up(error)
        elif child.generation == self.generation.number:
            was_open = self.backoff.open
            self.backoff = self.backoff.crashed(monotonic(), error)
            if self.backoff.open and not was_open:
                self.log.error(
                    f"crash loop: {self.backoff.crashes} children in a row crashed; from now on one "
                    f"is tried at a time, with growing delays. The last error:\n{error}"
                )

    def _report(self, departure: Departure) -> None:
        child, code = departure.child, departure.code
        age = monotonic() - child.forked
        text = f"worker {child.slot} (pid {child.pid}) gone: {departure.reason}, age {age:.1f} s"
        if not departure.crashed and departure.reason != "SIGKILL":
            self.log.info(text)
            return
        text += f", exit code {code}" if code >= 0 else ""
        if child.error and self._served and child.generation == self.generation.number:
            text += f"\n{child.error}"  # otherwise it ends the start or the reload, which says it
        if departure.stacks and child.why is None:
            text += f"\n{departure.stacks}"
        self.log.error(text)

    def _reap_strangers(self) -> None:
        """As PID 1, or as somebody's subreaper, orphans are ours to collect."""
        ours = {child.pid for child in self.children}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return  # a child of ours is next: its pidfd collects it, and calls us again
            process.reap(found.si_pid)

    def _ready_count(self) -> int:
        return sum(
            1
            for c in self.children
            if c.state is State.READY and c.generation == self.generation.number
        )

    def _has_children(self, generation: Generation) -> bool:
        return any(c.generation == generation.number for c in self.children)

    # ---- leadership -----------------------------------------------------------------------

    def _lead_by_others(self) -> None:
        """Say who may lead; when the leader may not (any more), grant the lease anew."""
        lease = self.generation.lease
        if lease is None:
            return
        members = [
            c.slot
            for c in self.children
            if c.state is State.READY and c.generation == self.generation.number
        ]
        lease.set_members(members)
        if lease.holder() not in members:
            lease.grant(min(members, key=lambda s: (lease.load[s], s)) if members else NOBODY)

    def _doorbell_on(self) -> None:
        """SIGIO is needed where the master has something to do about waiters."""
        generation = self.generation
        if generation.lease is not None or generation.least < generation.most:
            self.doorbell.watch(generation.all_sockets(), generation.lease)
        else:
            self.doorbell.mute()

    def _nobody_free(self) -> None:
        """The doorbell: somebody waits, and every child is busy."""
        generation = self.generation
        starting = sum(1 for c in self.children if c.state is State.STARTING)
        if self._paused or self._stopping or self._incoming or generation.want >= generation.most:
            return
        want = scaling.grow(generation.want, generation.most, starting)
        if want != generation.want:
            self.log.info(f"scaling up to {want}: connections wait and nobody is free")
            generation.want = want
            self._demand = scaling.Demand()

    # ---- signals and verbs ----------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.read():
            self.command(_SIGNALS[signal.Signals(number)])

    def _on_request(self, request: Request) -> None:
        try:
            verbs.handle(self, request)
        except ForkdError as error:
            request.refuse(str(error))

    def command(self, name: str) -> None:
        """What a signal stands for."""
        commands: dict[str, Callable[[], None]] = {
            "stop": self.stop,
            "quit": self.quit,
            "reload": self.reload,
            "reopen": self.reopen,
            "upgrade": self.upgrade,
            "retire": self.pause,
            "more": lambda: self._step(1),
            "fewer": lambda: self._step(-1),
            "ring": self.doorbell.ring,
            "chld": self._reap_strangers,
        }
        try:
            commands[name]()
        except ForkdError as error:
            self.log.error(f"{name}: {error}")

    def stop(self) -> None:
        """Finish what is under way, then end."""
        if self._stopping:
            return
        self.log.info("stopping")
        self._stopping = True
        if not self._handed_over:
            self.doorbell.mute()
        self._abort_reload("the master is stopping")
        for listener in self.generation.listeners:
            listener.hang_up()

    def quit(self) -> None:
        """End now: what is under way is lost."""
        self.stop()
        for child in self.children:
            child.on("kill")
            child.why = child.why or "stop"
            if not child.channel.send(Quit()):
                process.send_signal(child.pidfd, signal.SIGKILL)
        self.loop.timers.set("quit", monotonic() + 1.0, self._kill_all)

    def _kill_all(self) -> None:
        for child in self.children:
            process.send_signal(child.pidfd, signal.SIGKILL)

    def reopen(self) -> None:
        """Logs were rotated: open them anew, here and in the children."""
        self._launch.reopen_logs(self.generation.config, self._nursery.identity)
        for child in self.children:
            child.channel.send(Reopen())
        self.log.info("log files reopened")

    def scale(self, want: int, pause: bool = False) -> int:
        """Change the number of children. Returns the number. Raises ForkdError."""
        generation = self.generation
        most = self._nursery.children.slots // 2
        if generation.config.accept == "reuseport" and not pause:
            raise ForkdError("with --accept reuseport the number of workers is fixed")
        if not pause and generation.least < generation.most:
            if not generation.least <= want <= generation.most:
                raise ForkdError(
                    f"workers = {generation.config.workers}: {want} is outside that range"
                )
        elif not 0 <= want <= most:
            raise ForkdError(f"the number of workers goes from 0 to {most} here; restart to go beyond")
        elif not pause:
            generation.least = generation.most = want
        generation.want = want
        self._paused = pause
        self.log.info(f"scaling to {want}")
        return want

    def pause(self) -> None:
        """No children until they are asked for again; the master stays."""
        self.scale(0, pause=True)

    def _step(self, by: int) -> None:
        self.scale(max(0, self.generation.want + by))

    # ---- reload ---------------------------------------------------------------------------

    def reload(self, request: Request | None = None) -> None:
        """Bring up a new generation beside the old; `request` is answered when that has ended."""
        waiters = [request] if request else []
        if self._stopping:
            for waiter in waiters:
                waiter.refuse("the master is stopping")
            return
        if self._incoming is not None:
            self._reload_again = (self._reload_again or []) + waiters
            return
        self._reload_waiters = waiters
        try:
            config = self._sources.load()
            registry.require(config.model, config.io)
            binds = self._launch.binds_of(config)
            self._incoming = Generation.build(
                self.generation.number + 1, config, binds, self.children.slots,
                known=self.generation.listeners,
            )  # fmt: skip
        except (ConfigError, BindError) as error:
            self._reload_failed(str(error))
            return
        fixed = unreloadable(self.generation.config, config)
        if fixed:
            self.log.warning(f"reload: changed, but need a restart: {', '.join(fixed)}")
        self.log.info(f"reloading: generation {self._incoming.number}")

    def _activate(self) -> None:
        """The incoming generation is ready: it leads from now on, and the old one retires."""
        old, new = self.generation, self._incoming
        assert new is not None
        self.generation, self._incoming = new, None
        self._paused = False
        self.backoff = plan.Backoff()
        self._demand = scaling.Demand()
        self.log = Log(new.config.log_level, new.config.log_format, "master")
        self._lead_by_others()
        self._doorbell_on()
        if old.lease is not None:
            old.lease.set_members([])
        for listener in old.listeners:
            if listener not in new.listeners:
                listener.close()
        if self._has_children(old):
            self._leaving.append(old)
        else:
            old.close(keep=new.listeners)
        self._tick()
        self._announce()
        self.log.info(f"generation {new.number} serves")
        self._reload_ended("success", None)

    def _reload_failed(self, error: str) -> None:
        self.last_error = error
        self.log.error(f"reload failed; generation {self.generation.number} goes on:\n{error}")
        self._abort_reload(error)

    def _abort_reload(self, error: str) -> None:
        new, self._incoming = self._incoming, None
        if new is not None:
            for child in self.children:
                if child.generation == new.number:
                    self._kill(child, "reload-failed")
            new.close(keep=self.generation.listeners)
        self._reload_ended("failure", error)

    def _reload_ended(self, result: str, error: str | None) -> None:
        if error is None or not self._stopping:
            self.reloads[result] += 1
        for waiter in self._reload_waiters:
            if error is None:
                waiter.answer(generation=self.generation.number)
            else:
                waiter.refuse(error)
        self._reload_waiters = []
        if self._reload_again is not None:
            again, self._reload_again = self._reload_again, None
            self.reload()
            self._reload_waiters += again

    def _kept_listeners(self) -> list[Any]:
        kept = list(self.generation.listeners)
        if self._incoming is not None:
            kept += self._incoming.listeners
        return kept

    def upgrade(self, request: Request | None = None) -> None:
        """Have a new master take over (see upgrade.py). Raises ForkdError when one cannot start."""
        if self._stopping or self._incoming is not None or self._upgrade is not None:
            raise ForkdError("not now: a stop, a reload or an upgrade is under way")
        self._upgrade = Upgrade(self, request, self._upgraded)

    def _upgraded(self, ok: bool) -> None:
        upgrade, self._upgrade = self._upgrade, None
        assert upgrade is not None
        if not ok:
            self._doorbell_on()  # the new master may have owned it for a while
            return
        self._handed_over = True
        self._successor = upgrade.link
        self._successor.send({**self._counters(), "exits": self.exits, "reloads": self.reloads,
                              "doorbell": self.doorbell.counters()})  # fmt: skip
        self.doorbell.give_up()
        self._control.hand_over()
        if self._admin is not None:
            self._admin.hand_over()
        for listener in self.generation.listeners:
            listener.unix_inode = None  # the socket file is the new master's
        self.stop()

    def _counters(self) -> dict[str, Any]:
        return {"counters": self.board.export()}

    def _give_up(self, error: str) -> None:
        """The first boot failed: end, with the error."""
        self._launch.failed(error)
        self._served = True  # said once
        self._exit_code = 1
        for child in self.children:
            self._kill(child, "stop")

    # ---- the tick -------------------------------------------------------------------------

    def _tick(self) -> None:
        """Once a second, or more often for a short --timeout: limits that no event announces."""
        config = self.generation.config
        now = monotonic()
        if config.timeout:
            self._find_stuck(config.timeout)
        if config.max_rss and now >= self._rss_due:
            self._rss_due = now + _RSS_TICK
            self._find_fat(config.max_rss)
        self._settle(now)
        self._calm_down(now)
        period = min(_TICK, max(0.1, config.timeout / 4)) if config.timeout else _TICK
        self.loop.timers.set("tick", now + period, self._tick)

    def _find_stuck(self, timeout: float) -> None:
        now = monotonic_ns()
        for child in self.children:
            held = self.board.rows[child.slot].since(REQUEST, now)
            if held is not None and held > timeout and not child.accused and child.state is not State.KILLED:
                child.accused = True
                process.send_signal(child.pidfd, worker.STACKS)
                judge = partial(self._judge, child, timeout)
                self.loop.timers.set(f"kill {child.pid}", monotonic() + _LAST_WORDS, judge)

    def _judge(self, child: Child, timeout: float) -> None:
        """The accused had its last words; unless it came back meanwhile, it is killed."""
        if self.children.get(child.slot) is not child:
            return
        row = self.board.rows[child.slot]
        held = row.since(REQUEST, monotonic_ns())
        if held is None or held <= timeout:
            child.accused = False
            return
        self.log.error(
            f"worker {child.slot} (pid {child.pid}) killed: \"{row.line().decode('latin-1')}\" has "
            f"held it for {held:.1f} s (--timeout {timeout:g})\n"
            + (child.read_stacks() or "it gave no stacks: it is stopped, or in the kernel")
        )
        child.why = "timeout"
        self._kill(child, "timeout")

    def _find_fat(self, limit: int) -> None:
        for child in self.children:
            if child.state is State.READY and not child.replace:
                size = process.resident_bytes(child.pid)
                if size > limit:
                    self.log.warning(
                        f"worker {child.slot} (pid {child.pid}) has {size >> 20} MiB (--max-rss "
                        f"{limit >> 20} MiB); it is replaced"
                    )
                    child.replace = "max-rss"

    def _settle(self, now: float) -> None:
        """Children that have served for a while end a series of crashes."""
        if self.backoff.crashes and self._ready_count() >= self.generation.want:
            youngest = max((c.ready or now for c in self.children), default=now)
            if now - youngest >= plan.SETTLED:
                self.log.info("children are stable again")
                self.backoff = self.backoff.settled()

    def _calm_down(self, now: float) -> None:
        generation = self.generation
        if self._paused or self._incoming or generation.least == generation.most:
            return
        rows = self.board.rows
        busy = sum(
            1
            for c in self.children
            if rows[c.slot].gauge(CONNECTIONS) or rows[c.slot].gauge(WORKING, 1 << 63)
        )
        want, self._demand = scaling.shrink(
            generation.want, generation.least, busy, self._demand, now,
            generation.config.scale_down_after,
        )  # fmt: skip
        if want != generation.want:
            self.log.info(f"scaling down to {want}: idle")
            generation.want = want

    # ---- for status and metrics -----------------------------------------------------------

    @property
    def io(self) -> str:
        config = self.generation.config
        row = registry.find(config.model)
        assert row is not None
        return registry.io_of(row, config.io)

    def now(self) -> float:
        return monotonic()

    def uptime(self) -> float:
        return monotonic() - self._started

    def state(self) -> str:
        if self._stopping:
            return "stopping"
        if self.backoff.open:
            return "crash-loop"
        return "reloading" if self._incoming else "running" if self._served else "starting"

    def why_not_ready(self) -> str:
        """Empty when the service is ready; otherwise the sentence for `/readyz`, status and log."""
        if self._stopping:
            return "draining: the master is stopping"
        ready, want = self._ready_count(), self.generation.want
        if self.backoff.open and ready < want:
            wait = max(0.0, self.backoff.not_before - monotonic())
            return (
                f"crash loop: {self.backoff.crashes} children in a row crashed, next try in "
                f"{wait:.0f} s; the last error: {self.backoff.error}"
            )
        if self._paused:
            return "paused by SIGWINCH; SIGHUP or `forkd scale` brings the children back"
        if ready < want:
            return f"{ready} of {want} workers are ready"
        return ""

    # ---- for an upgrade -------------------------------------------------------------------

    def sources(self) -> Sources:
        return self._sources

    def control_fd(self) -> int:
        return self._control.sock.fileno()

    def admin_fd(self) -> int | None:
        return None if self._admin is None else self._admin.fileno()

    def pidfile_fd(self) -> int:
        assert self._launch.pidfile is not None
        return self._launch.pidfile.fd

    def activated(self) -> tuple[Address, ...]:
        return self._launch.activated
