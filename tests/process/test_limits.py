"""--timeout, --max-requests, --max-rss, and the crash-loop breaker."""

from __future__ import annotations

import re
import signal

import pytest

from .clients import Load
from .conftest import Daemon, until


@pytest.mark.parametrize("path", ["/sleep/30", "/c/30"])
def test_a_stuck_request_is_killed_with_its_stacks_and_line(service: Daemon, path: str) -> None:
    service.expected_errors = [r"--timeout", r"gone: timeout"]
    service.start("--timeout", "1")
    with service.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        stuck = next(w["pid"] for w in service.workers() if w["in_flight"])
        with Load(service.address, fresh=1) as load:
            load.more(20)  # the other child goes on
            assert client.recv(100).startswith(b"HTTP/1.1 504 ")
            until(lambda: len(service.workers()) == 2, "another in its place")
        assert load.failures == []
    assert stuck not in service.worker_pids()
    until(lambda: f"GET {path} HTTP/1.1" in service.log(), "its request line")
    until(lambda: "hread 0x" in service.log(), "its threads")
    frame = r'File ".*app\.py", line \d+ in app'
    until(lambda: re.search(frame, service.log()), "its stack")
    service.settles(1, "forkd_worker_exits_total", reason="timeout")


def test_a_request_within_the_limit_is_left_alone(service: Daemon) -> None:
    service.start("--timeout", "2")
    before = service.worker_pids()
    assert service.get("/sleep/1.2") == "slept"
    assert service.worker_pids() == before


def test_children_are_replaced_after_so_many_requests_and_nobody_notices(
    service: Daemon,
) -> None:
    service.start("--max-requests", "50", "--max-requests-jitter", "20")
    before = set(service.worker_pids())
    with Load(service.address, keep=2, fresh=2) as load:
        load.more(500)
        until(lambda: not before & set(service.worker_pids()), "all replaced")
        assert len(service.workers()) >= 2
    assert load.failures == []
    exits = "forkd_worker_exits_total"
    until(lambda: service.metric(exits, reason="max-requests") >= 2, "both exits are counted")


@pytest.mark.parametrize(
    "flags", [[], ["--preload"], ["-m", "half-sync-half-async"], ["--accept", "reuseport"]], ids=" ".join
)
def test_children_are_replaced_at_an_age_one_at_a_time_and_nobody_notices(
    service: Daemon, flags: list[str]
) -> None:
    service.start("-w", "3", "--max-age", "1s", "--max-age-jitter", "500ms", *flags)
    before = set(service.worker_pids())
    with Load(service.address, keep=2, fresh=2) as load:

        def all_replaced() -> bool:
            living = service.live()["workers"]
            ready = [w for w in living if w["state"] == "ready"]
            assert len(ready) >= 3
            assert len([w for w in living if w["state"] in ("starting", "ready")]) <= 4
            assert {w["number"] for w in ready} == {1, 2, 3}  # also while they overlap
            return not before & {w["pid"] for w in ready}

        until(all_replaced, "all replaced", 30)
    assert load.failures == []
    until(lambda: service.metric("forkd_worker_exits_total", reason="max-age") >= 3, "their exits")


def test_no_child_is_replaced_for_its_age_while_its_successor_cannot_boot(service: Daemon) -> None:
    service.expected_errors = [""]
    service.start("--max-age", "1s")
    before = service.worker_pids()
    service.write_app("raise LookupError('broken on purpose')\n")
    until(lambda: service.metric("forkd_worker_exits_total", reason="boot") >= 3, "tries", 20)
    assert service.worker_pids() == before
    assert service.get() == "v1"
    service.write_app(version="v2")
    until(lambda: not set(before) & set(service.worker_pids()), "replaced", 20)
    assert service.get() == "v2"


def test_a_child_that_grew_too_fat_is_replaced(service: Daemon) -> None:
    service.start("--max-rss", "80M")
    before = service.worker_pids()
    assert service.get("/grow") == "grown"
    with Load(service.address, keep=1) as load:
        until(
            lambda: service.worker_pids() != before and len(service.workers()) == 2, "replaced", 12
        )
        until(lambda: service.metric("forkd_worker_exits_total", reason="max-rss") == 1, "its exit")
        load.more(5)
    assert load.failures == []
    until(lambda: "--max-rss" in service.log(), "the line in the log")


def test_an_app_that_exits_is_forked_again(service: Daemon) -> None:
    service.expected_errors = ["gone: error"]
    service.start()
    with service.connect() as client:
        client.sendall(b"GET /exit HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(100) == b""
    until(lambda: len(service.workers()) == 2, "another in its place")
    assert service.get() == "v1"


def test_a_crash_loop_is_explained_and_ends_when_the_app_is_mended(service: Daemon) -> None:
    service.expected_errors = [""]
    service.start()
    service.write_app("raise LookupError('broken on purpose')\n")
    import os

    for pid in service.worker_pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: service.live()["master"]["state"] == "crash-loop", "the breaker", 15)
    status, why = service.admin("/readyz")
    assert status == 503
    assert "children in a row crashed" in why
    assert "broken on purpose" not in why  # any client may ask, and an exception may quote a password
    assert "the last error: LookupError: broken on purpose" in service.live()["master"]["why"]
    until(lambda: "crash loop" in service.log(), "the line in the log")
    assert "crash-loop" in service.ok("status")
    tries = service.metric("forkd_worker_exits_total", reason="boot")
    assert tries < 20  # delays grow, so it is no busy loop
    assert service.admin("/healthz")[0] == 200
    service.write_app(version="v2")
    service.signal(signal.SIGHUP)
    until(lambda: service.admin("/readyz")[0] == 200, "ready again")
    assert service.get() == "v2"
    assert service.live()["master"]["state"] == "running"
