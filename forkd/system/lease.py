"""The shared accept lock: leadership as a lease that is granted, not a mutex that is held.

Leader/Followers (POSA2) across processes. One 64-bit cell of shared memory holds
``term << 16 | slot``: the child in that slot leads, which means that it, and only it, has the
listeners in its handle set. Slot 0 means that no child leads. The cell is written by the leader, when it
promotes a follower, or by the master, when the leader is busy, stopped or dead. Each child has a
*bell*, an eventfd in its own handle set; the process that writes the cell rings the bell of the child that
it names.

Why nothing here can be left locked by a SIGKILL: there is nothing to unlock. When the child that the cell
names dies, the master learns of it from the pidfd, and grants anew. A writer that dies between the write and
the bell is covered too: on any death the master rings the holder once more. It also does so when a client
waits and nothing moves, since a writer may be stopped there. Two writers at once are harmless: the last write
wins and its writer rings after writing, and two leaders for an instant only mean that one of them gets EAGAIN
from accept(2).

A promotion is decided by load (open connections), which spreads long-lived connections evenly:
see `promote`. Members are listed by the master alone, so that no child promotes one that retires.

Costs: `leads` is one read of shared memory, about 50 ns, and is all that an uncontended turn pays.
"""

from __future__ import annotations

import mmap
import os

from forkd.system.caution import Caution

NOBODY = 0
#: The load a child announces when it can take no more connections.
FULL = 1 << 32

_SLOT_BITS = 16
_SLOT_MASK = (1 << _SLOT_BITS) - 1
_CELL_MASK = (1 << 64) - 1


def make_bells(slots: int) -> list[int]:
    """The bells, by slot from 1 to `slots`: one for each child that the master may have at a time, whatever
    its generation. A leader must be able to ring the bells of children younger than itself."""
    return [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(slots + 1)]


class Lease:
    """The accept lock of one generation. Made by the master before it forks the first child."""

    def __init__(self, bells: list[int]) -> None:
        self.bells = bells
        self.slots = slots = len(bells) - 1  # the highest that a child may have
        # Shared by fork, and zero at first (MAP_SHARED | MAP_ANONYMOUS, mmap(2)).
        cells = memoryview(mmap.mmap(-1, 8 * (3 + 2 * slots))).cast("Q")
        # A store through a memoryview of 8-byte items is one aligned move: it cannot be torn.
        self._holder = cells[0:1]
        self._members = cells[1 : 2 + slots]  # count, then the slots that may lead
        self.load = cells[2 + slots :]  # by slot; each written by its child only
        self.caution = Caution()

    def holder(self) -> int:
        """The slot that leads. NOBODY where none does, or where a child wrote a slot that does not exist."""
        slot = self._holder[0] & _SLOT_MASK
        return slot if slot <= self.slots else NOBODY

    def term(self) -> int:
        """Counts grants; changes whenever leadership does."""
        return self._holder[0] >> _SLOT_BITS

    def leads(self, slot: int) -> bool:
        return self._holder[0] & _SLOT_MASK == slot

    def grant(self, slot: int) -> None:
        """Name `slot` as the leader and wake it. Called by the master, or by the leader."""
        term = (self._holder[0] >> _SLOT_BITS) + 1
        self._holder[0] = (term << _SLOT_BITS | slot) & _CELL_MASK
        if slot:
            self.ring(slot)

    def ring(self, slot: int) -> None:
        """Wake the child in `slot`, so that it looks at the lease."""
        os.eventfd_write(self.bells[slot], 1)

    def hear(self, slot: int) -> None:
        """Called by the child in `slot`: its bell was heard."""
        try:
            os.eventfd_read(self.bells[slot])
        except BlockingIOError:
            pass  # rung once and read twice, which level-triggered waiting allows

    def heard(self, slot: int) -> bool:
        """Whether `slot` has answered its last bell. False for a child that is busy or stopped."""
        try:
            count = os.eventfd_read(self.bells[slot])
        except BlockingIOError:
            return True
        os.eventfd_write(self.bells[slot], count)
        return False

    def set_members(self, slots: list[int]) -> None:
        """Set the children that may lead; by the master. A child that reads while this writes sees a member
        twice or not at all, and never another slot: the next accept puts both right."""
        for index, slot in enumerate(slots, start=1):
            self._members[index] = slot
        self._members[0] = len(slots)

    def members(self) -> list[int]:
        count = min(self._members[0], self.slots)  # shared memory is never trusted as a size
        return [s for s in self._members[1 : 1 + count].tolist() if 0 < s <= self.slots]

    def promote(self, leader: int) -> bool:
        """Hand leadership to the member with the fewest connections, if it has fewer than the leader.

        Called by the leader after each accept, before it works on what it accepted. Returns True
        when the caller no longer leads. With equal loads the leader keeps the lease, so that a
        fast service pays neither a wake-up nor a context switch per request.
        """
        load = self.load
        least = load[leader]
        lightest = leader
        for slot in self.members():
            if load[slot] < least:
                least = load[slot]
                lightest = slot
        if lightest == leader:
            if least < FULL:
                return False
            lightest = NOBODY  # all are full: connections wait in the backlog
        self.grant(lightest)
        return True
