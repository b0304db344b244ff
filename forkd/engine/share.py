"""The share of a turn that new connections get: so many, or so long, whichever is first.

What a connection brings is served as it is accepted, and that belongs to the share. Between two shares is
the rest of a turn: every connection that was ready, every deadline that has passed, the bell, the master's
channel and the log. Without a bound a worker would serve nothing else while clients wait in the accept queue.
Belongs to the loop of a child; native code keeps to the same numbers (native/engine_accept.c).
"""

from __future__ import annotations

#: Connections, over all listeners. The first one is accepted whatever the time.
MOST_ACCEPTS = 16
SHARE_SECONDS = 0.010


class Share:
    __slots__ = ("_ends", "led", "taken")

    def __init__(self) -> None:
        # Both are set anew by the loop when a turn begins.
        self.taken = 0
        self.led = False  # the listeners have had their share of this turn

    def lead(self, now: float) -> None:
        self.led = True
        self._ends = now + SHARE_SECONDS

    def over(self, now: float) -> bool:
        return self.taken >= MOST_ACCEPTS or (self.taken > 0 and now >= self._ends)
