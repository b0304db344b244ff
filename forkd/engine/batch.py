"""The number of connections that a leader takes before it passes leadership on and works.

One, as a rule: any child can take what waits in the accept queue, and no other child can take what a busy one
holds. But where each connection brings one request that is answered at once, and ends with it, passing
leadership on costs more than serving it: a bell, a wake-up, a switch of processes. Then several are taken at
a time, unless slow requests are among them: connections that were taken together with a slow one would wait
for it while other children are idle. Belongs to the loop of a child.
"""

from __future__ import annotations

from forkd.engine.share import MOST_ACCEPTS

#: Connections taken at a time, at most. A child that has more of them open should not get several of those
#: that stay.
MAX_CONNECTIONS = MOST_ACCEPTS
#: One-shot connections in a row after which one more is taken at a time: where one in a hundred takes long,
#: the others hardly ever wait for it.
RUN_CONNECTIONS = 64
_FULL_CONNECTIONS = (MAX_CONNECTIONS - 1) * RUN_CONNECTIONS
#: Connections taken off the run: for a batch with more than MAX_CONNECTIONS open, and for one that took a
#: while, which may also mean that the processor was needed elsewhere.
_MANY_OPEN_COST, _WHILE_COST = 32, 64
#: A batch has taken a while above the first, and is slow above the second.
BRIEF_SECONDS = 0.001
SLOW_SECONDS = 0.005


class Batch:
    def __init__(self) -> None:
        self.size = 1
        self.full = False  # it has MAX_CONNECTIONS
        self._run = 0

    def begin_anew(self) -> None:
        """Some child has slow requests: take one at a time, and begin a new run."""
        self._run = 0
        self.size = 1
        self.full = False

    def served(self, count: int, seconds: float, held: int) -> None:
        """So many were taken at a time, and served within `seconds`; `held` connections are open now."""
        if seconds > SLOW_SECONDS:
            self._run = 0
        else:
            run = self._run + count
            if held > MAX_CONNECTIONS:
                run -= _MANY_OPEN_COST
            if seconds > BRIEF_SECONDS:
                run -= _WHILE_COST
            self._run = 0 if run < 0 else run if run < _FULL_CONNECTIONS else _FULL_CONNECTIONS
        self.size = 1 + self._run // RUN_CONNECTIONS
        self.full = self.size == MAX_CONNECTIONS
