"""Who accepts: the listeners of one child, and its part in the leadership of all.

Under `--accept lock` the child has the listeners in its handle set while the lease names it. Under
`exclusive` and `reuseport` it always has them, and the kernel chooses. A child that is full, that
has no descriptor left, or that is retired, waits for no connection. Used by every model whose
children accept, in the thread that waits.
"""

from __future__ import annotations

import errno
from time import monotonic
from typing import Any

from forkd.models.deadlines import NEVER
from forkd.models.intake import Accepted, Intake
from forkd.models.unit import Unit
from forkd.system.handles import EXCLUSIVE, READ, HandleSet
from forkd.system.lease import FULL
from forkd.system.scoreboard import ACCEPTED, CONNECTIONS, PROMOTIONS

#: accept(2) fails with these when the machine or the process has no room. The connection stays in
#: the queue and keeps the listener readable, so waiting on it at once would spin.
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE = 0.25  # seconds


class Acceptor:
    def __init__(self, unit: Unit, handles: HandleSet) -> None:
        self.intakes = {intake.fileno(): intake for intake in unit.intakes}
        self.bell = unit.lease.bells[unit.slot] if unit.lease is not None else None
        self.pause_ends = NEVER
        self._unit = unit
        self._handles = handles
        self._lease = unit.lease
        self._slot = unit.slot
        self._cells = unit.row.cells
        self._most = unit.config.worker_connections
        self._listening = False
        self._retired = False
        self._full = False
        self._connections = 0

    # ---- leadership -----------------------------------------------------------------------

    def join(self) -> None:
        """Before each wait: be what the lease says, leader or follower."""
        lead = self.leads()
        if lead is not self._listening:
            self._listening = lead
            for fd, intake in self.intakes.items():
                if lead:
                    self._handles.add(fd, READ | EXCLUSIVE if intake.shared else READ)
                else:
                    self._handles.remove(fd)

    def leads(self) -> bool:
        if self._full or self._retired or self.pause_ends != NEVER:
            return False
        return self._lease is None or self._lease.leads(self._slot)

    def hear(self) -> None:
        """The bell rang. `join` does what the lease says."""
        assert self._lease is not None
        self._lease.hear(self._slot)

    def accept(self, fd: int) -> Accepted | None:
        """One connection, after which the next leader is chosen; None when there is none, or when
        this child does not lead (any more)."""
        if not self.leads():
            return None
        found = self._take(self.intakes[fd])
        if found is not None:
            self._promote()
        return found

    def accepted(self, fd: int, result: Any) -> Accepted | None:
        """An accept that was started on a listener is complete: with a descriptor, or an OSError."""
        if isinstance(result, OSError):
            self._failed(result)
            return None
        self._cells[ACCEPTED] += 1
        found = self.intakes[fd].wrap(result)
        self._promote()
        return found

    def _promote(self) -> None:
        """Choose the next leader, counting the connection just taken."""
        if self._lease is not None:
            self.announce(self._connections + 1)
            if self._lease.promote(self._slot):
                self._cells[PROMOTIONS] += 1

    def announce(self, connections: int) -> None:
        """The number of this child's connections changed: tell the others, and the scoreboard."""
        self._connections = connections
        self._cells[CONNECTIONS] = connections
        self._full = connections >= self._most
        if self._lease is not None:
            self._lease.load[self._slot] = FULL if self._full or self._retired else connections

    # ---- no room --------------------------------------------------------------------------

    def _take(self, intake: Intake) -> Accepted | None:
        try:
            found = intake.take()
        except BlockingIOError:
            return None  # another leader took it, or the client gave up
        except OSError as error:
            self._failed(error)
            return None
        self._cells[ACCEPTED] += 1
        return found

    def _failed(self, error: OSError) -> None:
        if error.errno in _NO_ROOM:
            self._unit.log.error(
                f"accept: {errno.errorcode[error.errno]}: {error.strerror}; "
                f"accepting stops for {_NO_ROOM_PAUSE} s"
            )
            self.pause_ends = monotonic() + _NO_ROOM_PAUSE
        # Otherwise the error is that one connection's (accept(2), Error handling).

    def resume(self, now: float) -> None:
        """The pause may be over."""
        if self.pause_ends <= now:
            self.pause_ends = NEVER

    # ---- the end --------------------------------------------------------------------------

    def retire(self) -> None:
        """Accept no more; pass leadership on."""
        self._retired = True
        self.announce(self._connections)
        self.join()
        if self._lease is not None and self._lease.leads(self._slot):
            self._lease.promote(self._slot)

    def close(self, drain_queue: bool) -> list[Accepted]:
        """Give up the intakes, after taking what would be lost: all that waits with `drain_queue`,
        else what waits for this child alone."""
        last: list[Accepted] = []
        for intake in self.intakes.values():
            while (drain_queue or intake.own) and (found := self._take(intake)) is not None:
                last.append(found)
            intake.close()
        self.intakes.clear()
        return last
