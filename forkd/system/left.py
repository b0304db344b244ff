"""The requests that a dead process has left in flight, for its parent: the master, or a worker that forked
it."""

from __future__ import annotations

from typing import NamedTuple

from forkd.system.cells import HELD, REQUEST, THREAD, UNLISTED
from forkd.system.in_flight import Request
from forkd.system.scoreboard import Row

#: No child has as many requests in flight that have no entry.
_MAX_UNLISTED_REQUESTS = 1 << 20


class Left(NamedTuple):
    """The requests that a dead process had in flight."""

    requests: list[Request]  # the first to begin comes first
    more: int  # others, of which no more is known


def left_by(rows: list[Row], heads: list[int], pool: bool, now: int) -> Left:
    """The requests that a dead process had in flight, of which these are the lanes, and those the heads of
    the rings that each lane's lines went to. `pool`: that of the slot was its own."""
    entries = rows[0].entries
    for row, head in zip(rows, heads, strict=True):
        row.complete(head)
    places = [row.place for row in rows] + (list(entries.of_pool()) if pool else [])
    found = {place: request for place in places if (request := entries.request(place, now))}
    for row in rows:
        since = row.cells[REQUEST]
        if (request := found.get(row.cells[HELD])) and request.began <= since <= now:
            found[request.place] = request._replace(held=since, thread=row.cells[THREAD])
    more = sum(row.cells[UNLISTED] for row in rows)
    return Left(sorted(found.values()), more if 0 < more < _MAX_UNLISTED_REQUESTS else 0)
