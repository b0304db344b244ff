"""The time that requests of a route take, learned so that routes that block can be told from the others.

With it the leader gives leadership away before a request that is likely to block, and one thread is kept from
long routes. A route is a method and a path, in which segments that hold a digit, and so may name one thing of
many, are all the same. Only routes that have blocked lately are remembered; an application that never blocks
costs nothing here. Used by all threads of a child: an update that is lost to a race does no harm.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import log2

#: Time in the application that counts as blocking.
SLOW_SECONDS = 0.0005
_SLOW_LOG2 = log2(SLOW_SECONDS)
_UNKNOWN_LOG2 = log2(SLOW_SECONDS / 8)  # the time assumed of a route before it has blocked
_REQUEST_WEIGHT = 0.3  # of one request in the mean of its route
_LONG_LOG2 = 3.0  # log2: a route is long above 8 times the typical time
_STEP_LOG2 = 0.1  # by which the typical time moves with each request
MAX_ROUTES = 1024
_MAX_ROUTE_BYTES = 128
_USUAL_LINE_BYTES = 256  # routes of longer request lines are not cached
_SURPRISE_WEIGHT = 0.1  # of one request in the share of surprises
_NEGLIGIBLE_SHARE = 1e-6  # counts as none: about a hundred requests after the last that blocked
#: Above this share of surprises, and until it falls below half of it, any request may block.
_EAGER_SHARE = 0.3

_VARIABLE = re.compile(rb"(?<=/)[^/]*\d[^/]*")


def route_of(line: bytes) -> bytes:
    """The route of the request with this line; at most 128 bytes of it."""
    return _route_of(line) if len(line) <= _USUAL_LINE_BYTES else _route_of.__wrapped__(line)


@lru_cache(1024)
def _route_of(line: bytes) -> bytes:
    return _VARIABLE.sub(b"*", line[: line.rfind(b" ")].partition(b"?")[0])[:_MAX_ROUTE_BYTES]


class Routes:
    def __init__(self) -> None:
        self.surprises = 0.0  # of recent requests that were not known to block, the share that did
        self._eager = False
        self._typical = _UNKNOWN_LOG2  # a running median of what requests take
        # Binary logarithms of seconds, of which the mean is taken: then one request that was held up for
        # once, by whatever it was, makes no slow route.
        self._takes: dict[bytes, float] = {}

    @property
    def alert(self) -> bool:
        """Whether any request has blocked lately."""
        return self.surprises > 0.0 or bool(self._takes)

    @property
    def wary(self) -> bool:
        """Whether there is any request that `blocks` is true of."""
        return self._eager or bool(self._takes)

    def blocks(self, route: bytes) -> bool:
        """Whether a request of this route is likely to block."""
        takes = self._takes.get(route)
        return self._eager if takes is None else takes > _SLOW_LOG2

    def long(self, route: bytes) -> bool:
        """Whether it is likely to take many times what is typical, so that the others should not wait for
        it. Where most requests take long, none does."""
        takes = self._takes.get(route, _UNKNOWN_LOG2)
        return takes > _SLOW_LOG2 and takes > self._typical + _LONG_LOG2

    def judge(self, route: bytes, seconds: float) -> None:
        """Learn that a request of this route took so many seconds. One that did not block may be left out,
        unless `alert`."""
        blocked, took = seconds > SLOW_SECONDS, log2(max(seconds, 1e-9))
        self._typical += _STEP_LOG2 if took > self._typical else -_STEP_LOG2
        takes = self._takes.get(route)
        if takes is None:
            share = self.surprises + _SURPRISE_WEIGHT * (blocked - self.surprises)
            self.surprises = share if share > _NEGLIGIBLE_SHARE else 0.0
            self._eager = share > (_EAGER_SHARE / 2 if self._eager else _EAGER_SHARE)
            if not blocked or not route:
                return
            if len(self._takes) >= MAX_ROUTES:
                self._takes.clear()  # what comes again is soon known again
            takes = _UNKNOWN_LOG2
        takes += _REQUEST_WEIGHT * (took - takes)
        if blocked or takes > _SLOW_LOG2 - 2:
            self._takes[route] = takes
        else:
            self._takes.pop(route, None)
