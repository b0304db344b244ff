"""What the master is made of: the parts that act by themselves, each with what it acts on. In the master."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Protocol

from forkd.config import Config
from forkd.ipc import discovery
from forkd.ipc.control import Command
from forkd.ipc.heritage import Sinks
from forkd.log.lines import Log
from forkd.master import verbs
from forkd.master.children import Child
from forkd.master.dispatcher import Dispatcher
from forkd.master.doorbell import Doorbell
from forkd.master.endpoints import Endpoints
from forkd.master.generation import Generation
from forkd.master.high_water import HighWater
from forkd.master.hook_runner import HookRunner
from forkd.master.lag import Lag
from forkd.master.launch import Launch
from forkd.master.leadership import Leadership
from forkd.master.listening import Listening
from forkd.master.logs import Logs
from forkd.master.needs import slots_for
from forkd.master.reload import Reloads
from forkd.master.service import Service
from forkd.master.signals import SIGNALS
from forkd.master.spawn import Spawner
from forkd.master.status import Status
from forkd.master.storage import SharedTables
from forkd.master.systemd import Notifier
from forkd.master.termination import Termination
from forkd.master.tick import Tick
from forkd.master.upgrade import Counters
from forkd.models import registry
from forkd.system.loop import Loop
from forkd.system.retry import Retry
from forkd.system.signals import SignalQueue, handle
from forkd.system.sockets import Listener


class Listens(Protocol):
    """Whom the parts tell: the master, who decides."""

    def generations(self) -> list[Generation]: ...
    def on_message(self, child: Child) -> None: ...
    def on_exit(self, child: Child) -> None: ...
    def on_failure(self, generation: int, error: str) -> None: ...
    def on_killed(self, generation: int, error: str) -> None: ...
    def on_log_failed(self, generation: int, why: str) -> None: ...
    def on_making(self, listener: Listener) -> None: ...
    def on_broken(self, why: str) -> None: ...


class Hears(Protocol):
    """Who is told of orders."""

    def on_command(self, command: Command) -> None: ...
    def on_signals(self) -> object: ...


class Acts(Protocol):
    """What follows at once."""

    def derive_leader(self) -> None: ...
    def listen(self) -> None: ...
    def measure(self) -> None: ...
    def look_at_listeners(self) -> None: ...
    def grow(self) -> bool: ...
    def take_from_old(self, listener: Listener, old: socket.socket) -> None: ...
    def renewed(self, listener: Listener) -> None: ...


class Parts:
    """`open` makes those that need a `Service`, and what others can connect to."""

    signals: SignalQueue
    notice: discovery.Notice
    endpoints: Endpoints
    status: Status

    def __init__(
        self,
        loop: Loop,
        log: Log,
        config: Config,
        launch: Launch,
        master: Listens,
        actions: Callable[[], Acts],
    ) -> None:
        """`actions` are there when the master is."""
        assert launch.standard is not None
        self.loop, self.log = loop, log
        loop.failed = lambda: log.exception("a bug in forkd; the master goes on")
        loop.pause = partial(Retry(log.error).pause, "admin or control socket: accept")
        heir, slots = launch.inheritance, slots_for(config)
        self.shared = SharedTables(
            config, slots, log, {} if heir is None else heir.storage, launch.stored_tables
        )
        self.spawner = Spawner(
            slots, registry.lanes(config), loop, log,
            generations=master.generations, on_message=master.on_message, on_exit=master.on_exit,
            on_failure=master.on_failure, on_killed=master.on_killed, sinks=self._sinks,
            about_to_fork=lambda: actions().derive_leader(), shared=self.shared,
        )  # fmt: skip
        self.board, self.children = self.spawner.board, self.spawner.children
        self.templates = self.spawner.templates
        self.hooks = HookRunner(loop, log, self.spawner)
        self.logs = Logs(
            loop, log, self.spawner.rings, self.board.lanes[0][0],  # no child has slot 0
            launch.standard, config, failed=master.on_log_failed,
            forgetting=lambda: self.spawner.forgetting(set()),
        )  # fmt: skip
        self.high_water = HighWater()
        self.listening = Listening(
            loop, log, self.children, self.templates,
            look=lambda: actions().look_at_listeners(),
            look_away=lambda: self.leadership.look_away(),
            listen=lambda: actions().listen(),
            making=master.on_making,
            replacing=lambda listener, old: actions().take_from_old(listener, old),
            renewed=lambda listener: actions().renewed(listener),
            failed=master.on_broken,
        )  # fmt: skip
        told = (
            lambda: actions().grow(), self.listening.look_soon, lambda: actions().measure(),
        )  # fmt: skip
        self.doorbell = Doorbell(loop, self.board, *told)
        self.dispatcher = Dispatcher(loop, log, self.board, self.children, *told)
        self.leadership = Leadership(self.doorbell, self.dispatcher)
        self.termination = Termination(
            loop, log, self.children, self.spawner.unanswered, self.dispatcher, master.on_failure
        )
        self.tick = Tick(loop, log, self.board, self.children, self.termination)
        self.lag = Lag(
            loop, log, self.board, self.children, self.spawner.watch, master.generations
        )  # fmt: skip
        self.reloads = Reloads()
        self.notifier = Notifier(
            loop, self.board, self.children, launch.manager, launch.stored,
            self.shared.tables, launch.stored_tables,
        )  # fmt: skip
        self.counters = Counters(
            self.board, self.high_water, self.spawner.exits, self.spawner.untimely,
            self.reloads.results, self.doorbell,
        )  # fmt: skip

    def open(self, service: Service, operator: Hears) -> None:
        """Raises ForkdError."""
        config, heir = service.generation.config, service.launch.inheritance
        self.signals = SignalQueue([row.number for row in SIGNALS])
        # No application has a wake-up descriptor here, so that its number is in the queue.
        handle(signal.SIGIO, lambda number, frame: None)
        self.signals.only_from_processes(config.native)
        self.loop.watch(self.signals.fileno(), operator.on_signals)
        self.notice = discovery.Notice(config.control, config.name)
        source = verbs.Admin(lambda: self.status)
        self.endpoints = Endpoints(config, heir, self.loop, self.log, source, operator.on_command)
        self.status = Status(
            service, self.endpoints, self.templates, self.doorbell, self.high_water, self.logs,
            self.reloads, self.spawner.exits, self.spawner.untimely, self.shared.tables,
        )  # fmt: skip
        self.spawner.forget += [
            self.loop.close, self.signals.close, self.endpoints.forget, service.launch.forget,
            self.dispatcher.forget, self.log.sink.close, self.logs.forget, self.hooks.forget,
            self.notice.close,
        ]  # fmt: skip

    def close(self, owns: bool, lent: bool, generations: list[Generation]) -> None:
        """End what is left, but for the endpoints and the logger. `owns`: the listeners are this master's;
        `lent`: they live on in another process."""
        self.logs.replace()
        self.termination.kill_all()
        self.termination.report_unkillable()
        self.hooks.kill()
        if owns:
            self.doorbell.mute()
        self.templates.end()
        self.dispatcher.forget()
        for listener in self.dispatcher.ending:
            listener.close()
        for generation in generations:
            if owns and not lent and generation.master_accepts:
                for listener in generation.listeners:
                    listener.end()
            generation.close(keep=[])

    def _sinks(self, generation: Generation) -> Sinks:
        return self.logs.sinks(generation.number, generation.config)
