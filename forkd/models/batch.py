"""How many connections a leader takes before it passes leadership on and works.

One, as a rule: what waits in the accept queue can be taken by any child, and what a busy child holds by
no other. But where each connection brings one request that is answered in no time, and ends with it, to
pass leadership on costs more than to serve it: a bell, a wake-up, a switch of processes. Then it is
worth it for several at a time, unless there are slow ones among them: then those that were taken with one
would wait for it, while other children are idle. Belongs to the loop of a child.
"""

from __future__ import annotations

from forkd.models.share import MOST_ACCEPTS

#: Connections taken at a time, at most. A child that has more of them open should not get several of those
#: that stay.
_MOST = MOST_ACCEPTS
#: As many that were brief, one after the other, for one more of them at a time: where one in a hundred
#: takes long, the others hardly ever wait for it.
_RUN = 64
_FULL = (_MOST - 1) * _RUN
#: So many that were brief outweigh a batch with more connections open than that, or one that took a while, as
#: one does also when the processor was needed elsewhere.
_MANY, _WHILE = 32, 64
#: Seconds: in less, nothing has taken a while; what takes more than the second is slow.
_BRIEF = 0.001
_SLOW = 0.005


class Batch:
    def __init__(self) -> None:
        self.size = 1
        self._run = 0

    @property
    def full(self) -> bool:
        return self.size == _MOST

    def begin_anew(self) -> None:
        """Some child has slow requests: one at a time, and a run that has to be made again."""
        self._run = 0
        self.size = 1

    def served(self, count: int, seconds: float, held: int) -> None:
        """So many were taken at a time, and served within `seconds`; `held` connections are open now."""
        if seconds > _SLOW:
            self._run = 0
        else:
            run = self._run + count
            if held > _MOST:
                run -= _MANY
            if seconds > _BRIEF:
                run -= _WHILE
            self._run = 0 if run < 0 else run if run < _FULL else _FULL
        self.size = 1 + self._run // _RUN
