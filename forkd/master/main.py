"""The master: owns listeners, children and generations; supervises; answers the operator.

It never runs application code, never parses a client's bytes and never blocks. Its loop waits for
signals, the exit (pidfd) and the messages of each child, the control socket, the admin listener and
timers. After each turn in which something may have changed it derives who may lead, asks `plan` what to do
next, and does it. What it knows is in `Service`, of which only this file assigns a field; its life is the
table in `phase`.
"""

from __future__ import annotations

from functools import partial
from time import monotonic

from forkd.config import Config
from forkd.config.sources import Sources
from forkd.errors import BindError, ConfigError, ForkdError, StartError
from forkd.ipc.control import Command
from forkd.ipc.messages import Blocked, Deaf, Failed, Ready, Recycle
from forkd.log.lines import Log
from forkd.master import deaths, exposure, plan, scaling, tick
from forkd.master.actions import Actions
from forkd.master.children import Child
from forkd.master.events import Events
from forkd.master.generation import Generation
from forkd.master.lateness import killed_at_boot
from forkd.master.launch import Launch
from forkd.master.operator import Operator
from forkd.master.parts import Parts
from forkd.master.phase import Action, Event, Phase, after
from forkd.master.reload import SUPERSEDED, SlotsTaken
from forkd.master.service import Service
from forkd.master.upgrade import Succession, Upgrade
from forkd.models import registry
from forkd.system import accounts, memory
from forkd.system.loop import Loop
from forkd.system.sockets import Listener


