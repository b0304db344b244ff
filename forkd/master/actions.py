"""What the master does to its parts on the way from one state to the next. In the master.

master/main.py says when. Nothing here assigns a field of `Service`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection
from functools import partial
from time import monotonic

from forkd.app import interfaces
from forkd.config import Config
from forkd.errors import BindError, ForkdError
from forkd.ipc.control import ANNOUNCE_SECONDS, Command
from forkd.ipc.messages import Retire
from forkd.master import announcement, deaths, leadership, plan, reload, scaling, tick
from forkd.master.children import Child, State
from forkd.master.generation import Generation
from forkd.master.lateness import loading
from forkd.master.parts import Parts
from forkd.master.phase import Phase
from forkd.master.service import Service
from forkd.master.spawn import mark_gone
from forkd.master.upgrade import Upgrade, describe, seconds_for
from forkd.models import registry
from forkd.system import memory
from forkd.system.sockets import Listener

#: How long connections between requests are kept for a request that is on its way, seconds.
_IDLE_GRACE_SECONDS = 2.0
_STOP_GRACE_SECONDS = 0.05
#: Until a child that was told to quit is killed, seconds.
_QUIT_SECONDS = 1.0
#: For which a listener that deferred connections accepts those whose first bytes are on their way, seconds.
_DEFERRED_SECONDS = 0.05


class Actions:
    def __init__(self, service: Service, parts: Parts) -> None:
        self._service = service
        self._parts = parts

    # ---- children -------------------------------------------------------------------------

    def derive_leader(self) -> None:
        """Derive who may lead. The newest generation first."""
        service = self._service
        for generation in service.generations_that_serve():
            if generation.lease is not None:
                serving = service.serving(generation)
                leadership.derive(generation.lease, serving, self._parts.doorbell.suspects)

    def ring_again(self) -> None:
        for generation in self._service.generations_that_serve():
            if generation.lease is not None:
                leadership.ring_again(generation.lease)

    def retire(self, child: Child, why: str) -> bool:
        service, seconds = self._service, self._service.generation.config.graceful_timeout
        ending = service.phase.stopping and not service.handed_over
        grace = _STOP_GRACE_SECONDS if ending else min(_IDLE_GRACE_SECONDS, seconds / 2)
        last = any(g.last for g in service.generations() if g.number == child.generation)
        message = Retire(grace, last, ending and not self.lent())
        generation = service.generation_of(child)
        if generation is not None and (speaks := interfaces.named(generation.interface)) is not None:
            seconds += speaks.farewell
        return self._parts.termination.retire(child, why, seconds, message)

    def kill(self, child: Child, why: str) -> bool:
        """Its time is over, to be ready or to finish. Returns True: its state changes."""
        service, termination = self._service, self._parts.termination
        if why == plan.BOOT_TIMEOUT:
            generation = service.generation_of(child)
            assert generation is not None
            termination.end_boot(child, generation.config.boot_timeout)
        else:
            limit = f"--graceful-timeout {service.generation.config.graceful_timeout:g}"
            termination.end_late(child, why, f"{why}: not done in time ({limit})")
        return True

    def mark_gone(self, child: Child) -> None:
        for generation in (self._service.generation, self._service.incoming):
            if generation is not None and generation.number == child.generation:
                mark_gone(generation, child.slot)

    def scene(self) -> plan.Scene:
        """What the plan is made of."""
        service, generation = self._service, self._service.generation
        # New children wait for a hook that runs before them, and for the files of their logs.
        hold = self._parts.hooks.busy or self._parts.logs.opening
        incoming = None if hold else service.incoming
        first = 0 if hold else generation.proof
        return plan.Scene(
            now=monotonic(),
            want=first if service.phase.booting else generation.want,
            active=generation.number,
            incoming=incoming.number if incoming else None,
            incoming_want=incoming.proof if incoming else 0,
            incoming_not_before=service.incoming_backoff.not_before,
            surge=(incoming or generation).config.max_surge,
            stopping=service.phase.stopping,
            stopping_soon=service.phase is Phase.LAST_CALL,
            backoff=service.backoff,
            children=tuple(service.children),
        )

    def keep_templates(self) -> None:
        """End those that fork no children any more."""
        service = self._service
        kept = [service.generation, *([service.incoming] if service.incoming else [])]
        numbers = set() if service.phase.stopping else {g.number for g in kept}
        self._parts.templates.keep(numbers)

    def facts(self) -> deaths.Facts:
        """What the end of a child is judged by."""
        service = self._service
        return deaths.Facts(
            active=service.generation.number,
            incoming=service.incoming.number if service.incoming is not None else None,
            booting=service.phase.booting,
            backoff=service.backoff,
            incoming_backoff=service.incoming_backoff,
            now=monotonic(),
        )

    def reap(self) -> None:
        self._parts.spawner.reap_strangers({*self._parts.hooks.pids(), self._parts.logs.pid})

    def grow(self) -> bool:
        """Clients wait, and every child is busy: have more, if there may be. Returns whether there will."""
        service, generation = self._service, self._service.generation
        if service.paused or service.phase.stopping or service.incoming:
            return False
        if generation.want >= generation.most:
            return False
        starting = sum(1 for child in service.children if child.state is State.STARTING)
        want = scaling.grow(generation.want, generation.most, starting)
        if want == generation.want:
            return False
        text = f"scaling up to {want}: connections wait and nobody is free"
        service.events.note("scale", "info", text)
        generation.want = want
        self._parts.tick.restless()
        return True

    def shrink(self, now: float) -> None:
        """One child fewer, when there has been one too many for a while."""
        service, generation = self._service, self._service.generation
        if service.paused or service.incoming or generation.least == generation.most:
            return
        want = self._parts.tick.calm_down(
            generation.want, generation.least, generation.config.scale_down_after, now
        )
        if want != generation.want:
            service.events.note("scale", "info", f"scaling down to {want}: idle")
            generation.want = want

    # ---- the start ------------------------------------------------------------------------

    def await_start(self, abandoned: Callable[[], None]) -> None:
        """From now on the loop runs: say what takes long, and call `abandoned` when nobody waits any more."""
        loop, waiter = self._service.loop, self._service.launch.waiter
        loop.timers.set("start", monotonic() + ANNOUNCE_SECONDS, self._say_what_takes_long)
        if waiter is not None:

            def gone() -> None:
                loop.unwatch(waiter)
                abandoned()

            loop.watch(waiter, gone)

    def _say_what_takes_long(self) -> None:
        service, parts = self._service, self._parts
        if not service.phase.booting:
            return
        if parts.logs.opening:
            text = "the files of the logs are not open yet"
        else:
            pids = [child.pid for child in service.children] + parts.templates.pids()
            text = parts.hooks.describe() or loading(service.generation.config, pids)
        service.log.info(text)
        service.launch.takes_long(text)

    def announce(self) -> None:
        """The service answers."""
        service, parts, launch = self._service, self._parts, self._service.launch
        generation = service.generation
        if launch.inheritance is not None:
            for listener in generation.listeners:
                listener.own()
            self.listen()
        if launch.inheritance is not None or launch.stored:
            generation.admit(service.log)
            try:
                parts.listening.restore(launch.binds, service.listeners())
            except BindError as error:  # there was no reload to be refused
                service.log.error(str(error))
        generation.defer()
        lines = announcement.lines(service, parts.endpoints)
        for line in lines:
            service.log.info(line)
        for line in generation.unused():
            service.log.warning(line)
            lines.append(f"warning: {line}")
        if launch.waiter is not None:
            service.loop.unwatch(launch.waiter)
        launch.ready(lines, parts.logs.sync)
        self.notify_ready()

    def notify_ready(self) -> None:
        service, generation = self._service, self._service.generation
        self._parts.notifier.ready(
            generation.number, len(service.serving(generation)), service.last_error,
            generation.listeners,
        )  # fmt: skip

    # ---- the end --------------------------------------------------------------------------

    def defer_no_more(self) -> bool:
        """Whether there may be connections that no child can see yet."""
        listeners = self._service.generation.listeners if self._service.owns else []
        held_back = any(listener.deferring for listener in listeners)
        for listener in listeners:
            listener.defer(False)
        return held_back

    def hold_out(self, over: Callable[[], None]) -> None:
        """Accept for some time more, then call `over`."""
        service, seconds = self._service, self._service.generation.config.lame_duck
        if seconds:
            text = f"told to stop: not ready any more, accepting for {seconds:g} s (--lame-duck)"
            service.events.note("stop", "info", text)
        service.loop.timers.set("lame-duck", monotonic() + max(seconds, _DEFERRED_SECONDS), over)

    def wind_up(self, dropped: Collection[str] = ()) -> None:
        """Finish what is under way, then end. `dropped`: names of listeners that end with it; the others are
        another master's."""
        service, generation, parts = self._service, self._service.generation, self._parts
        service.events.note("stop", "info", "stopping")
        # A master that serves no more, or not yet, shares the listeners with one that does.
        listeners, owns = generation.listeners, service.owns
        kept = [] if owns else [each for each in listeners if each.name not in dropped]
        ending = [each for each in listeners if each not in kept]
        generation.last = owns or bool(ending)
        if owns:
            parts.doorbell.mute()
        for listener in ending:
            listener.shut()
        parts.dispatcher.finish(keep=kept)
        # Those that the master accepts on end when they are empty.
        for listener in kept if generation.master_accepts else listeners:
            listener.hang_up()

    def quit(self) -> None:
        """End now: what is under way is lost."""
        termination = self._parts.termination
        for child in self._service.children:
            termination.quit(child)
        self._parts.hooks.kill()
        self._service.loop.timers.set("quit", monotonic() + _QUIT_SECONDS, termination.kill_all)

    def lent(self) -> bool:
        """Whether the listeners may live on in another process when this service has ended."""
        passed = any(x.wanted.kind == "fd" for x in self._service.generation.listeners)
        return passed or self._parts.notifier.keeps_listeners

    # ---- listeners ------------------------------------------------------------------------

    def listen(self) -> None:
        self._parts.leadership.listen(self._service.generation)

    def expose(self, generation: Generation) -> None:
        if self._parts.leadership.expose(generation) and self._service.owns:
            self.listen()  # anew, by epoll

    def measure(self) -> None:
        """See how many wait in the accept queues."""
        self._parts.high_water.look(self._service.generation.listeners)

    def look_at_listeners(self) -> None:
        service = self._service
        self._parts.listening.look(service.listeners(), service.responsible)

    def take_from_old(self, listener: Listener, old: socket.socket) -> None:
        """A listener gets another socket: who waits in the old one is served by the dispatcher, where that
        accepts."""
        if self._service.generation.master_accepts:
            rest = socket.socket(fileno=os.dup(old.fileno()))
            rest.setblocking(False)
            self._parts.dispatcher.empty(
                Listener(listener.wanted, listener.name, listener.backlog, [rest]),
                self._service.begin_of(listener),
            )

    def renewed(self, listener: Listener) -> None:
        """Clients can come to it again."""
        self._service.generation.defer()
        self._parts.notifier.renewed(listener, self._service.generation.listeners)

    def look_after(self, now: float) -> plan.Backoff:
        """What no event announces. Returns the backoff, which may be over."""
        service, parts, config = self._service, self._parts, self._service.generation.config
        timeout = 0.0 if registry.get(config.model).forks else config.timeout
        parts.tick.look(now, timeout, config.max_rss)
        parts.doorbell.forgive()
        self.look_at_listeners()
        if service.owns and service.launch.keep_pidfile(service.log):
            parts.endpoints.restore()  # whoever removed it has hardly left the control socket
        self.measure()
        service.log.sink.retry()
        self.shrink(now)
        ready, want = len(service.serving(service.generation)), service.generation.want
        if not tick.settled(service.backoff, ready, want, service.children, now):
            return service.backoff
        service.events.note("crash-loop", "info", "children are stable again")
        return service.backoff.settled()

    # ---- a new generation -----------------------------------------------------------------

    def build(self, loaded: Config) -> tuple[Generation, reload.Wanted]:
        """What a reload brings up. Raises ConfigError, BindError, StartError or SlotsTaken."""
        service, parts, old = self._service, self._parts, self._service.generation
        wanted = reload.wanted(
            loaded, old=old.config, most=old.most, paused=service.paused,
            max_workers=service.max_workers, lanes=service.board.threads,
            children=list(service.children), slots=service.children.slots,
        )  # fmt: skip
        binds = service.launch.binds_of(wanted.config)
        parts.endpoints.restore()
        if service.responsible:
            parts.listening.restore(binds, service.listeners())
        bells = parts.spawner.bells
        new = Generation.build(old.number + 1, wanted.config, binds, bells, known=old.listeners)
        return new, wanted

    def begin(self, new: Generation, wanted: reload.Wanted) -> None:
        """It boots next to the old one."""
        service, parts, old = self._service, self._parts, self._service.generation
        for listener in old.listeners:
            if listener not in new.listeners:
                listener.defer(False)  # until it is closed, what was held back has come
        new.warn(service.log)
        memory.share_heap()
        parts.logs.open(new.number, new.config)
        if wanted.same_size:
            new.keep_size(old)
        parts.reloads.restart = wanted.restart
        if wanted.restart:
            names = ", ".join(wanted.restart)
            service.log.warning(f"reload: changed, but need a restart: {names}")
        parts.notifier.reloading()
        service.events.note("reload", "info", f"reloading: generation {new.number}")
        parts.hooks.run("on_reload", new, lambda: None)

    def lead(self, new: Generation) -> None:
        """The children of `new` accept from now on."""
        self._service.log.configure(new.config.log_level, new.config.log_format)
        new.defer()
        new.admit(self._service.log)
        self.derive_leader()
        self.listen()

    def drop(self, old: Generation) -> None:
        """Close the listeners that the service has no more."""
        dropped = [listener for listener in old.listeners if listener not in self._kept()]
        for listener in dropped:
            listener.shut()
            listener.close()
        old.last = old.last or bool(dropped)

    def withdraw(self, new: Generation, reason: str) -> None:
        """Give up a generation that was to come."""
        for child in self._service.children_of(new):
            self._parts.termination.kill(child, reason)
        # The next generation has the same number, and shall not have this one's code.
        self.keep_templates()
        new.close(keep=self._service.generation.listeners)
        self._parts.logs.close(new.number)

    def close(self, generation: Generation) -> None:
        """It has no children any more."""
        generation.close(self._kept())
        self._parts.logs.close(generation.number)

    def _kept(self) -> list[Listener]:
        """Listeners that a generation leaves open when it ends."""
        return self._service.listeners() + self._parts.dispatcher.ending

    # ---- a new master ---------------------------------------------------------------------

    def execute(
        self,
        command: Command | None,
        serves: Callable[[Upgrade, list[str]], None],
        failed: Callable[[str], None],
    ) -> Upgrade:
        """Start the new program, and call `serves` or `failed`. Raises ForkdError."""
        service = self._service
        if service.incoming is not None or service.upgrade is not None:
            raise ForkdError("not now: a stop, a reload or an upgrade is under way")
        assert service.launch.standard is not None
        if leadership.expose(service.generation.listeners) and service.owns:
            self.listen()  # the new master's children may have other ids than ours
        self.derive_leader()
        handed = partial(
            describe, sources=service.sources, generation=service.generation,
            launch=service.launch, endpoints=self._parts.endpoints, shared=self._parts.shared,
        )  # fmt: skip
        return Upgrade(
            service.loop, service.log, service.launch.standard, handed, command,
            seconds_for(service.generation.config), serves=serves, failed=failed,
        )  # fmt: skip

    def hand_over(self, dropped: list[str]) -> None:
        """A new master serves on our listeners, but for `dropped`. What is left is to finish the work in
        flight, and to serve the clients that wait in these."""
        parts = self._parts
        parts.leadership.give_up()
        parts.notice.close()
        for listener in self._service.generation.listeners:
            if listener.name not in dropped:
                listener.unix_inode = None  # the socket file is the new master's
        self.wind_up(dropped)

    def answer_upgrade(self, upgrade: Upgrade) -> None:
        """The children have retired by now: what comes after the answer is the new master's."""
        upgrade.answer()
        self._parts.endpoints.hand_over()

    def send_counters(self) -> None:
        assert self._service.upgrade is not None
        self._parts.logs.count()
        self._service.upgrade.send(self._parts.counters.export(self._service.children))
