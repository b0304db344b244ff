"""The master: owns listeners, children and generations; supervises; answers the operator.

It never runs application code, never parses a client's bytes and never blocks. Its loop waits for
signals, the exit (pidfd) and the messages of each child, the control socket, the admin listener and
timers. After each turn it asks `plan` what to do next, and does it.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from functools import partial
from time import monotonic

from forkd.config import Config
from forkd.errors import ForkdError, StartError
from forkd.log import Log
from forkd.metrics.admin import HEALTH_PAGES, PAGES, AdminServer
from forkd.models import registry
from forkd.models.shortage import Shortage
from forkd.sources import Sources
from forkd.supervise import discovery, exposure, foreground, plan, verbs
from forkd.supervise.children import Child, State
from forkd.supervise.control import ControlServer, Request
from forkd.supervise.departures import Departures
from forkd.supervise.ending import Ending
from forkd.supervise.errands import Errands
from forkd.supervise.generation import Generation, permissions_of
from forkd.supervise.high_water import HighWater
from forkd.supervise.lateness import killed_at_boot
from forkd.supervise.launch import Launch
from forkd.supervise.leadership import Leadership
from forkd.supervise.listening import Listening
from forkd.supervise.logs import Logs
from forkd.supervise.messages import Deaf, Failed, Message, Ready, Recycle, Retire
from forkd.supervise.needs import slots_for
from forkd.supervise.notify import Notifier
from forkd.supervise.nursery import Nursery, mark_gone
from forkd.supervise.reload import Reloader
from forkd.supervise.signalling import send
from forkd.supervise.signals import SIGNALS
from forkd.supervise.upgrade import Succession, Upgrade
from forkd.supervise.watchdog import Watchdog, expiry
from forkd.system import process
from forkd.system.loop import Loop
from forkd.system.scoreboard import Scoreboard
from forkd.system.signals import SignalQueue
from forkd.system.sockets import Listener

#: How long connections between requests are kept for a request that is on its way, seconds.
_IDLE_GRACE = 2.0
_STOP_GRACE = 0.05


class Master:
    def __init__(self, sources: Sources, config: Config, launch: Launch) -> None:
        self.pid = os.getpid()
        self.loop = Loop()
        self.log = Log(config.log_level, config.log_format, "master")
        self.loop.failed = lambda: self.log.exception("a bug in forkd; the master goes on")
        self.loop.pause = partial(Shortage(self.log).pause, "admin or control socket: accept")
        self.last_error = ""
        self.sources = sources
        self.launch = launch
        self.most_workers = config.most_workers  # for which there is room, whatever a reload brings
        self.departures = Departures(self)
        self._nursery = Nursery(
            slots_for(config),
            registry.lanes(config),
            self.loop,
            self.log,
            generations=self._generations,
            on_message=self._on_message,
            on_exit=self._on_exit,
            on_failure=self.departures.failed,
            on_killed=self.departures.killed,
            sinks=lambda generation: self.logs.sinks(generation.number, generation.config),
        )
        self.errands = Errands(self, self._nursery)
        self.children = self._nursery.children
        self.bells = self._nursery.bells
        self.templates = self._nursery.templates
        self.board: Scoreboard = self._nursery.board
        self.exits = self._nursery.exits
        self.unanswered = self._nursery.unanswered
        self.listening = Listening(self)
        assert launch.standard is not None
        self.logs = Logs(
            self.loop, self.log, self._nursery.rings, self.board.lanes[0][0],  # no child has slot 0
            launch.standard, config, failed=self._log_failed,
            forgetting=lambda: self._nursery.forgetting(set()),
        )  # fmt: skip
        self.high_water = HighWater()
        self.leadership = Leadership(self)
        self.doorbell = self.leadership.doorbell
        self.dispatcher = self.leadership.dispatcher
        self.ending = Ending(self)
        self.backoff = plan.Backoff()
        self.admin: AdminServer | None = None
        self.health: AdminServer | None = None
        self.fallback = ""  # why they do not use the configured --io
        self.started = monotonic()
        self.served = False  # whether the service ever answered
        self._exit_code: int | None = None
        self._leaving: list[Generation] = []  # retired generations with children left
        self.reloader = Reloader(self)
        self.watchdog = Watchdog(self)
        self.paused = ""  # by what there are to be no children until somebody asks for them; "": there are
        self._upgrade: Upgrade | None = None
        self.notifier = Notifier(self)
        # The listeners' flags are shared with the master before us, who keeps them until we serve.
        self.owns = launch.inheritance is None
        self.handed_over = False  # a new master serves on our listeners
        self._hold_until = 0.0  # that long at most for the manager to hear of it
        heir = launch.inheritance
        self.generation = Generation.build(
            heir.generation + 1 if heir else 1, config, launch.binds, self.bells,
            known=heir.listeners if heir else launch.stored,
        )  # fmt: skip
        self.generation.enter()
        self.logs.open(self.generation.number, config)
        self.generation.warn(self.log)
        for listener in launch.stored:
            if listener not in self.generation.listeners:
                listener.close()

    # ---- life -----------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        config = self.generation.config
        try:
            identity = self._nursery.identity = process.identity(config.user, config.group)
            self.leadership.other_ids = process.is_other(identity)
            for text in self.launch.warnings:
                self.log.warning(text)
            exposure.warn(self.log, self.sources.path, config, identity)
            self.logs.become(identity)
            self._open(config)
            self.leadership.expose(self.generation)
            if self.owns:
                self.leadership.listen()
            self.watchdog.tick()
            process.share_heap()
            self.logs.start()
            first = "on_starting" if self.launch.inheritance is None else "on_reload"
            if self._exit_code is None:  # there is a logger, where one is needed
                self.errands.run(first, self.generation, lambda: None)
                self.launch.begin(self)
            self._pursue()
            while self._exit_code is None:
                self.loop.turn()
                self._pursue()
            if not self.served:
                self.launch.stopped()
        finally:
            self._close()
        return self._exit_code

    def _open(self, config: Config) -> None:
        self.signals = SignalQueue([row.number for row in SIGNALS])
        self.signals.only_from_processes(config.native)
        self.loop.watch(self.signals.fileno(), self._on_signals)
        heir = self.launch.inheritance
        self.notice = discovery.Notice(config.control, config.name)
        if heir is None:
            self.control = ControlServer.listen(config.control, self.loop, self._on_request)
        else:
            self.control = ControlServer.adopt(
                heir.control, config.control, self.loop, self._on_request
            )
        source = verbs.Admin(self)
        handed = (heir.admin, heir.health) if heir else (None, None)
        files = heir.own_files if heir else {}
        of_file = permissions_of(config)
        self.admin = AdminServer.at(
            config.admin, handed[0], self.loop, source, PAGES, of_file, files.get("admin")
        )
        self.health = AdminServer.at(
            config.health, handed[1], self.loop, source, HEALTH_PAGES, of_file, files.get("health")
        )
        if heir is None:
            self.answer_verbs()
        else:
            Succession(self, heir.link)
            if heir.first is not None:
                self.loop.watch(heir.first, partial(self._foreground_gone, heir.first))
        self._nursery.forget += [
            self.loop.close,
            self.signals.close,
            self.control.forget,
            self.launch.forget,
            self.dispatcher.forget,
            self.log.sink.close,
            self.logs.forget,
            self.errands.forget,
            self.notice.close,
            *[server.forget for server in self.page_servers()],
        ]

    def page_servers(self) -> list[AdminServer]:
        """The admin endpoint and the health listener, as far as there are any."""
        return [server for server in (self.admin, self.health) if server is not None]

    @property
    def admin_address(self) -> str | None:
        return self.admin.name if self.admin is not None else None

    def answer_verbs(self) -> None:
        self.control.open()
        for server in self.page_servers():
            server.open()
        self.listening.restore_own()

    def _close(self) -> None:
        for child in self.children:
            send(self.log, child, signal.SIGKILL)
            if child.killed is not None and child.killed + plan.DEATH <= monotonic():
                self.log.error(
                    f"worker {child.slot} (pid {child.pid}) {process.unkillable(child.pid)}"
                )
        self.errands.kill()
        if self.owns and not self.handed_over:
            self.doorbell.mute()
        self._nursery.templates.end()
        self.dispatcher.forget()
        for listener in self.dispatcher.ending:
            listener.close()
        ours = self.owns and not self.handed_over
        for generation in self._generations():
            if ours and not self._lent() and generation.master_accepts:
                for listener in generation.listeners:
                    listener.end()
            generation.close(keep=[])
        if hasattr(self, "control"):
            self.control.close()
        for server in self.page_servers():
            server.close()
        self.logs.end(self.generation.config.graceful_timeout)
        if self.handed_over:
            assert self._upgrade is not None
            self._upgrade.send_counters()

    def _pursue(self) -> None:
        """Do what the plan says until it says nothing more."""
        for _ in range(100):
            self.loop.timers.cancel("plan")
            changed = False
            # Once it ends, nobody is forked: the plan does not know that the start was given up.
            if self._exit_code is None:
                for action in plan.plan(self._scene()):
                    changed = self._perform(action) or changed
            if not changed:
                break
        self.keep_templates()

    def keep_templates(self) -> None:
        """End those that fork no children any more."""
        incoming = self.reloader.incoming
        mine = {self.generation.number, *([incoming.number] if incoming else [])}
        self._nursery.templates.keep(set() if self.ending.stopping else mine)

    def _scene(self) -> plan.Scene:
        # New children wait for a hook that runs before them, and for the files of their logs.
        hold = self.errands.busy or self.logs.opening
        incoming = None if hold else self.reloader.incoming
        first = 0 if hold else self.generation.proof
        return plan.Scene(
            now=monotonic(),
            want=self.generation.want if self.served else first,
            active=self.generation.number,
            incoming=incoming.number if incoming else None,
            incoming_want=incoming.proof if incoming else 0,
            incoming_not_before=self.reloader.backoff.not_before,
            surge=(incoming or self.generation).config.max_surge,
            stopping=self.ending.stopping,
            stopping_soon=self.ending.soon,
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
            case plan.Kill(child, plan.BOOT_TIMEOUT):
                generation = self.generation_of(child)
                assert generation is not None
                self.departures.end_boot(child, generation.config.boot_timeout)
                return True
            case plan.Kill(child, why):
                limit = f"--graceful-timeout {self.generation.config.graceful_timeout:g}"
                self.departures.kill(child, why, f"{why}: not done in time ({limit})")
                return True
            case plan.Activate():
                self._activate()
                return True
            case plan.Exit():
                self._exit()
                return False
            case plan.WakeAt(when):
                self.loop.timers.set("plan", when, lambda: None)
                return False

    def _exit(self) -> None:
        def end() -> None:
            self._exit_code = self._exit_code or 0

        if self.handed_over:
            # A manager that does not know of the new master takes our end for the service's.
            if not self.notifier.waits or monotonic() > self._hold_until:
                end()
        elif not self.errands.busy and self._exit_code is None:  # once, also if asked again after its end
            self.errands.run("on_exit", self.generation, end)

    # ---- children -------------------------------------------------------------------------

    def _spawn(self, number: int, count: int) -> bool:
        generation = self.generation if number == self.generation.number else self.reloader.incoming
        assert generation is not None
        self.leadership.expose(generation)
        for _ in range(count):
            try:
                if self._nursery.fork(generation, self.admin_address) is None:
                    return False
            except StartError as error:
                if generation is not self.generation:
                    self.reloader.fail(str(error))
                    return True
                self.backoff = self.backoff.short(monotonic(), str(error))
                if not self.served and _lasting(error):
                    self.give_up(str(error))
                    return True
                if not self.served and self.backoff.waits >= plan.BREAKER:
                    self.give_up(f"{self.backoff.waits} times in a row: {error}")
                    return True
                self.log.error(f"{error}; trying again")
                return False
        return True

    def _retire(self, child: Child, why: str) -> bool:
        if not child.on("retire"):
            return False
        child.why = why
        self.leadership.settle()
        config = self.generation.config
        child.deadline = monotonic() + config.graceful_timeout
        ending = self.ending.stopping and not self.handed_over
        grace = _STOP_GRACE if ending else min(_IDLE_GRACE, config.graceful_timeout / 2)
        self.dispatcher.retire(child)
        last = any(g.last for g in self._generations() if g.number == child.generation)
        if child.state is State.KILLED or not child.channel.send(
            Retire(grace, last, ending and not self._lent())
        ):
            send(self.log, child, signal.SIGKILL)
        return True

    def kill(self, child: Child, why: str) -> None:
        child.on("kill")
        child.why = child.why or why
        send(self.log, child, signal.SIGKILL)
        self.leadership.settle()

    def _on_message(self, child: Child) -> None:
        messages: list[Message] | None = child.channel.receive()
        if messages is None:
            self.loop.unwatch(child.channel.fileno())  # its pidfd will tell the rest
            return
        for message in messages:
            if isinstance(message, Ready):
                for generation in self._generations():
                    if generation.number == child.generation:
                        generation.interface, generation.flavour = message.interface, message.flavour
                        child.expires = expiry(generation.config, monotonic())
                if message.fallback and message.fallback != self.fallback:
                    self.log.warning(message.fallback)
                self.fallback = message.fallback
                self._on_ready(child)
            elif isinstance(message, Failed):
                child.error = message.error
            elif isinstance(message, Recycle):
                child.replace = message.why
            elif isinstance(message, Deaf):
                self.listening.hear(child, message.number)

    def _on_ready(self, child: Child) -> None:
        if not child.on("ready"):
            return
        child.ready, child.deadline = monotonic(), float("inf")
        self.log.debug(f"worker {child.slot} (pid {child.pid}) ready")
        self.leadership.settle()
        self._announce()

    def _announce(self) -> None:
        """Tell who started us, once, that the service answers."""
        if not self.served and self.ready_count() >= self.generation.proof:
            try:
                self.launch.name_us()
            except ForkdError as error:
                self.give_up(str(error))
                return
            self.served = True
            if self.launch.inheritance is not None:
                for listener in self.generation.listeners:
                    listener.own()
                self.owns = True
                self.leadership.listen()
            if self.launch.inheritance is not None or self.launch.stored:
                self.generation.admit(self.log)
                self.listening.restore_what_can_be(self.launch.binds)
            self.generation.defer()
            self.launch.ready(self)
            self.notifier.ready()

    def _on_exit(self, child: Child) -> None:
        self._on_message(child)  # its last words may be in the channel still
        departure = self._nursery.collect(child)
        if departure is None:
            return
        self.departures.record(departure)
        self.dispatcher.gone(child)
        child.close()
        for generation in (self.generation, self.reloader.incoming):
            if generation is not None and generation.number == child.generation:
                mark_gone(generation, child.slot)
        self.leadership.gone()
        if departure.crashed:
            self.departures.crashed(departure)
        elif departure.killed:
            who = f"worker {child.slot} (pid {child.pid})"
            self.departures.killed(child.generation, killed_at_boot(who, -departure.code))
        self.reloader.proceed()
        for generation in [g for g in self._leaving if not self._has_children(g)]:
            self._leaving.remove(generation)
            self._close_generation(generation)
        self.departures.reap_strangers()

    def _close_generation(self, generation: Generation) -> None:
        generation.close(self._kept())
        self.logs.close(generation.number)

    def _log_failed(self, generation: int, why: str) -> None:
        """A log file that is needed cannot be opened, or the logger cannot be forked."""
        self.departures.failed(generation or self.generation.number, why)

    def _lent(self) -> bool:
        """Whether the listeners may live on with somebody else when this service has ended."""
        passed = any(x.wanted.kind == "fd" for x in self.generation.listeners)
        return passed or self.notifier.keeps_listeners

    def template_pids(self) -> list[int]:
        return self._nursery.templates.pids()

    def ready_count(self) -> int:
        """Children that serve, those that a reload has not replaced yet included."""
        return sum(len(self.leadership.serving(g)) for g in self.generations_that_serve())

    def generations_that_serve(self) -> list[Generation]:
        """The newest first."""
        return [self.generation, *reversed(self._leaving)]

    def generation_of(self, child: Child) -> Generation | None:
        """None when that was withdrawn, and the child killed with it."""
        return next((g for g in self._generations() if g.number == child.generation), None)

    def _generations(self) -> list[Generation]:
        """All that have listeners or a lease open."""
        incoming = self.reloader.incoming
        return [self.generation, *([incoming] if incoming else []), *self._leaving]

    def _kept(self) -> list[Listener]:
        """Listeners that a generation leaves open when it ends."""
        return self.generation.listeners + self.reloader.listeners() + self.dispatcher.ending

    def _has_children(self, generation: Generation) -> bool:
        return any(c.generation == generation.number for c in self.children)

    # ---- signals and verbs ----------------------------------------------------------------

    def _on_signals(self) -> None:
        does = {row.number: row.does for row in SIGNALS}
        calls: dict[str, Callable[[], object]] = {
            "stop": self.ending.stop,
            "quit": self.ending.quit,
            "reload": self.reload,
            "reopen": self.reopen,
            "upgrade": self.upgrade,
            "pause": self.pause,
            "more": lambda: self.scale(self.generation.want + 1),
            "fewer": lambda: self.scale(max(0, self.generation.want - 1)),
            "ring": self.leadership.ring,
            "reap": self.departures.reap_strangers,
        }
        for number in self.signals.read():
            act = does[signal.Signals(number)]
            if self.handed_over and self.launch.stays:
                config = self.generation.config
                foreground.forward(number, config.pidfile, config.control)
                if act not in ("quit", "reopen", "reap"):  # what our own last children need
                    continue
            try:
                calls[act]()
            except ForkdError as error:
                self.log.error(f"{signal.Signals(number).name}: {error}")

    def _on_request(self, request: Request) -> None:
        try:
            verbs.handle(self, request)
        except (ForkdError, ValueError, TypeError) as error:
            request.refuse(str(error))

    def reopen(self) -> None:
        """Logs were rotated: open them anew."""
        self.logs.reopen()

    def scale(self, want: int, pause: bool = False) -> int:
        """Change the number of children. Returns the number. Raises ForkdError.

        None, where no connection brings one back, is a pause, as SIGWINCH has it, whoever asked for it."""
        generation = self.generation
        most = self.most_workers
        if generation.config.accept == "reuseport" and not pause:
            raise ForkdError("with --accept reuseport the number of workers is fixed")
        if not pause and generation.least < generation.most:
            if not generation.least <= want <= generation.most:
                raise ForkdError(
                    f"workers = {generation.config.workers}: {want} is outside that range"
                )
        elif not 0 <= want <= most:
            raise ForkdError(
                f"{want} workers: the number goes from 0 to {most} (--max-workers); a restart with a higher "
                "limit has room for more"
            )
        elif not pause:
            generation.least = generation.most = want
        generation.want = want
        self.paused = "SIGWINCH" if pause else "" if generation.most else "a scale to 0"
        self.log.info(f"scaling to {want}")
        return want

    def pause(self) -> None:
        """No children until they are asked for again; the master stays."""
        self.scale(0, pause=True)

    # ---- a new generation, a new master ------------------------------------------------------

    def reload(self, request: Request | None = None) -> None:
        """Replace the children by new ones, with new code and configuration."""
        if self.ending.begun:
            if request is not None:
                request.refuse("the master is stopping")
            return
        self.reloader.begin(request)

    def _activate(self) -> None:
        """The incoming generation leads from now on, and the old one retires."""
        old, new = self.generation, self.reloader.complete()
        self.generation = new
        self.paused = "" if new.most else "a scale to 0"
        self.backoff = plan.Backoff()
        self.log.configure(new.config.log_level, new.config.log_format)
        new.defer()
        new.admit(self.log)
        self.leadership.settle()
        self.leadership.listen()
        dropped = [x for x in old.listeners if x not in self._kept()]
        for listener in dropped:
            listener.shut()
            listener.close()
        old.last = old.last or bool(dropped)
        if self._has_children(old):
            self._leaving.append(old)
        else:
            self._close_generation(old)
        self.watchdog.tick()
        self.high_water.keep(new.listeners)
        self._announce()
        self.log.info(f"generation {new.number} serves")
        self.reloader.succeeded()

    def upgrade(self, request: Request | None = None) -> None:
        """Have a new master take over (see upgrade.py). Raises ForkdError when one cannot start."""
        if self.ending.begun or self.reloader.incoming is not None or self._upgrade is not None:
            raise ForkdError("not now: a stop, a reload or an upgrade is under way")
        self._upgrade = Upgrade(self, request)

    def cancel_upgrade(self, why: str) -> None:
        if self._upgrade is not None:
            self._upgrade.cancel(why)

    def upgrade_failed(self) -> None:
        """This master goes on; the new one may have owned the doorbell for a while."""
        self._upgrade = None
        self.leadership.listen()

    def _foreground_gone(self, pidfd: int) -> None:
        """Somebody has killed the process that stood in for us: whoever started that takes the service for
        ended, and will start it anew."""
        self.loop.unwatch(pidfd)
        self.log.error("the process in the foreground has been killed; the service ends with it")
        self.ending.quit()

    def hand_over(self) -> None:
        """A new master serves on our listeners: what is left is to finish the work in flight."""
        self.handed_over = True
        self._hold_until = monotonic() + self.generation.config.graceful_timeout
        self.doorbell.give_up()
        self.dispatcher.give_up()
        self.control.hand_over()
        self.notice.close()
        for server in self.page_servers():
            server.hand_over()
        for listener in self.generation.listeners:
            listener.unix_inode = None  # the socket file is the new master's
        self.ending.wind_up()

    def give_up(self, error: str) -> None:
        """The first boot failed: end, with the error."""
        self.launch.failed(error)
        self.served = True  # said once
        self._exit_code = 1
        for child in self.children:
            self.kill(child, "stop")


def _lasting(error: StartError) -> bool:
    """Whether trying to fork again soon is of no use, as far as one can see: the system has refused it. A
    template that did not answer is another matter."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno not in (errno.ETIMEDOUT, errno.EPROTO)
