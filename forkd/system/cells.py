"""The cells of a lane of the scoreboard: one table, which gives them their numbers.

A master hands its totals on to the next one by these numbers, and that may be another version. So a new row
goes to the end, and none is moved, removed or made longer (tests/system/test_cells.py).

Made from it: the size of a lane, what is kept and what is zeroed when a child dies (system/scoreboard.py),
the numbers that native code has (native/system_recorder.c), and the metrics of plain counters (metrics/).
What workers count takes a row here, and `recorder.add(NAME)` where it happens.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    GAUGE = "gauge"  # what is so now, or since when (ns of CLOCK_MONOTONIC): 0 once the child is gone
    COUNTER = "counter"  # kept when the child dies, as the two that follow
    ARRAY = "array"  # of counters
    HISTOGRAMS = "histograms"  # each a sum in ns, and a counter for each bucket


class Cell(NamedTuple):
    name: str  # of the constant
    kind: Kind
    number: int  # of the first, where it has several
    length: int
    main: bool  # in lane 0 only, which is the main thread's; else each lane has it
    metric: str  # of a plain counter; "": it has none, or one that is not the counter alone
    label: tuple[()] | tuple[str, str]  # of the metric: name and value
    help: str


GAUGE, COUNTER, ARRAY, HISTOGRAMS = Kind
_rows: list[Cell] = []


def _cell(
    name: str,
    kind: Kind,
    length: int = 1,
    *,
    main: bool = False,
    metric: str = "",
    label: tuple[()] | tuple[str, str] = (),
    help: str = "",
) -> int:
    """Add a row. Returns its number."""
    number = _rows[-1].number + _rows[-1].length if _rows else 0
    _rows.append(Cell(name, kind, number, length, main, metric, label, help))
    return number


#: Upper bounds of the histograms of durations, seconds.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
DURATION_CELLS = 1 + len(BOUNDS) + 1
#: A status is below this, and 0 where there is none.
STATUSES = 600
#: Why accept(2) failed.
REASONS = ("ECONNABORTED", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "other")
#: Room for so many reasons of forkd's own answers (http.limits.Refusal).
REFUSED_CELLS = 16
#: Room for so many names of fields of proxies (http.grammar.FORWARDED_NAMES), and for so many reasons to drop
#: one (http.forwarded.Drop).
FORWARDED_CELLS = 24
DROP_CELLS = 4
STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
#: The kernel's, of connections (sampled); the master's, of connections that it accepts for its workers; and
#: a worker's, of what waits for a thread.
QUEUES = ("accept", "worker", "thread")
ACCEPT_QUEUE, WORKER_QUEUE, THREAD_QUEUE = range(len(QUEUES))
#: Upper bounds of the histograms of waits, seconds. The kernel's clock of a connection has a tick of up to
#: 10 ms.
WAIT_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WAIT_CELLS = 1 + len(WAIT_BOUNDS) + 1
#: Room for so many storage units, and what is counted of each: calls, how long these took, values that were
#: found and not found, calls that failed, and those of them that gave up on a neighbour.
STORAGE_UNITS = 8
STORAGE_COUNTS = ("calls", "ns", "hits", "misses", "errors", "stalls")

# ---- the table: only appended to ------------------------------------------------------------

# When the child woke to work; 0 while it waits.
WORKING = _cell("WORKING", GAUGE, main=True)
# When the application was entered for the present request; 0 outside it.
REQUEST = _cell("REQUEST", GAUGE)
CONNECTIONS = _cell("CONNECTIONS", GAUGE, main=True)
IN_FLIGHT = _cell("IN_FLIGHT", GAUGE)
# How many further lanes the child has used so far.
LANES = _cell("LANES", GAUGE, main=True)
ACCEPTED = _cell("ACCEPTED", COUNTER, main=True)
PROMOTIONS = _cell(
    "PROMOTIONS", COUNTER, main=True,
    metric="forkd_leader_promotions_total", help="Times a leader promoted a follower.",
)  # fmt: skip
REQUESTS = _cell("REQUESTS", COUNTER)
# Of what has no status (a stream session). The others' are in CLASSES.
DURATION = _cell("DURATION", HISTOGRAMS, DURATION_CELLS)
# By status.
CODES = _cell("CODES", ARRAY, STATUSES)
# By reason of REASONS.
FAILURES = _cell("FAILURES", ARRAY, len(REASONS), main=True)
SHED = _cell(
    "SHED", COUNTER,
    metric="forkd_requests_shed_total",
    help="Requests answered 503 because they had waited for longer than --shed-after.",
)  # fmt: skip
_LOST_METRIC = "forkd_log_lines_lost_total"
_LOST_HELP = "Lines that a log did not take, since there was no room on the disk, or no reader."
LOST_ACCESS = _cell(
    "LOST_ACCESS", COUNTER, metric=_LOST_METRIC, label=("log", "access"), help=_LOST_HELP
)
LOST_ERROR = _cell("LOST_ERROR", COUNTER, metric=_LOST_METRIC, label=("log", "error"), help=_LOST_HELP)
EVICTED = _cell(
    "EVICTED", COUNTER, main=True,
    metric="forkd_connections_evicted_total",
    help="Idle connections that were closed since all --worker-connections were taken.",
)  # fmt: skip
# Answers of forkd's own, by their http.limits.Refusal.
REFUSED = _cell("REFUSED", ARRAY, REFUSED_CELLS)
# Since when all places are taken and no connection is idle; or 0.
FULL_SINCE = _cell("FULL_SINCE", GAUGE, main=True)
# Durations by STATUS_CLASSES.
CLASSES = _cell("CLASSES", HISTOGRAMS, len(STATUS_CLASSES) * DURATION_CELLS)
RECEIVED = _cell(
    "RECEIVED", COUNTER,
    metric="forkd_received_bytes_total", help="Bytes received from clients, as they came.",
)  # fmt: skip
SENT = _cell(
    "SENT", COUNTER,
    metric="forkd_sent_bytes_total", help="Bytes sent to clients, heads and framing included.",
)  # fmt: skip
# By QUEUES.
WAITS = _cell("WAITS", HISTOGRAMS, len(QUEUES) * WAIT_CELLS)
# Since when this thread of a pool has its present task; or 0.
OCCUPIED = _cell("OCCUPIED", GAUGE)
# The entry of the request in REQUEST (system/in_flight.py); 0: it has none.
HELD = _cell("HELD", GAUGE)
# Whose lane it is, as get_ident() has it.
THREAD = _cell("THREAD", GAUGE)
# In flight without an entry: begun in this lane, less those ended in it.
UNLISTED = _cell("UNLISTED", GAUGE)
# Whether an end has begun, which is to store what follows in the cells of the same names; see `Recorder.end`.
ENDING = _cell("ENDING", GAUGE)
# Of the ring of its access log, once the line is there.
END_HEAD = _cell("END_HEAD", GAUGE)
END_STATUS = _cell("END_STATUS", GAUGE)
END_TICKET = _cell("END_TICKET", GAUGE)
END_CODE = _cell("END_CODE", GAUGE)
END_REQUESTS = _cell("END_REQUESTS", GAUGE)
END_DURATION = _cell("END_DURATION", GAUGE)
END_BUCKET = _cell("END_BUCKET", GAUGE)
END_BUCKET_COUNT = _cell("END_BUCKET_COUNT", GAUGE)
END_IN_FLIGHT = _cell("END_IN_FLIGHT", GAUGE)
END_UNLISTED = _cell("END_UNLISTED", GAUGE)
# Fields of proxies that were dropped: for each http.forwarded.Drop the names of http.grammar.FORWARDED_NAMES.
DROPPED = _cell("DROPPED", ARRAY, DROP_CELLS * FORWARDED_CELLS)
_PROXY_METRIC = "forkd_proxy_headers_refused_total"
_PROXY_HELP = (
    "Connections that were closed for want of a good header of the PROXY protocol: the peer is not one of "
    "--forwarded-allow (untrusted), its bytes are no header (missing) or a wrong one (malformed), or it was "
    "not whole in time, or when the peer left (incomplete)."
)
PROXY_UNTRUSTED = _cell(
    "PROXY_UNTRUSTED", COUNTER, metric=_PROXY_METRIC, label=("reason", "untrusted"), help=_PROXY_HELP
)
PROXY_MISSING = _cell(
    "PROXY_MISSING", COUNTER, metric=_PROXY_METRIC, label=("reason", "missing"), help=_PROXY_HELP
)
PROXY_MALFORMED = _cell(
    "PROXY_MALFORMED", COUNTER, metric=_PROXY_METRIC, label=("reason", "malformed"), help=_PROXY_HELP
)
PROXY_INCOMPLETE = _cell(
    "PROXY_INCOMPLETE", COUNTER, metric=_PROXY_METRIC, label=("reason", "incomplete"), help=_PROXY_HELP
)
UWSGI_UNTRUSTED = _cell(
    "UWSGI_UNTRUSTED", COUNTER, metric="forkd_uwsgi_connections_refused_total",
    help="Connections to a listener of the uwsgi protocol that were closed: the peer is not one of "
    "--forwarded-allow.",
)  # fmt: skip
# Of storage units that are not in shared memory, in their order: STORAGE_COUNTS for each.
STORAGE = _cell("STORAGE", ARRAY, STORAGE_UNITS * len(STORAGE_COUNTS), main=True)
# Open ones, after their handshake. They are in IN_FLIGHT, too.
WEBSOCKETS = _cell("WEBSOCKETS", GAUGE, main=True)
# How long the event loop took from waking up until it waited again.
TURNS = _cell("TURNS", HISTOGRAMS, WAIT_CELLS, main=True)
LOOP_BLOCKED = _cell(
    "LOOP_BLOCKED", COUNTER, main=True, metric="forkd_loop_blocked_total",
    help="Turns of an event loop that took longer than --lag-limit.",
)  # fmt: skip

# ---- what is made from it -------------------------------------------------------------------

TABLE = tuple(_rows)
#: How many a lane has.
CELLS = sum(row.length for row in TABLE)
#: As native code asks for them.
NUMBERS = {row.name: row.number for row in TABLE}


def _numbers(rows: list[Cell]) -> tuple[int, ...]:
    return tuple(number for row in rows for number in range(row.number, row.number + row.length))


#: Zeroed when the child, or the thread, is gone.
GAUGES = _numbers([row for row in TABLE if row.kind is GAUGE])
#: Folded into the base when the child dies.
COUNTERS = _numbers([row for row in TABLE if row.kind is not GAUGE])
#: In lane 0 only.
MAIN = frozenset(_numbers([row for row in TABLE if row.main]))
#: The histograms of durations: of what has no status, and by STATUS_CLASSES.
DURATION_BLOCKS: tuple[int, ...] = (DURATION, *range(CLASSES, RECEIVED, DURATION_CELLS))
