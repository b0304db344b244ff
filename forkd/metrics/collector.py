"""The scoreboard and the master's state as the values of the metrics. In the master, at each scrape."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from forkd import __version__
from forkd.http.forwarded import Drop
from forkd.http.grammar import FORWARDED_NAMES
from forkd.http.limits import Refusal
from forkd.system.cells import DROPPED, FORWARDED_CELLS, REFUSED, TABLE
from forkd.system.scoreboard import Scoreboard

#: Cumulative counts by upper bound, and a sum in seconds.
Histogram = tuple[list[tuple[str, float]], float]


#: Of storage units: what of their status, and the end of the metric's name.
STORAGE_WORDS = {
    "calls": "calls_total", "hits": "hits_total", "misses": "misses_total", "errors": "errors_total",
    "stalls": "stalls_total", "evictions": "evictions_total", "keys": "keys", "bytes": "bytes",
}  # fmt: skip


class Sample(NamedTuple):
    """All values of one scrape."""

    values: dict[str, list[tuple[list[str], float]]]  # (label values, value) pairs by metric name
    histograms: dict[str, dict[str, Histogram]]  # by metric name, and the value of its label; "": it has none


def dropped_fields(board: Scoreboard) -> list[tuple[str, str, int]]:
    """Name, reason and count of the fields of proxies that were dropped."""
    return [
        (name.decode(), why.label, count)
        for why in Drop
        for place, name in enumerate(FORWARDED_NAMES)
        if (count := board.total(DROPPED + why * FORWARDED_CELLS + place))
    ]


def gather(board: Scoreboard, status: Mapping[str, Any], exits: Mapping[str, int]) -> Sample:
    """Read everything now. `status` is what /status.json serves."""
    master, workers = status["master"], status["workers"]
    states = dict.fromkeys(("starting", "ready", "retiring", "killed"), 0)
    for worker in workers:
        states[worker["state"]] += 1
    cpu = {w["slot"]: w["cpu_seconds"] for w in workers}
    doorbell = status["doorbell"]
    one = _alone
    values: dict[str, list[tuple[list[str], float]]] = {
        "forkd_requests_total": [([str(code)], n) for code, n in sorted(board.codes().items())],
        "forkd_requests_refused_total": [
            ([kind.label], board.total(REFUSED + kind)) for kind in Refusal
        ],
        "forkd_forwarded_fields_dropped_total": [
            ([name, why], count) for name, why, count in dropped_fields(board)
        ],
        "forkd_requests_in_flight": one(sum(w["in_flight"] for w in workers)),
        "forkd_requests_suspended": one(sum(w["suspended"] for w in workers)),
        "forkd_websockets": one(sum(w["websockets"] for w in workers)),
        "forkd_connections": one(sum(w["connections"] for w in workers)),
        "forkd_connections_accepted_total": [
            ([str(slot)], board.accepted(slot))
            for slot in range(1, board.slots + 1)
            if board.accepted(slot) or any(w["slot"] == slot for w in workers)
        ],
        "forkd_workers_full": one(sum(w["full_for"] is not None for w in workers)),
        "forkd_workers": [([state], n) for state, n in states.items()],
        "forkd_workers_wanted": one(master["workers_wanted"]),
        "forkd_worker_exits_total": [([reason], n) for reason, n in sorted(exits.items())],
        "forkd_worker_threads": [
            ([state], sum(w["threads"][state] for w in workers)) for state in ("busy", "idle")
        ],
        "forkd_worker_rss_bytes": [([str(w["slot"])], w["rss_bytes"]) for w in workers],
        "forkd_worker_cpu_seconds_total": [
            ([str(slot)], board.cpu_ns(slot) / 1e9 + cpu.get(slot, 0.0))
            for slot in range(1, board.slots + 1)
            if board.cpu_ns(slot) or slot in cpu
        ],
        "forkd_accept_queue_length": [
            ([x["address"]], x["accept_queue"]) for x in status["listeners"]
        ],
        "forkd_accept_queue_limit": [([x["address"]], x["backlog"]) for x in status["listeners"]],
        "forkd_accept_queue_high_water": [
            ([x["address"]], x["high_water"]["recent"]) for x in status["listeners"]
        ],
        "forkd_accept_queue_high_water_since_start": [
            ([x["address"]], x["high_water"]["since_start"]) for x in status["listeners"]
        ],
        "forkd_accept_errors_total": [([reason], n) for reason, n in board.failures().items()],
        "forkd_lease_grants_total": one(doorbell["grants"]),
        "forkd_sigio_rings_total": one(doorbell["rings"]),
        "forkd_log_write_seconds": [
            ([log], seconds) for log, seconds in status["logger"]["waits"].items()
        ],
        "forkd_reloads_total": [([result], n) for result, n in sorted(master["reloads"].items())],
        "forkd_generation": one(master["generation"]),
        "forkd_uptime_seconds": one(master["uptime"]),
        "forkd_ready": one(0 if master["why"] else 1),
        "forkd_io_fallback": one(1 if master["io_fallback"] else 0),
        "forkd_build_info": [
            (
                [
                    __version__,
                    sys.version.partition(" ")[0],
                    master["model"],
                    master["io"],
                    master["accept"],
                    str(master["native"]).lower(),
                ],
                1,
            )
        ],
    }
    for word in STORAGE_WORDS:
        units = [([x["name"]], x[word]) for x in status["storage"] if word in x]
        values[f"forkd_storage_{STORAGE_WORDS[word]}"] = units
    values["forkd_storage_call_seconds_total"] = [
        ([x["name"]], x["ns"] / 1e9) for x in status["storage"] if "ns" in x
    ]
    for cell in TABLE:
        if cell.metric:
            sample = list(cell.label[1:]), board.total(cell.number)
            values.setdefault(cell.metric, []).append(sample)
    histograms = {
        "forkd_request_duration_seconds": board.durations(),
        "forkd_queue_wait_seconds": board.waits(),
        "forkd_loop_lag_seconds": {"": board.turns()},
    }
    return Sample(values, histograms)


def _alone(value: float) -> list[tuple[list[str], float]]:
    return [([], value)]
