"""A busy child, which has nobody for what a connection brings, leaves what comes to one that is not.

It cannot know whether there is one: under the lease the doorbell does (supervise/doorbell.py), and grants
it leadership; under EPOLLEXCLUSIVE the kernel wakes whoever waits for the listener. What nobody has taken
after a while is accepted all the same, and waits for its turn here.
"""

from __future__ import annotations

from forkd.models.deadlines import NEVER
from forkd.originals import monotonic
from forkd.system.lease import Lease

#: Time for which a connection is left to others: the doorbell has looked twice by then.
_DECLINE_SECONDS = 0.006
#: Time in which it is accepted afterwards, if it still waits.
_WILLING_SECONDS = 0.001


class Deference:
    def __init__(self, lease: Lease | None, shared: bool) -> None:
        """`shared`: others wait for the same listeners."""
        self.busy = False
        self.ends = NEVER
        self._lease = lease
        self._shared = shared
        self._began = 0  # the term of the lease by then
        self._willing_until = 0.0

    def occupied(self, busy: bool) -> None:
        """Before each wait, in models that may be busy."""
        self.busy = busy
        if not busy:
            self.ends = NEVER
        elif self._lease is None and self._shared and self.ends == NEVER:
            self._begin()

    def asked(self) -> bool:
        """A connection has come: whether to leave it."""
        return self.busy and self._lease is not None and self._begin()

    def over(self, now: float) -> None:
        """It may be, at the end of a turn."""
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
