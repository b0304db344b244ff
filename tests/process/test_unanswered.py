"""Requests whose process ends before they do: each is counted once, and has one line in the access log."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from . import ids
from .conftest import Daemon, until

#: What can end a child, or keep it busy, by path.
APP = """
    import ctypes, os, time

    def app(environ, start):
        path = environ["PATH_INFO"]
        if path.startswith("/sleep/"):
            SLEEPERS[path[-1]](8)
        elif path == "/sleep":
            time.sleep(8)
        elif path == "/segv":
            ctypes.string_at(0)
        elif path == "/exit":
            os._exit(3)
        elif path == "/begun":
            start("200 OK", [])
            return begun()
        elif path == "/pieces":
            start("200 OK", [("Content-Length", str(1 + len(LARGE)))])
            return pieces()
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def pieces():
        yield b"x"
        yield LARGE

    def begun():
        yield b"x"
        time.sleep(8)

    def sleep_0(seconds):
        time.sleep(seconds)

    def sleep_1(seconds):
        time.sleep(seconds)

    def sleep_2(seconds):
        time.sleep(seconds)

    SLEEPERS = {"0": sleep_0, "1": sleep_1, "2": sleep_2}
    LARGE = b"y" * (1 << 20)  # which no socket takes
"""

#: What a client is told, below the status.
WHY = b"the service took too long to answer, and has given up\n"


def ask(service: Daemon, path: str) -> socket.socket:
    client = service.connect(20)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return client


def answer_of(client: socket.socket) -> bytes:
    """All that comes, to the end of the connection."""
    with client:
        return b"".join(iter(lambda: client.recv(65536), b""))


def lines_of(access: Path) -> list[str]:
    return access.read_text().splitlines() if access.exists() else []


def busy(service: Daemon, count: int) -> None:
    until(lambda: sum(w["in_flight"] for w in service.workers()) == count, f"{count} in flight")


def test_three_requests_over_the_timeout_are_three_504(service: Daemon, tmp_path: Path) -> None:
    service.expected_errors = ["gone: timeout"]
    service.write_app(APP)
    access = tmp_path / "access.log"
    service.start("-w", "1", "--threads", "4", "--timeout", "1", "--access-log", str(access))
    clients = [ask(service, f"/sleep/{number}") for number in range(3)]
    answers = [answer_of(client) for client in clients]
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\n504 Gateway Timeout\n" + WHY)
    until(lambda: service.metric("forkd_requests_total", code="504") == 3, "three counts")
    lines = until(lambda: len(lines_of(access)) == 3 and lines_of(access), "three lines")
    for number in range(3):
        what = f'"GET /sleep/{number} HTTP/1.1" 504 {20 + len(WHY)} "-" "-" '
        [line] = [line for line in lines if what in line]
        assert line.startswith("127.0.0.1 - - [")
        assert line.endswith(' "timeout"')
        assert 1 <= float(line.split()[-2]) < 8
    [found] = service.live()["departures"]
    named = found["requests_in_flight"]
    assert found["in_flight"] == 3
    assert sorted(r["request"] for r in named) == [f"GET /sleep/{n} HTTP/1.1" for n in range(3)]
    assert len({r["thread"] for r in named}) == 3
    for request in named:
        assert request["client"] == "127.0.0.1"
        assert f'in sleep_{request["request"][11]}\n' in request["stack"]
    report = until(lambda: "gone: timeout" in service.log() and service.log(), "the report")
    for number in range(3):
        said = rf'in flight: "GET /sleep/{number} HTTP/1\.1" of 127\.0\.0\.1 for \d\.\d+ s, in thread 0x'
        assert re.search(rf"{said}\w+:\n.* in sleep_{number}\n", report)
    service.settles(3, "forkd_requests_total")
    service.settles(3, "forkd_request_duration_seconds_count")
    service.settles(0, "forkd_requests_in_flight")


@pytest.mark.parametrize(
    ("path", "reason"), [("/exit", "error"), ("/segv", "SIGSEGV"), ("/sleep", "SIGKILL")]
)
@pytest.mark.parametrize("flags", [[], ["--no-native"]], ids=["native", "python"])
def test_a_crash_is_a_502(
    service: Daemon, tmp_path: Path, path: str, reason: str, flags: list[str]
) -> None:
    service.expected_errors = [f"gone: {reason}"]
    service.write_app(APP)
    access = tmp_path / "access.log"
    service.start("-w", "1", "--access-log", str(access), *flags)
    assert service.get("/") == "ok"
    with ask(service, path) as client:
        if path == "/sleep":
            busy(service, 1)
            os.kill(service.worker_pids()[0], signal.SIGKILL)
        assert client.recv(100) == b""
    until(lambda: service.metric("forkd_requests_total", code="502") == 1, "the count")
    lines = until(lambda: len(lines_of(access)) == 2 and lines_of(access), "two lines")
    [fine] = [line for line in lines if '"GET / HTTP/1.1" 200 2 "-" "-" ' in line]
    [broken] = [line for line in lines if f'"GET {path} HTTP/1.1" 502 0 "-" "-" ' in line]
    assert fine.split('"')[-1].strip().replace(".", "").isdigit()
    assert broken.endswith(f' "{reason}"')
    service.settles(2, "forkd_requests_total")


def test_what_is_cut_at_the_graceful_timeout_is_a_504(service: Daemon, tmp_path: Path) -> None:
    service.expected_errors = ["gone: reload"]
    service.write_app(APP)
    access = tmp_path / "access.log"
    service.start(
        "-w", "1", "--threads", "2", "--graceful-timeout", "1", "--access-log", str(access),
        "--log-format", "json",
    )  # fmt: skip
    clients = [ask(service, "/sleep/0"), ask(service, "/sleep/1")]
    busy(service, 2)
    service.ok("reload")
    for client in clients:
        assert answer_of(client).startswith(b"HTTP/1.1 504 ")
    until(lambda: service.metric("forkd_requests_total", code="504") == 2, "the counts")
    lines = until(lambda: len(lines_of(access)) == 2 and lines_of(access), "two lines")
    found = [json.loads(line) for line in lines]
    assert sorted(record["request"] for record in found) == [
        "GET /sleep/0 HTTP/1.1", "GET /sleep/1 HTTP/1.1",
    ]  # fmt: skip
    for record in found:
        assert (record["status"], record["bytes"], record["client"]) == (
            504, 20 + len(WHY), "127.0.0.1",
        )  # fmt: skip
        assert record["reason"] == "reload: graceful-timeout"
        assert record["seconds"] >= 1


@pytest.mark.parametrize("flags", [[], ["--threads", "2"], ["--no-native"], ["-m", "proactor"]])
def test_answers_that_are_under_way_are_in_flight(
    service: Daemon, tmp_path: Path, flags: list[str]
) -> None:
    """Clients that do not read: their requests hold no thread, and there are more of them than lines."""
    service.expected_errors = ["gone: SIGKILL"]
    service.write_app(APP)
    access, path = tmp_path / "access.log", str(tmp_path / "s")
    service.start(
        "-w", "1", "--worker-connections", "2000", "--access-log", str(access),
        "-b", f"unix:{path}", *flags,
    )  # fmt: skip
    count = 1003
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
            client.sendall(b"GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n")
        busy(service, count)
        os.kill(service.worker_pids()[0], signal.SIGKILL)
        until(lambda: service.metric("forkd_requests_total", code="502") == count, "the counts")
    lines = until(lambda: len(lines_of(access)) >= 1001 and lines_of(access), "the lines")
    named = [line for line in lines if '"GET /pieces HTTP/1.1" 502 0 ' in line]
    [rest] = [line for line in lines if line not in named]
    assert len(named) == 1000
    assert rest.endswith(' "SIGKILL; and 3 more requests like these"')


LATE = {
    "python": ["--no-native"],
    "python, threads": ["--no-native", "--threads", "2"],
    "proactor": ["-m", "proactor"],
    "proactor, threads": ["-m", "proactor", "--threads", "2"],
    "half-sync-half-async": ["-m", "half-sync-half-async"],
    "half-sync-half-reactive": ["-m", "half-sync-half-reactive", "--threads", "2"],
    "process-per-connection": ["-m", "process-per-connection"],
    "preload": ["--preload"],
    "another user": ["--user", "nobody"],
}


@pytest.mark.parametrize("flags", LATE.values(), ids=LATE)
def test_who_is_late_gets_a_504_that_arrives(
    service: Daemon, tmp_path: Path, flags: list[str]
) -> None:
    """Also a client that has sent more: its bytes are read, since a close would destroy the answer."""
    service.expected_errors = ["gone: timeout", "killed: .* has held it for", "ended: SIGKILL"]
    if "--user" in flags:
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents[:3]:
            parent.chmod(0o755)
    service.write_app(APP)
    service.start("-w", "1", "--timeout", "1", "--access-log", str(tmp_path / "access.log"), *flags)
    with service.connect() as kept:  # one answer before, and more than that request
        kept.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.recv(1000).endswith(b"ok")
        kept.sendall(b"GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = answer_of(kept)
    assert answer.startswith(b"HTTP/1.1 504 Gateway Timeout\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    head = ask(service, "/sleep")
    head.close()
    until(lambda: service.metric("forkd_requests_total", code="504") >= 1, "the count")


def test_a_head_is_answered_without_a_body_and_what_was_begun_is_not_answered_again(
    service: Daemon,
) -> None:
    service.expected_errors = ["gone: timeout"]
    service.write_app(APP)
    service.start("-w", "1", "--threads", "4", "--timeout", "1")
    begun = ask(service, "/begun")
    assert begun.recv(1000).endswith(b"\r\n\r\n1\r\nx\r\n")
    head = service.connect()
    head.sendall(b"HEAD /sleep HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer_of(begun) == b""
    answer = answer_of(head)
    assert answer.startswith(b"HTTP/1.1 504 ") and answer.endswith(b"\r\n\r\n")
    until(lambda: service.metric("forkd_requests_total", code="504") == 2, "the counts")


@pytest.mark.parametrize("native", ["--native", "--no-native"])
@pytest.mark.parametrize("style", ["text", "json"])
def test_lines_of_answered_requests_outlive_a_kill(
    service: Daemon, tmp_path: Path, native: str, style: str
) -> None:
    """They are in the ring when they are answered, though the logger has not been told."""
    service.expected_errors = ["gone: SIGKILL"]
    access = tmp_path / "access.log"
    service.start("-w", "2", native, "--access-log", str(access), "--log-format", style)
    answer_and_kill(service)
    until(lambda: len(lines_of(access)) == 10, f"the lines: {lines_of(access)}")
    service.settles(10, "forkd_requests_total")


@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_so_do_those_that_go_to_a_pipe(service: Daemon, native: str) -> None:
    """Descriptor 1 of a container: the logger writes there, too."""
    service.expected_errors = ["gone: SIGKILL"]
    argv = service.argv("start", *service.flags("-w", "2", native, "--access-log", "-"), "-f")
    with open(service.error_log, "ab") as log:
        daemon = subprocess.Popen(
            argv, cwd=service.dir, env=service.environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    assert daemon.stdout is not None
    try:
        until(lambda: " serves " in service.log(), "serving")
        answer_and_kill(service)
        service.ok("stop")
        lines = daemon.stdout.read().decode().splitlines()
    finally:
        daemon.stdout.close()
        daemon.wait(20)
    found = [line for line in lines if "GET /pid?" in line]
    assert len(found) == len({line.split('"')[1] for line in found}) == 10


def answer_and_kill(service: Daemon) -> None:
    """Ten workers are killed as soon as they have answered their only request."""
    for turn in range(10):
        with contextlib.closing(service.client()) as client:
            client.request("GET", f"/pid?{turn}")
            os.kill(int(client.getresponse().read()), signal.SIGKILL)


CELLS = {
    "python": ["--no-native"],
    "python, threads": ["--no-native", "--threads", "4"],
    "json": ["--log-format", "json", "--threads", "4"],
    "half-sync-half-async": ["-m", "half-sync-half-async"],
}


@pytest.mark.parametrize("flags", CELLS.values(), ids=CELLS)
def test_killed_at_any_instant_each_request_is_counted_once(
    service: Daemon, tmp_path: Path, flags: list[str]
) -> None:
    """Besides what faults_books.py has."""
    service.expected_errors = ["gone: SIGKILL"]
    service.write_app(ids.APP)
    access = tmp_path / "access.log"
    service.start("-w", "2", "--access-log", str(access), *flags)
    load = ids.Load(service)
    try:
        until(lambda: load.answered > 100, "a load")
        assert ids.kill_at_random(service.worker_pids, 30, random.Random(19)) == 30
    finally:
        load.end()
    codes = ids.audit(service, access)
    # One that was killed between its answer and its line is a 502, and its client has a 200.
    assert codes[200] + codes[502] >= load.answered
    assert set(codes) <= {200, 499, 502}


def test_conversations_that_are_cut_are_counted_and_named_and_have_no_status(
    service: Daemon, tmp_path: Path
) -> None:
    service.expected_errors = ["gone: SIGKILL"]
    service.write_app("""
        import asyncio

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(b"hello")
    """)
    access, path = tmp_path / "access.log", str(tmp_path / "s")
    service.start("-w", "1", "--access-log", str(access), "-b", f"unix:{path}", app="app:Echo")
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
            assert client.recv(5) == b"hello"
        busy(service, 5)
        os.kill(service.worker_pids()[0], signal.SIGKILL)
        [found] = until(lambda: service.live()["departures"], "the report")
    assert found["in_flight"] == 5
    assert [r["request"] for r in found["requests_in_flight"]] == ["stream"] * 5
    assert {(r["client"], r["thread"]) for r in found["requests_in_flight"]} == {("", None)}
    service.settles(5, "forkd_request_duration_seconds_count")
    service.settles(0, "forkd_requests_total")
    assert lines_of(access) == []


HELD = """
    import os, time

    def app(environ, start):
        while environ["PATH_INFO"] == "/held" and os.path.exists("hold"):
            time.sleep(0.002)
        if environ["PATH_INFO"] == "/sleep":
            time.sleep(8)
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""


