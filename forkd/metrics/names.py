"""Every metric, declared once: the collector and docs/reference/metrics.md are made from it.

Names are the contract's. Counters end in _total here and in the text format.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    name: str
    kind: str  # counter, gauge or histogram
    labels: tuple[str, ...]
    help: str


METRICS: tuple[Metric, ...] = (
    Metric("forkd_requests_total", "counter", ("code",), "Requests answered, by status code."),
    Metric(
        "forkd_request_duration_seconds", "histogram", (),
        "Time from the complete request to the end of its response.",
    ),
    Metric(
        "forkd_requests_shed_total", "counter", (),
        "Requests answered 503 because they had waited for longer than --shed-after.",
    ),
    Metric(
        "forkd_requests_refused_total", "counter", ("reason",),
        "Answers of forkd's own, by reason. Refused before the application was called: malformed, "
        "head-timeout, body-timeout, body-too-large, line-too-long, expectation, head-too-large, "
        "not-implemented, http-version, no-room, overload. The application was called, and failed: "
        "application-failed (500), broken-off (in the middle of its answer).",
    ),
    Metric("forkd_requests_in_flight", "gauge", (), "Requests being served now, and stream sessions."),
    Metric("forkd_connections", "gauge", (), "Open client connections."),
    Metric(
        "forkd_connections_accepted_total", "counter", ("worker",),
        "Connections accepted, by worker slot.",
    ),
    Metric(
        "forkd_connections_evicted_total", "counter", (),
        "Idle connections that were closed to make room, for want of --worker-connections.",
    ),
    Metric(
        "forkd_workers_full", "gauge", (),
        "Workers that have no place left for a connection, and nobody idle who could make room.",
    ),
    Metric("forkd_workers", "gauge", ("state",), "Workers, by state."),
    Metric("forkd_workers_wanted", "gauge", (), "Workers that the present generation should have."),
    Metric("forkd_worker_exits_total", "counter", ("reason",), "Workers gone, by reason."),
    Metric("forkd_worker_rss_bytes", "gauge", ("worker",), "Resident memory of a worker."),
    Metric("forkd_accept_queue_length", "gauge", ("listener",), "Connections waiting to be accepted."),
    Metric("forkd_accept_queue_limit", "gauge", ("listener",), "Connections that the accept queue can hold."),
    Metric(
        "forkd_accept_errors_total", "counter", ("reason",),
        "Failures of accept(2), and connections closed as nothing could wait for them, by errno.",
    ),
    Metric("forkd_leader_promotions_total", "counter", (), "Times a leader promoted a follower."),
    Metric(
        "forkd_lease_grants_total", "counter", (),
        "Times the master gave leadership to an idle worker because the leader was busy or stopped.",
    ),
    Metric("forkd_sigio_rings_total", "counter", (), "Times that the doorbell rang, by SIGIO or by epoll."),
    Metric(
        "forkd_log_lines_lost_total", "counter", ("log",),
        "Lines that a log did not take, for want of room on the disk or of a reader.",
    ),
    Metric(
        "forkd_log_write_seconds", "gauge", ("log",),
        "For how long the logger's present write to a log's file has not returned; 0 when there is none.",
    ),
    Metric("forkd_reloads_total", "counter", ("result",), "Reloads, by result."),
    Metric("forkd_generation", "gauge", (), "Number of the serving generation."),
    Metric("forkd_ready", "gauge", (), "1 when all wanted workers are ready, as /readyz says."),
    Metric(
        "forkd_io_fallback", "gauge", (),
        "1 when the configured --io is denied here, and another model serves instead.",
    ),
    Metric("forkd_build_info", "gauge", ("version", "python", "model", "io", "accept"), "Always 1."),
)  # fmt: skip
