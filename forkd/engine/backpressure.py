"""Backpressure between children: a busy one leaves new connections to one with a free thread.

Busy: it has no thread for what a connection brings. It cannot know whether another has: under the lease the
doorbell does (master/doorbell.py), and grants that child leadership; under EPOLLEXCLUSIVE the kernel wakes
a child that waits for the listener. A connection that no child has taken after a while is accepted all the
same, and waits for its turn here.
"""

from __future__ import annotations

from forkd.engine.deadlines import NEVER
from forkd.system.lease import Lease
from forkd.system.originals import monotonic

#: Time for which a connection is left to others: the doorbell has looked twice by then.
_DECLINE_SECONDS = 0.006
#: Time in which it is accepted afterwards, if it still waits.
_WILLING_SECONDS = 0.001


class Backpressure:
    def __init__(self, lease: Lease | None, shared: bool) -> None:
        """`shared`: other children wait for the same listeners."""
        self.busy = False
        self.ends = NEVER
        self._lease = lease
        self._shared = shared
        self._began = 0  # the term of the lease by then
        self._willing_until = 0.0

    def occupied(self, busy: bool) -> None:
        """Set whether the child is busy; called before each wait, in models that may be."""
        self.busy = busy
        if not busy:
            self.ends = NEVER
        elif self._lease is None and self._shared and self.ends == NEVER:
            self._begin()

    def asked(self) -> bool:
        """A connection has come while the child is busy: whether to leave it."""
        return self._lease is not None and self._begin()

    def over(self, now: float) -> None:
        """End it at the end of a turn, if its time has passed."""
        if self.ends <= now:
            self.ends = NEVER
            if self._term() == self._began:
                self._willing_until = monotonic() + _WILLING_SECONDS

    def _begin(self) -> bool:
        now = monotonic()
        if now < self._willing_until:
            return False
        self.ends = now + _DECLINE_SECONDS
        self._began = self._term()
        return True

    def _term(self) -> int:
        return self._lease.term() if self._lease is not None else 0
