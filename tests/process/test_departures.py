"""The report of a child that was killed or died: in the error log, and in `forkd status --json`."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

import pytest

from .conftest import Daemon, until

#: What can hold or end a child, by path.
APP = """
    import ctypes, os, re, time

    def app(environ, start):
        path = environ["PATH_INFO"]
        if path == "/sleep":
            sleeping()
        elif path == "/segv":
            ctypes.string_at(0)
        elif path == "/exit":
            os._exit(3)
        elif path == "/gil":  # PyDLL keeps the GIL
            left = 60
            while left:  # a signal ends a sleep(3) early
                left = ctypes.PyDLL(None).sleep(left)
        elif path == "/regex":
            re.match("(a+)+b", "a" * 60)
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def sleeping():
        time.sleep(60)
"""


def ask(service: Daemon, path: str) -> tuple[socket.socket, int]:
    """Send a request that will not be answered: the connection, and the pid of who serves it."""
    client = service.connect()
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    if path in ("/segv", "/exit"):
        return client, 0
    busy = until(lambda: [w for w in service.workers() if w["in_flight"]], "in flight")
    return client, busy[0]["pid"]


def departures(service: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.live()["departures"]
    return found


def the_departure(service: Daemon) -> dict[str, Any]:
    return until(lambda: departures(service), f"a departure: {service.log()}", 20)[-1]


def test_killed_from_outside(service: Daemon) -> None:
    service.expected_errors = ["gone: SIGKILL"]
    service.write_app(APP)
    service.start()
    assert departures(service) == []
    client, pid = ask(service, "/sleep")
    with client:
        os.kill(pid, signal.SIGKILL)
        assert client.recv(100) == b""
    found = the_departure(service)
    assert found["pid"] == pid
    assert (found["reason"], found["signal"], found["exit_code"]) == ("SIGKILL", "SIGKILL", None)
    assert found["request"] == "GET /sleep HTTP/1.1"
    assert found["busy_for"] >= 0
    assert found["stacks"] is None  # there was no time
    assert found["fault"] is None
    assert found["peak_rss_bytes"] > 1 << 20
    assert found["generation"] == 1
    assert service.status()["departures"] == [found]
    until(lambda: 'it was serving "GET /sleep HTTP/1.1" for ' in service.log(), "the line in the log")


def test_killed_from_outside_while_it_retires(service: Daemon) -> None:
    """The reason is what ended it, not what it was asked to go for."""
    service.expected_errors = ["gone: SIGKILL"]
    service.write_app(APP)
    service.start()
    client, pid = ask(service, "/sleep")
    with client:
        service.signal(signal.SIGHUP)
        until(lambda: service.workers("retiring"), "retiring")
        os.kill(pid, signal.SIGKILL)
        assert client.recv(100) == b""
    found = the_departure(service)
    assert (found["pid"], found["generation"], found["reason"]) == (pid, 1, "SIGKILL")
    service.settles(1, "forkd_worker_exits_total", reason="SIGKILL")


def test_a_segmentation_fault_has_the_stack_of_the_app(service: Daemon) -> None:
    service.expected_errors = ["gone: SIGSEGV"]
    service.write_app(APP)
    service.start("-w", "1")
    assert service.get("/") == "ok"
    with ask(service, "/segv")[0] as client:
        assert client.recv(100) == b""
    found = the_departure(service)
    assert (found["reason"], found["signal"]) == ("SIGSEGV", "SIGSEGV")
    assert "Segmentation fault" in found["stacks"]
    assert " in app" in found["stacks"]
    assert found["request"] == "GET /segv HTTP/1.1"
    assert found["requests"] == 1


def test_an_app_that_exits(service: Daemon) -> None:
    service.expected_errors = ["gone: error"]
    service.write_app(APP)
    service.start()
    with ask(service, "/exit")[0] as client:
        assert client.recv(100) == b""
    found = the_departure(service)
    assert (found["reason"], found["signal"], found["exit_code"]) == ("error", None, 3)
    assert found["request"] == "GET /exit HTTP/1.1"
    until(lambda: "ended with exit code 3" in service.log(), "the line in the log")


@pytest.mark.parametrize(
    ("path", "frame"), [("/sleep", " in sleeping"), ("/gil", " in app"), ("/regex", " in match")]
)
def test_over_the_timeout(service: Daemon, path: str, frame: str) -> None:
    """Also with the GIL held in C: the stacks are written by a signal handler, without it."""
    service.expected_errors = ["gone: timeout"]
    service.write_app(APP)
    service.start("--timeout", "1")
    client, pid = ask(service, path)
    with client:
        assert client.recv(100).startswith(b"HTTP/1.1 504 ")
    found = the_departure(service)
    assert (found["pid"], found["reason"], found["signal"]) == (pid, "timeout", "SIGKILL")
    assert f'"GET {path} HTTP/1.1" has held it for ' in found["fault"]
    assert "--timeout 1" in found["fault"]
    assert frame in found["stacks"]
    assert found["busy_for"] > 1
    assert found["rss_bytes"] > 1 << 20
    assert found["doing"] == ("running" if path == "/regex" else "asleep")


def test_a_stopped_child_gives_no_stacks_and_the_record_says_why(service: Daemon) -> None:
    service.expected_errors = ["gone: timeout"]
    service.write_app(APP)
    service.start("--timeout", "1")
    client, pid = ask(service, "/sleep")
    with client:
        os.kill(pid, signal.SIGSTOP)
        found = the_departure(service)
    assert (found["pid"], found["stacks"], found["doing"]) == (pid, None, "stopped")
    until(lambda: "it gave no stacks; it was stopped" in service.log(), "the line in the log")


def test_a_retirement_that_takes_too_long_has_stacks(service: Daemon) -> None:
    service.write_app(APP)
    service.start("--graceful-timeout", "1")
    client, pid = ask(service, "/sleep")
    with client:
        service.ok("reload")
        found = the_departure(service)
    assert (found["pid"], found["reason"]) == (pid, "reload")
    assert "not done in time (--graceful-timeout 1)" in found["fault"]
    assert " in sleeping" in found["stacks"]


def test_an_ordinary_retirement_is_none(service: Daemon) -> None:
    service.start()
    before = service.worker_pids()
    service.ok("reload")
    until(lambda: not set(before) & {w["pid"] for w in service.live()["workers"]}, "gone")
    assert departures(service) == []


def test_as_json_it_is_one_object(service: Daemon) -> None:
    service.expected_errors = [""]
    service.write_app(APP)
    service.start("--log-format", "json", "--timeout", "1")
    client, pid = ask(service, '/sleep?"a"')
    with client:
        assert client.recv(100).startswith(b"HTTP/1.1 504 ")
    found = the_departure(service)
    until(lambda: '"departure"' in service.log(), "the line in the log")
    records = [json.loads(line) for line in service.log().splitlines()]
    [record] = [r for r in records if "departure" in r]
    assert record["level"] == "error"
    assert record["message"].startswith(f"worker {found['slot']} (pid {pid}) gone: timeout")
    assert record["departure"]["pid"] == pid
    assert record["departure"]["request"] == 'GET /sleep?"a" HTTP/1.1'
    assert " in sleeping" in record["departure"]["stacks"]


def test_the_last_twenty_are_kept(service: Daemon) -> None:
    service.expected_errors = ["gone: SIGKILL"]
    service.start("-w", "1")
    killed: list[int] = []
    for _ in range(22):
        pid = until(lambda: [p for p in service.worker_pids() if p not in killed], "a worker")[0]
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)
    until(lambda: killed[-1] in [d["pid"] for d in departures(service)], "the last")
    assert [d["pid"] for d in departures(service)] == killed[-20:]