@pytest.mark.parametrize("model", ["simulated-proactor", "half-sync-half-reactive"])
@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_what_a_pool_has_answered_is_a_200_though_its_thread_is_taken(
    service: Daemon, tmp_path: Path, model: str, native: str
) -> None:
    service.expected_errors = ["gone: SIGKILL"]
    service.write_app(HELD)
    access, hold = tmp_path / "access.log", service.dir / "hold"
    hold.touch()
    service.start("-w", "1", "-m", model, "--threads", "1", native, "--access-log", str(access))
    clients = [ask(service, "/held")]
    busy(service, 1)
    clients += [ask(service, "/") for _ in range(3)]
    with ask(service, "/sleep"):
        hold.unlink()
        for client in clients:
            with client:
                assert client.recv(1000).endswith(b"ok")
        busy(service, 1)
        os.kill(service.worker_pids()[0], signal.SIGKILL)
        until(lambda: len(lines_of(access)) == 5, "a line for each")
    codes = [line.split('" ')[1][:3] for line in lines_of(access)]
    assert sorted(codes) == ["200", "200", "200", "200", "502"]


def test_the_report_names_no_thread_of_another_process(service: Daemon) -> None:
    service.expected_errors = ["gone: reload"]
    service.write_app(APP)
    service.start("-w", "1", "-m", "process-per-connection", "--graceful-timeout", "1")
    client = ask(service, "/sleep/0")
    busy(service, 1)
    service.ok("reload")
    assert answer_of(client) == b""
    said = r'in flight: "GET /sleep/0 HTTP/1\.1" of 127\.0\.0\.1 for \d\.\d+ s, in a process of its own\n'
    until(lambda: re.search(said, service.log()), "the report")


def test_a_process_of_a_client_is_killed_with_its_stack(service: Daemon) -> None:
    service.expected_errors = ["killed: .* has held it for", "ended: SIGKILL"]
    service.write_app(APP)
    service.start("-w", "1", "-m", "process-per-connection", "--timeout", "1")
    clients = [ask(service, f"/sleep/{number}") for number in range(2)]
    for client in clients:
        assert answer_of(client).startswith(b"HTTP/1.1 504 ")
    for number in range(2):
        line = rf'"GET /sleep/{number} HTTP/1\.1" has held it for \d\.\d s; it was here:\n'
        said = rf"{line}(.*\n)*?.* in sleep_{number}\n"
        until(lambda said=said: re.search(said, service.log()), "its stack")
    assert len(re.findall(r"process \d+ killed: ", service.log())) == 2