class Master:
    def __init__(self, sources: Sources, config: Config, launch: Launch) -> None:
        loop, log = Loop(), Log(config.log_level, config.log_format, "master")
        self.parts = parts = Parts(loop, log, config, launch, self, lambda: self.actions)
        self._hear_until = 0.0  # that long at most for the manager to hear of a new master
        self._dropped: list[str] = []  # names of listeners that a new master has no more
        heir = launch.inheritance
        generation = Generation.build(
            heir.generation + 1 if heir else 1, config, launch.binds, parts.spawner.bells,
            known=heir.listeners if heir else launch.stored,
        )  # fmt: skip
        self.service = Service(
            sources=sources, launch=launch, loop=loop, log=log, events=Events(log),
            board=parts.board, children=parts.children, generation=generation,
            phase=Phase.STARTING if heir is None else Phase.INHERITING, owns=heir is None,
            max_workers=config.most_workers,
        )  # fmt: skip
        self.actions = Actions(self.service, parts)
        generation.enter()
        parts.logs.open(generation.number, config)
        generation.warn(log)
        for listener in (heir.listeners if heir else launch.stored):
            if listener not in generation.listeners:
                launch.dropped.append(listener.name)  # the master before serves who waits there
                listener.close()

    # ---- life -----------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        service, parts, actions = self.service, self.parts, self.actions
        config, launch = service.generation.config, service.launch
        try:
            identity = parts.spawner.identity = accounts.find(config.user, config.group)
            parts.leadership.other_ids = accounts.is_other(identity)
            for text in launch.warnings:
                service.log.warning(text)
            exposure.warn(service.log, service.sources.path, config, identity)
            parts.logs.become(identity)
            parts.open(service, Operator(service, parts, self, actions.reap))
            try:
                self._connect()
                actions.expose(service.generation)
                if service.owns:
                    actions.listen()
                self._tick()
                memory.share_heap()
                parts.logs.start()
                if service.phase is not Phase.ENDED:  # there is a logger, where one is needed
                    first = "on_starting" if launch.inheritance is None else "on_reload"
                    parts.hooks.run(first, service.generation, lambda: None)
                    actions.await_start(self._on_abandoned)
                self._pursue()
                while service.phase is not Phase.ENDED:
                    if service.loop.turn():
                        self._pursue()
                launch.stopped()
            finally:
                parts.endpoints.close()
        except Exception:
            if not service.phase.booting:  # else whoever waits for the start is told
                service.log.exception("the master crashed; this is a bug in forkd")
            raise
        finally:
            parts.close(service.owns, actions.lent(), service.generations())
            parts.logs.end(service.generation.config.graceful_timeout)
            if service.handed_over:
                actions.send_counters()
        return service.exit_code

    def _connect(self) -> None:
        """Answer the operator, or first take over from the master before this one."""
        heir, parts = self.service.launch.inheritance, self.parts
        if heir is None:
            parts.endpoints.open()
            return
        heard, dead = self._on_succession, parts.endpoints.open
        Succession(parts.loop, heir.link, parts.counters, heard=heard, dead=dead)
        if heir.first is not None:
            parts.loop.watch(heir.first, partial(self._on_foreground_gone, heir.first))

    def _live(self, event: Event, error: str = "", command: Command | None = None) -> None:
        """Go on in the table of `phase`. Raises ForkdError where that refuses, or an upgrade cannot start."""
        service, actions, before = self.service, self.actions, self.service.phase
        service.phase, action = after(before, event)
        if service.phase.ending and not before.ending and action is not Action.GIVE_UP:
            self._begin_nothing()
        match action:
            case Action.ANNOUNCE:
                service.owns = True
                actions.announce()
            case Action.GIVE_UP:
                self._give_up(error)
            case Action.HOLD_OUT:
                actions.hold_out(partial(self._live, Event.TIME_OVER))
            case Action.WIND_UP:
                actions.wind_up()
            case Action.WIND_UP_AND_QUIT:
                actions.wind_up()
                actions.quit()
            case Action.QUIT:
                actions.quit()
            case Action.RELOAD:
                self._reload(command)
            case Action.UPGRADE:
                service.upgrade = actions.execute(
                    command, self._on_heir_serves, self._on_heir_failed
                )
            case Action.HAND_OVER:
                service.owns = False
                self._hear_until = monotonic() + service.generation.config.graceful_timeout
                actions.hand_over(self._dropped)
            case Action.GO_ON:
                actions.listen()  # the new master may have owned the doorbell for a while
            case Action.RUN_ON_EXIT:
                done = partial(self._live, Event.HOOK_DONE)
                self.parts.hooks.run("on_exit", service.generation, done)

    # ---- what is next ---------------------------------------------------------------------

    def _pursue(self) -> None:
        """Do what the plan says until it says nothing more."""
        service = self.service
        for _ in range(100):
            self.actions.derive_leader()
            service.loop.timers.cancel("plan")
            changed = False
            # Once it ends, nobody is forked: the plan does not know that the start was given up.
            if service.phase is not Phase.ENDED:
                for action in plan.plan(self.actions.scene()):
                    changed = self._perform(action) or changed
            if not changed:
                break
        self.actions.keep_templates()

    def _perform(self, action: plan.Action) -> bool:
        """Returns whether anything changed."""
        match action:
            case plan.Spawn(number, count):
                return self._spawn(number, count)
            case plan.RetireChild(child, why):
                return self.actions.retire(child, why)
            case plan.KillChild(child, why):
                return self.actions.kill(child, why)
            case plan.Activate():
                self._activate()
                return True
            case plan.Exit():
                # A manager that does not know of the new master takes our end for the service's.
                heard = not self.parts.notifier.waits or monotonic() > self._hear_until
                if heard if self.service.handed_over else not self.parts.hooks.busy:
                    self._live(Event.CHILDLESS)
                return False
            case plan.WakeAt(when):
                self.service.loop.timers.set("plan", when, lambda: None)
                return False

    def _spawn(self, number: int, count: int) -> bool:
        service, spawner = self.service, self.parts.spawner
        generation = service.generation if number == service.generation.number else service.incoming
        assert generation is not None
        self.actions.expose(generation)
        for _ in range(count):
            try:
                if spawner.fork(generation, self.parts.endpoints.admin_address) is None:
                    return False
            except StartError as error:
                verdict = deaths.unborn(number, error, self.actions.facts())
                self._conclude(verdict, str(error))
                if isinstance(verdict, deaths.Delay):
                    service.events.note("spawn", "error", f"{error}; trying again")
                    return False
                return True
        return True

    # ---- what children say, and their ends --------------------------------------------------

    def on_message(self, child: Child) -> None:
        messages = child.channel.receive()
        if messages is None:
            self.service.loop.unwatch(child.channel.fileno())  # its pidfd will tell the rest
            return
        for message in messages:
            if isinstance(message, Ready):
                self._on_ready(child, message)
            elif isinstance(message, Failed):
                child.error = message.error
            elif isinstance(message, Recycle):
                child.replace = message.why
                if message.why == deaths.LIFESPAN:
                    self._lost(child)
            elif isinstance(message, Blocked):
                self.parts.lag.hear(child, message)
            elif isinstance(message, Deaf):
                self.parts.listening.hear(child, message.number, self.service.listeners())

    def _lost(self, child: Child) -> None:
        """The lifespan of its application has ended, and it goes on without until it is replaced."""
        error = f"{child}: the application's lifespan has ended; the error log says how"
        self._conclude(deaths.crashed(child, error, self.actions.facts()), error)

    def _on_ready(self, child: Child, message: Ready) -> None:
        service = self.service
        generation = service.generation_of(child)
        if generation is not None:
            generation.interface, generation.loop = message.interface, message.loop
            generation.tasks = message.tasks
            child.expires = tick.expiry(generation.config, monotonic())
        if message.fallback and message.fallback != service.fallback:
            service.log.warning(message.fallback)
        service.fallback = message.fallback
        if child.on("ready"):
            child.ready, child.deadline = monotonic(), float("inf")
            service.log.debug(f"{child} ready")
            self._prove()

    def _prove(self) -> None:
        """The service answers once the first generation is proven."""
        service = self.service
        if not service.phase.booting or service.ready_count() < service.generation.proof:
            return
        try:
            service.launch.name_us()
        except ForkdError as error:
            self._live(Event.BOOT_FAILED, str(error))
        else:
            self._live(Event.PROVEN)

    def on_exit(self, child: Child) -> None:
        self.on_message(child)  # its last words may be in the channel still
        departure = self.parts.spawner.collect(child)
        if departure is None:
            return
        service = self.service
        # What ends the start or the reload is said there, and once.
        told = child.generation == service.generation.number and not service.phase.booting
        deaths.note(service.events, departure, told)
        self.parts.dispatcher.gone(child)
        child.close()
        self.actions.mark_gone(child)
        self.actions.ring_again()
        if departure.crashed:
            error = deaths.error_of(departure)
            self._conclude(deaths.crashed(child, error, self.actions.facts()), error)
        elif departure.killed:
            self.on_killed(child.generation, killed_at_boot(str(child), -departure.code))
        waiters = self.parts.reloads.take_queued()
        if waiters is not None:
            self._bring_up(waiters)
        gone = [g for g in service.leaving if not service.children_of(g)]
        service.leaving = tuple(g for g in service.leaving if g not in gone)
        for generation in gone:
            self.actions.close(generation)
        self.actions.reap()

    def on_failure(self, generation: int, error: str) -> None:
        """A child of it, or a template, has failed at its start."""
        self._conclude(deaths.failed(generation, error, self.actions.facts()), error)

    def on_killed(self, generation: int, error: str) -> None:
        """One was killed from outside while it booted."""
        self._conclude(deaths.killed(generation, error, self.actions.facts()), error)

    def on_log_failed(self, generation: int, why: str) -> None:
        """A log file that is needed cannot be opened (0: the error log), or the logger cannot be forked."""
        self.on_failure(generation or self.service.generation.number, why)

    def _conclude(self, verdict: deaths.Verdict, error: str) -> None:
        service = self.service
        service.last_error = error
        match verdict:
            case deaths.FailReload(why):
                self._fail_reload(why)
            case deaths.GiveUp(why):
                self._live(Event.BOOT_FAILED, why)
            case deaths.Delay(backoff):
                if backoff.open and not service.backoff.open:
                    deaths.note_loop(service.events, backoff.crashes, error)
                service.backoff = backoff
            case deaths.DelayIncoming(backoff):
                service.incoming_backoff = backoff

    # ---- the end --------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop in order. Accept for a while before that, as a lame duck if so configured, or for connections
        that the kernel holds back."""
        service = self.service
        held_back = not service.phase.ending and self.actions.defer_no_more()
        lame = service.generation.config.lame_duck
        self._live(Event.LAME if lame else Event.LAST_CALL if held_back else Event.TERM)

    def _begin_nothing(self) -> None:
        service, parts, why = self.service, self.parts, "the master is stopping"
        parts.notifier.stopping()
        parts.reloads.join_queued()
        self._withdraw(why, "reload-failed")
        if service.upgrade is not None:
            service.upgrade.cancel(why)
        parts.hooks.give_up_boot(service.generation.config.graceful_timeout)

    def _give_up(self, error: str) -> None:
        """The first boot failed: end, with the error."""
        self.service.launch.failed(error)
        self.service.exit_code = 1
        for child in self.service.children:
            self.parts.termination.kill(child, "stop")

    def _on_abandoned(self) -> None:
        if self.service.phase.booting:
            self.service.log.info("the command that started this service does not wait for it any more")
            self.stop()

    def _on_foreground_gone(self, pidfd: int) -> None:
        """That process was killed: its parent takes the service for ended, and will start it anew."""
        self.service.loop.unwatch(pidfd)
        self.service.log.error("the process in the foreground has been killed; the service ends with it")
        self.quit()

    def generations(self) -> list[Generation]:
        return self.service.generations()

    # ---- listeners, and time ----------------------------------------------------------------

    def on_making(self, listener: Listener) -> None:
        if listener.wanted.kind == "unix" and self.service.upgrade is not None:
            # A new master that is about to take over has the old socket, or one without a file.
            self.service.upgrade.cancel("a listener was made anew meanwhile; try again")

    def on_broken(self, why: str) -> None:
        self.service.last_error = why

    def _tick(self) -> None:
        """What no event announces: once a second, or oftener for a short --timeout."""
        now, loop = monotonic(), self.service.loop
        self.service.backoff = self.actions.look_after(now)
        loop.timers.set("tick", now + tick.period(self.service.generation.config.timeout), self._tick)

    # ---- orders: see operator.py ------------------------------------------------------------

    def quit(self) -> None:
        """Stop at once."""
        self._live(Event.INT)

    def scale(self, want: int, pause: bool = False) -> int:
        """Change the number of children. Returns the number. Raises ForkdError.

        None, where no connection brings one back, is a pause, as SIGWINCH has it, whoever asked for it."""
        service, generation = self.service, self.service.generation
        least, most = generation.least, generation.most
        scaling.require(want, generation.config, least, most, service.max_workers, pause)
        if not pause and least == most:
            generation.least = generation.most = want
        generation.want = want
        service.paused = "SIGWINCH" if pause else "" if generation.most else "a scale to 0"
        service.events.note("scale", "info", f"scaling to {want}")
        return want

    # ---- a new generation -----------------------------------------------------------------

    def reload(self, command: Command | None = None) -> None:
        """Replace the children by new ones, with new code and configuration."""
        try:
            self._live(Event.RELOAD, command=command)
        except ForkdError as error:
            if command is not None:
                command.refuse(str(error))

    def _reload(self, command: Command | None) -> None:
        """A generation that is not ready yet is given up for it: its code may be what was mended."""
        service, reloads = self.service, self.parts.reloads
        if service.incoming is not None or reloads.queued is not None:
            service.events.note("reload", "warning", f"reload {SUPERSEDED}")
            reloads.supersede()
            self._withdraw(SUPERSEDED, "superseded")
            service.generation.defer()
            self.parts.hooks.give_up_boot(service.generation.config.graceful_timeout)
        self._bring_up([command] if command else [])

    def _bring_up(self, waiters: list[Command]) -> None:
        service, reloads = self.service, self.parts.reloads
        reloads.waiters = waiters
        try:
            new, wanted = self.actions.build(service.sources.load(registry.RULES))
        except SlotsTaken:
            reloads.queued, reloads.waiters = waiters, []
        except (ConfigError, BindError, StartError) as error:
            self._fail_reload(str(error))
        else:
            service.incoming, service.incoming_backoff = new, plan.Backoff()
            self.actions.begin(new, wanted)

    def _activate(self) -> None:
        """The incoming generation leads from now on, and the old one retires."""
        service, old, new = self.service, self.service.generation, self.service.incoming
        assert new is not None
        service.generation, service.incoming = new, None
        service.paused = "" if new.most else "a scale to 0"
        service.backoff = plan.Backoff()
        self.actions.lead(new)
        self.actions.drop(old)
        if service.children_of(old):
            service.leaving = (*service.leaving, old)
        else:
            self.actions.close(old)
        self._tick()
        self.parts.high_water.keep(new.listeners)
        self._prove()
        service.events.note("reload", "info", f"generation {new.number} serves")
        for line in (unused := new.unused()):
            service.log.warning(f"reload: {line}")
        self.actions.notify_ready()
        self.parts.reloads.answer(new.number, unused)

    def _fail_reload(self, error: str) -> None:
        """The old generation goes on."""
        service, generation = self.service, self.service.generation
        service.last_error = error
        text = f"reload failed; generation {generation.number} goes on:\n{error}"
        service.events.note("reload", "error", text)
        self.parts.reloads.results["failure"] += 1
        self._withdraw(error, "reload-failed")
        generation.defer()
        self.actions.notify_ready()

    def _withdraw(self, error: str, reason: str) -> None:
        """Give up the incoming generation, if there is one."""
        new, self.service.incoming = self.service.incoming, None
        if new is not None:
            self.actions.withdraw(new, reason)
        self.parts.reloads.refuse(error)

    # ---- a new master ---------------------------------------------------------------------

    def upgrade(self, command: Command | None = None) -> None:
        """Have a new master take over (see master/upgrade.py). Raises ForkdError when one cannot start."""
        self._live(Event.UPGRADE, command=command)

    def _on_heir_failed(self, error: str) -> None:
        """This master goes on."""
        service = self.service
        given_up, failed = f"upgrade given up: {error}", f"upgrade failed; this master goes on:\n{error}"
        level, text = ("info", given_up) if service.phase.ending else ("error", failed)
        service.events.note("upgrade", level, text)
        service.upgrade = None
        self._live(Event.HEIR_FAILED)

    def _on_heir_serves(self, upgrade: Upgrade, dropped: list[str]) -> None:
        """`dropped`: names of listeners that the new service has no more."""
        self._dropped = dropped
        self.service.events.note("upgrade", "info", f"upgrade: pid {upgrade.pid} serves; retiring")
        self.parts.notifier.main(upgrade.pid)
        self.actions.send_counters()
        self._live(Event.HEIR_SERVES)
        self._pursue()
        self.actions.answer_upgrade(upgrade)

    def _on_succession(self) -> None:
        """The counters of the master before are here; it has retired."""
        self.parts.endpoints.open()
        self.actions.notify_ready()  # as the main process now
