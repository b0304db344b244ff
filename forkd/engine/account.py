"""The account of a dead process: a count and a line of the access log for each request that it left
unanswered.

In the master for its children, and in a worker for the processes that it has forked for clients.
"""

from __future__ import annotations

from forkd.log.lines import AccessLog
from forkd.system.left import Left
from forkd.system.scoreboard import Row

BAD_GATEWAY, GATEWAY_TIMEOUT = 502, 504
#: Of one process: all at once go into a ring, which has room for more than these.
_MAX_LINES = 1000


def account_for(
    left: Left,
    late: bool,
    reason: str,
    row: Row,
    access: AccessLog | None,
    now: int,
    told: dict[int, int],
) -> None:
    """Count what is left in `row`, which has no other writer, and log it. `late`: forkd killed the process
    for being late; otherwise it crashed, or was killed from outside. A conversation of a TCP protocol has no
    status, and no line. `now`: ns of CLOCK_MONOTONIC. `told`: bytes of body that clients were sent, by the
    place of the request."""
    status = GATEWAY_TIMEOUT if late else BAD_GATEWAY
    lines = 0
    for request in sorted(left.requests, key=lambda each: not each.held):  # what held a thread has a line
        took = now - request.began
        row.finish(0 if request.is_stream else status, took)
        if access is not None and not request.is_stream and lines < _MAX_LINES:
            size = told.get(request.place, 0)
            access.broken(request.client, request.line, status, size, took, reason, request.id)
            lines += 1
    named = [request for request in left.requests if not request.is_stream]
    # All that a process has in flight is of one kind: it has one application.
    streams = bool(left.requests) and not named
    for _ in range(left.more):
        row.finish(0 if streams else status, 0)
    unnamed = len(named) - lines + (0 if streams else left.more)
    if access is not None:
        if unnamed:
            access.broken("-", b"-", status, 0, 0, f"{reason}; and {unnamed} more requests like these")
        access.flush()
