"""What /metrics says is true: across restarts, under load, and of the kernel's queues."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from .clients import Load
from .conftest import Daemon, until

CONTRACT = [
    "forkd_requests_total", "forkd_request_duration_seconds", "forkd_requests_in_flight",
    "forkd_connections", "forkd_connections_accepted_total", "forkd_workers",
    "forkd_worker_exits_total", "forkd_worker_rss_bytes", "forkd_accept_queue_length",
    "forkd_accept_queue_limit", "forkd_leader_promotions_total", "forkd_reloads_total",
    "forkd_generation", "forkd_build_info", "forkd_worker_threads", "forkd_accept_queue_high_water",
    "forkd_accept_queue_high_water_since_start", "forkd_queue_wait_seconds", "forkd_received_bytes_total",
    "forkd_sent_bytes_total", "forkd_worker_cpu_seconds_total", "forkd_uptime_seconds",
    "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds",
    "process_open_fds", "process_max_fds",
]  # fmt: skip


def test_every_name_of_the_contract_is_there(service: Daemon) -> None:
    service.start()
    service.get()
    os.kill(service.worker_pids()[0], signal.SIGTERM)
    until(lambda: service.metric("forkd_worker_exits_total") == 1, "an exit")
    page = service.admin("/metrics")[1]
    for name in CONTRACT:
        assert re.search(rf"^# TYPE {name} ", page, re.M), name
        assert re.search(rf"^{name}(_count)?[{{ ]", page, re.M), name


def test_requests_are_counted_exactly(service: Daemon) -> None:
    service.expected_errors = ["the application failed", "Traceback"]
    service.start()
    with Load(service.address, keep=2, fresh=2) as load:
        load.more(100)
    until(lambda: service.metric("forkd_requests_total", code="200") == load.asked, "all counted")
    assert load.failures == []
    client = service.client()
    client.request("GET", "/fail")
    assert client.getresponse().status == 500
    client.close()
    # A request is counted once its answer has been sent.
    until(lambda: service.metric("forkd_requests_total", code="500") == 1, "counted")
    service.settles(load.asked + 1, "forkd_request_duration_seconds_count")


def counters(service: Daemon) -> dict[str, float]:
    found = {}
    for line in service.admin("/metrics")[1].splitlines():
        match = re.fullmatch(r"(\w+(?:_total|_count|_sum|_bucket)(?:\{.*\})?) (\S+)", line)
        if match:
            found[match[1]] = float(match[2])
    return found


def test_no_counter_ever_decreases(service: Daemon) -> None:
    """Scrapes during load, while children are killed and generations come and go."""
    service.expected_errors = ["SIGKILL"]
    service.start()
    before, kills = counters(service), 0
    with Load(service.address, keep=2, fresh=1) as load:
        for turn in range(30):
            if turn % 10 == 3:
                os.kill(service.leader()["pid"], signal.SIGKILL)
                kills += 1
            if turn % 10 == 7:
                service.signal(signal.SIGHUP)
            load.more(5)
            now = counters(service)
            went_back = {k: (v, now.get(k, 0)) for k, v in before.items() if now.get(k, 0) < v}
            assert not went_back
            before = now
    lost = len(load.failures)
    total = service.metric("forkd_requests_total")
    # A victim may have sent an answer that it did not live to count.
    assert load.asked - kills <= total <= load.asked + lost


def stopped(service: Daemon) -> list[int]:
    """Stop all children, the way a debugger does."""
    pids = service.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(
        lambda: all(" (stopped)" in Path(f"/proc/{p}/status").read_text() for p in pids), "stopped"
    )
    return pids


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_accept_queue_is_the_kernels(service: Daemon, kind: str) -> None:
    path = service.dir / "s.sock"
    service.start("-b", f"unix:{path}" if kind == "unix" else "127.0.0.1:0", "--backlog", "17")
    service.settles(17, "forkd_accept_queue_limit")
    service.settles(0, "forkd_accept_queue_length")
    pids = stopped(service)
    clients = []
    for _ in range(7):
        client = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        client.settimeout(10)
        client.connect(str(path) if kind == "unix" else service.address)
        clients.append(client)
    # A leader that was woken before it was stopped may have none of them, so it is exact.
    until(lambda: service.metric("forkd_accept_queue_length") == 7, "seven wait")
    assert service.live()["listeners"][0]["accept_queue"] == 7
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    until(lambda: service.metric("forkd_accept_queue_length") == 0, "none wait")
    for client in clients:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        client.close()


def test_gauges_return_to_zero(service: Daemon) -> None:
    service.start()
    clients = [service.connect() for _ in range(5)]
    until(lambda: service.metric("forkd_connections") == 5, "five connections")
    for client in clients:
        client.close()
    until(lambda: service.metric("forkd_connections") == 0, "no connection")
    service.settles(0, "forkd_requests_in_flight")


def test_readyz_is_503_while_draining(service: Daemon) -> None:
    service.start()
    with service.connect() as client:
        client.sendall(b"GET /sleep/1.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        service.signal(signal.SIGTERM)
        until(lambda: service.admin("/readyz")[0] == 503, "draining")
        assert service.admin("/healthz")[0] == 200
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
