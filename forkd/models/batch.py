"""How many connections a leader takes before it passes leadership on and works.

One, as a rule: what waits in the accept queue can be taken by any child, and what a busy child holds by
no other. But where each connection brings one request that is answered in no time, and ends with it, to
pass leadership on costs more than to serve it: a bell, a wake-up, a switch of processes. Then it is
worth it for several at a time. Belongs to the loop of a child.
"""

from __future__ import annotations

#: Connections taken at a time, at most.
_MOST = 8
#: As many that were brief, one after the other, for one more of them at a time: where one in a hundred is
#: not, the others hardly ever wait for it.
_RUN = 128
#: Seconds in which a batch of brief ones is served. The master helps who waits for longer (doorbell.py).
_BRIEF = 0.001


class Batch:
    def __init__(self, most: int = _MOST) -> None:
        self.size = 1
        self._most = most
        self._run = 0

    def served(self, count: int, seconds: float, kept: int) -> None:
        """So many were taken at a time, and `kept` of them still are there, after `seconds`."""
        if kept or seconds > _BRIEF:
            self._run = 0
            self.size = 1
        else:
            self._run += count
            self.size = min(self._most, 1 + self._run // _RUN)
