"""Who accepts, as the master decides it: the members of the lease, its holder, and the bell of
the listeners.

The children pass the lease on among themselves (system/lease.py). The master has the last word when
one of them has come, gone, or does not answer, and when somebody waits and nobody is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forkd.models import registry
from forkd.supervise import scaling
from forkd.supervise.children import Child, State
from forkd.supervise.dispatcher import Dispatcher
from forkd.supervise.doorbell import Doorbell
from forkd.supervise.generation import Generation
from forkd.system.lease import NOBODY, Lease
from forkd.system.sockets import Listener

if TYPE_CHECKING:
    from forkd.supervise.master import Master


class Leadership:
    def __init__(self, master: Master) -> None:
        self.other_ids = False  # the children have other ids than the master
        self._master = master
        soon = master.listening.look_soon
        self.doorbell = Doorbell(
            master.loop, master.board, self._nobody_free, self.settle, soon, self.measure
        )
        self.dispatcher = Dispatcher(
            master.loop, master.log, master.board, master.children, self._nobody_free, soon, self.measure
        )

    def measure(self) -> None:
        """See how many wait in the accept queues."""
        self._master.high_water.look(self._master.generation.listeners)

    def serving(self, generation: Generation) -> list[Child]:
        """The children of a generation that may lead."""
        return [
            child
            for child in self._master.children
            if child.state is State.READY and child.generation == generation.number
        ]

    def settle(self) -> None:
        """Say who may lead, in each generation; where the leader may not (any more), grant the lease
        anew. The last generation first, so that somebody always leads."""
        for generation in self._master.generations_that_serve():
            if generation.lease is not None:
                self._settle(generation, generation.lease)

    def _settle(self, generation: Generation, lease: Lease) -> None:
        serving = [child.slot for child in self.serving(generation)]
        members = [slot for slot in serving if slot not in self.doorbell.suspects] or serving
        lease.set_members(members)
        if lease.holder() not in members:
            lease.grant(min(members, key=lambda s: (lease.load[s], s)) if members else NOBODY)

    def gone(self) -> None:
        """A child is gone: it may have died between naming a leader and ringing its bell."""
        self.settle()
        for generation in self._master.generations_that_serve():
            lease = generation.lease
            if lease is not None and lease.holder() != NOBODY:
                lease.ring(lease.holder())

    def expose(self, generation: Generation) -> None:
        """Before the first child of a generation is forked: where it has other ids, what it shares with the
        master has no owner from now on."""
        if self.other_ids and not generation.master_accepts and not generation.exposed:
            generation.exposed = True
            self._expose(generation.listeners)

    def lend(self) -> None:
        """Before another master is executed: its children may have other ids than ours."""
        self._expose(self._master.generation.listeners)

    def _expose(self, listeners: list[Listener]) -> None:
        owned = any(listener.private for listener in listeners)
        for listener in listeners:
            listener.expose()
        if owned and self._master.owns:
            self.listen()  # anew, by epoll

    def listen(self) -> None:
        """Be told of who waits where the master has something to do about it: it accepts, or it finds a
        leader, or it adds children."""
        generation = self._master.generation
        self.doorbell.mute()
        for listener in generation.listeners:
            if not listener.private:
                listener.expose()  # whoever had it before may have set an owner
        if generation.master_accepts:
            config = generation.config
            io = registry.io_of(config.model, config.io)
            self.dispatcher.watch(generation, by_signal=io == "sigio")
            return
        self.dispatcher.finish(keep=generation.listeners)
        if generation.lease is not None or generation.least < generation.most:
            self.doorbell.watch(generation.listeners, generation.lease)

    def rest(self) -> None:
        """Look away from the listeners, until `listen`."""
        self.doorbell.mute()
        self.dispatcher.rest()

    def ring(self) -> None:
        """SIGIO."""
        self.doorbell.ring()
        self.dispatcher.accept()

    def _nobody_free(self) -> None:
        """Somebody waits, and every child is busy."""
        master, generation = self._master, self._master.generation
        if (
            master.paused
            or master.ending.stopping
            or master.reloader.incoming
            or generation.want >= generation.most
        ):
            return
        starting = sum(1 for c in master.children if c.state is State.STARTING)
        want = scaling.grow(generation.want, generation.most, starting)
        if want != generation.want:
            master.log.info(f"scaling up to {want}: connections wait and nobody is free")
            generation.want = want
            master.watchdog.restless()
