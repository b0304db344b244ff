"""Every metric, declared once: the collector and docs/reference/metrics.md are made from it.

Names are the contract's. Counters end in _total here and in the text format. Plain counters of workers are
declared by their rows in system/cells.py. PROCESS is what prometheus-client tells of the master itself.
"""

from __future__ import annotations

from typing import NamedTuple

from forkd.system.cells import TABLE


class Metric(NamedTuple):
    name: str
    kind: str  # counter, gauge or histogram
    labels: tuple[str, ...]
    help: str


#: Of plain counters, by name.
COUNTERS: dict[str, Metric] = {
    cell.metric: Metric(cell.metric, "counter", cell.label[:1], cell.help)
    for cell in TABLE
    if cell.metric
}

#: In the order of the page; what stands here by its name alone is one of COUNTERS, and those that do not
#: stand here follow.
_ORDER: tuple[Metric | str, ...] = (
    Metric("forkd_requests_total", "counter", ("code",), "Requests answered, by status code."),
    Metric(
        "forkd_request_duration_seconds", "histogram", ("class",),
        "Time from the complete request to the end of its response, by class of status: 1xx to 5xx; none "
        "for stream sessions.",
    ),
    Metric(
        "forkd_queue_wait_seconds", "histogram", ("queue",),
        "Time in a queue: accept, of TCP connections in the kernel's (of one per 50 ms and process that "
        "accepts); worker, of connections between the master's accept and their worker; thread, of what "
        "waits for a thread.",
    ),
    Metric(
        "forkd_loop_lag_seconds", "histogram", (),
        "Time that turns of event loops took, under ASGI and for asyncio protocols: what was ready by then "
        "had to wait for that.",
    ),
    "forkd_loop_blocked_total",
    "forkd_received_bytes_total",
    "forkd_sent_bytes_total",
    "forkd_requests_shed_total",
    Metric(
        "forkd_requests_refused_total", "counter", ("reason",),
        "Answers of forkd's own, by reason. Refused before the application was called: malformed, "
        "head-timeout, body-timeout, body-too-large, line-too-long, expectation, head-too-large, "
        "not-implemented, http-version, no-room, overload, host (none of --allowed-hosts), concurrency "
        "(--limit-concurrency). The application was called, and failed: application-failed (500), broken-off "
        "(in the middle of its answer), request-timeout (504, or a reset in the middle of its answer).",
    ),
    Metric(
        "forkd_forwarded_fields_dropped_total", "counter", ("field", "reason"),
        "Header fields of proxies that the application was not given, by name and reason: untrusted (the "
        "peer is none of --forwarded-allow), not-chosen (the field is none of --forwarded-fields), "
        "malformed.",
    ),
    Metric("forkd_requests_in_flight", "gauge", (), "Requests being served now, and stream sessions."),
    Metric(
        "forkd_requests_suspended", "gauge", (),
        "Requests in flight under ASGI that wait, for the application, for their client or for the loop; "
        "without WebSockets.",
    ),
    Metric("forkd_websockets", "gauge", (), "Open WebSockets; they are in forkd_requests_in_flight, too."),
    Metric("forkd_connections", "gauge", (), "Open client connections."),
    Metric(
        "forkd_connections_accepted_total", "counter", ("worker",),
        "Connections accepted, by worker slot.",
    ),
    "forkd_connections_evicted_total",
    Metric(
        "forkd_workers_full", "gauge", (),
        "Workers that have no place left for a connection, and no idle connection that could make room.",
    ),
    Metric("forkd_workers", "gauge", ("state",), "Workers, by state."),
    Metric("forkd_workers_wanted", "gauge", (), "Workers that the present generation should have."),
    Metric("forkd_worker_exits_total", "counter", ("reason",), "Workers gone, by reason."),
    Metric(
        "forkd_worker_threads", "gauge", ("state",),
        "Threads that can serve a request, by state: busy or idle. Where a worker has no pool, the worker "
        "itself.",
    ),
    Metric("forkd_worker_rss_bytes", "gauge", ("worker",), "Resident memory of a worker."),
    Metric(
        "forkd_worker_cpu_seconds_total", "counter", ("worker",),
        "Processor time of the workers in a slot, with their own children's that have ended.",
    ),
    Metric("forkd_accept_queue_length", "gauge", ("listener",), "Connections waiting to be accepted."),
    Metric("forkd_accept_queue_limit", "gauge", ("listener",), "Connections that the accept queue can hold."),
    Metric(
        "forkd_accept_queue_high_water", "gauge", ("listener",),
        "Greatest length of the accept queue that the master saw in the last 60 seconds.",
    ),
    Metric(
        "forkd_accept_queue_high_water_since_start", "gauge", ("listener",),
        "Greatest length of the accept queue that the master has seen since the service was started.",
    ),
    Metric(
        "forkd_accept_errors_total", "counter", ("reason",),
        "Failures of accept(2), and connections closed as nothing could wait for them, by errno.",
    ),
    "forkd_leader_promotions_total",
    Metric(
        "forkd_lease_grants_total", "counter", (),
        "Times the master gave leadership to an idle worker because the leader was busy or stopped.",
    ),
    Metric("forkd_sigio_rings_total", "counter", (), "Times that the doorbell rang, by SIGIO or by epoll."),
    "forkd_log_lines_lost_total",
    Metric(
        "forkd_log_write_seconds", "gauge", ("log",),
        "For how long the logger's present write to a log's file has not returned; 0 when there is none.",
    ),
    Metric(
        "forkd_storage_calls_total", "counter", ("unit",),
        "Calls of a storage unit that is a file or a server, by workers. Shared memory does not count them.",
    ),
    Metric("forkd_storage_call_seconds_total", "counter", ("unit",), "Time that these calls took."),
    Metric("forkd_storage_hits_total", "counter", ("unit",), "Values of a storage unit that were found."),
    Metric("forkd_storage_misses_total", "counter", ("unit",), "Values that were not there."),
    Metric(
        "forkd_storage_errors_total", "counter", ("unit",),
        "Calls that failed, of a unit that is a file or a server: unavailable, stalled, full, too large.",
    ),
    Metric(
        "forkd_storage_stalls_total", "counter", ("unit",),
        "Calls that gave up since a process had stopped in the middle of an update.",
    ),
    Metric("forkd_storage_evictions_total", "counter", ("unit",), "Values that shared memory had to evict."),
    Metric("forkd_storage_keys", "gauge", ("unit",), "Values in shared memory."),
    Metric("forkd_storage_bytes", "gauge", ("unit",), "Bytes of shared memory in use."),
    Metric("forkd_reloads_total", "counter", ("result",), "Reloads, by result."),
    Metric("forkd_generation", "gauge", (), "Number of the serving generation."),
    Metric("forkd_uptime_seconds", "gauge", (), "Time since this master was started."),
    Metric("forkd_ready", "gauge", (), "1 when all wanted workers are ready, as /readyz says."),
    Metric(
        "forkd_io_fallback", "gauge", (),
        "1 when the configured --io is denied here, and another model serves instead.",
    ),
    Metric(
        "forkd_build_info", "gauge", ("version", "python", "model", "io", "accept", "native"),
        "Always 1; native is true or false.",
    ),
)  # fmt: skip

METRICS: tuple[Metric, ...] = (
    *(COUNTERS[row] if isinstance(row, str) else row for row in _ORDER),
    *(metric for name, metric in COUNTERS.items() if name not in _ORDER),
)

PROCESS: tuple[Metric, ...] = (
    Metric("process_cpu_seconds_total", "counter", (), "Processor time of the master."),
    Metric("process_resident_memory_bytes", "gauge", (), "Resident memory of the master."),
    Metric("process_virtual_memory_bytes", "gauge", (), "Virtual memory of the master."),
    Metric("process_start_time_seconds", "gauge", (), "When the master was started, in Unix time."),
    Metric("process_open_fds", "gauge", (), "Open descriptors of the master."),
    Metric("process_max_fds", "gauge", (), "Descriptors that the master may have open."),
)  # fmt: skip
