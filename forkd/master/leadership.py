"""Who accepts: the members of the lease and its holder, and who is told when clients wait. In the master.

The children pass the lease on among themselves (system/lease.py). The master has the last word when a child
has come, has gone, or does not answer, and when clients wait and no child is free.
"""

from __future__ import annotations

from collections.abc import Collection

from forkd.master.children import Child
from forkd.master.dispatcher import Dispatcher
from forkd.master.doorbell import Doorbell
from forkd.master.generation import Generation
from forkd.models import registry
from forkd.system.lease import FULL, NOBODY, Lease
from forkd.system.loop import QUIET
from forkd.system.sockets import Listener


def derive(lease: Lease, serving: Collection[Child], suspects: Collection[int]) -> None:
    """Say which children of a generation may lead; where the holder may not (any more), grant the lease anew.

    Derived from what is, before each round of the plan and before each fork, which takes milliseconds.
    """
    slots = [child.slot for child in serving]
    members = [slot for slot in slots if slot not in suspects] or slots
    if lease.members() != members:
        lease.set_members(members)
    holder = lease.holder()
    if holder in members:
        return
    lightest = min(members, key=lambda slot: (lease.load[slot], slot), default=NOBODY)
    if holder != NOBODY or (lightest != NOBODY and lease.load[lightest] < FULL):
        lease.grant(lightest)


def ring_again(lease: Lease) -> None:
    """A child has gone: it may have died between naming a leader and ringing the leader's bell."""
    holder = lease.holder()
    if holder != NOBODY:
        lease.ring(holder)


class Leadership:
    """Has the master told of clients that wait, where it has something to do about it: it accepts, it finds a
    leader, or it adds children."""

    def __init__(self, doorbell: Doorbell, dispatcher: Dispatcher) -> None:
        self._doorbell = doorbell
        self._dispatcher = dispatcher
        self.other_ids = False  # the children have other ids than the master

    def listen(self, generation: Generation) -> None:
        """Watch the listeners of `generation`, and no others."""
        self._doorbell.mute()
        for listener in generation.listeners:
            if not listener.private:
                listener.expose()  # whoever had it before may have set an owner
        if generation.master_accepts:
            config = generation.config
            io = registry.io_of(config.model, config.io)
            self._dispatcher.watch(generation, by_signal=io == "sigio")
            return
        self._dispatcher.finish(keep=generation.listeners)
        if generation.lease is not None or generation.least < generation.most:
            self._doorbell.watch(generation.listeners, generation.lease, generation.least < generation.most)

    def look_away(self) -> None:
        """Look away from the listeners, until `listen`."""
        self._doorbell.mute()
        self._dispatcher.look_away()

    def ring(self) -> object:
        """SIGIO. Returns QUIET if one of them does: the other does not listen."""
        return QUIET if QUIET in (self._dispatcher.accept(), self._doorbell.ring()) else None

    def give_up(self) -> None:
        """Another master is told from now on."""
        self._doorbell.give_up()
        self._dispatcher.give_up()

    def expose(self, generation: Generation) -> bool:
        """Before the first child of a generation is forked: where it has other ids, what it shares with the
        master has no owner from now on. Returns whether `listen` has to be called again."""
        if not self.other_ids or generation.master_accepts or generation.exposed:
            return False
        generation.exposed = True
        return expose(generation.listeners)


def expose(listeners: Collection[Listener]) -> bool:
    """Take the owner (F_SETOWN) from sockets that processes of other ids are to have. Returns whether one had
    an owner, so that the bell has to be set anew."""
    owned = any(listener.private for listener in listeners)
    for listener in listeners:
        listener.expose()
    return owned
