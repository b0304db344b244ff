"""Logs: rotation under load, and a standard error that is not read. A full disk is row 9 of the matrix
(faults_logs.py)."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .clients import Crew
from .conftest import APP, Daemon, until
from .trial import family, open_files

LINE = re.compile(r'127\.0\.0\.1 - - \[[^]]+\] "GET /n/(\d+-\d+) HTTP/1\.1" 200 2 "-" "-" [0-9.]+')

#: Each request writes 20 kB into forkd's error log.
FAILING = """
    def app(environ, start):
        if environ["PATH_INFO"] == "/fail":
            raise RuntimeError("on purpose " + "x" * 20_000)
        start("200 OK", [("Content-Length", "2")])
        return [b"v1"]
"""


class Numbered(Crew):
    """Clients whose every request has a path of its own."""

    def __init__(self, service: Daemon, clients: int) -> None:
        self.answered: set[str] = set()
        self.failures: list[str] = []
        super().__init__()
        address = service.address
        self._threads = [
            threading.Thread(target=self._run, args=(address, number)) for number in range(clients)
        ]

    def more(self, requests: int) -> None:
        goal = len(self.answered) + requests
        until(lambda: len(self.answered) >= goal, f"{requests} more: {self.failures[:3]}", 30)

    def _run(self, address: tuple[str, int], number: int) -> None:
        client = http.client.HTTPConnection(*address, timeout=30)
        turn = 0
        try:
            with contextlib.closing(client):
                while not self._ending.is_set():
                    turn += 1
                    client.request("GET", f"/n/{number}-{turn}")
                    assert client.getresponse().read() == b"v1"
                    self.answered.add(f"{number}-{turn}")
        except (OSError, AssertionError, http.client.HTTPException) as error:
            self.failures.append(f"{type(error).__name__}: {error}")


def rotated(service: Daemon) -> set[str]:
    return {str(path) for log in ("access", "error") for path in service.dir.glob(f"{log}.*")}


@pytest.mark.parametrize(
    "flags", [[], ["--preload"], ["-m", "half-sync-half-async"], ["-m", "reactor", "--threads", "4"]],
    ids=" ".join,
)  # fmt: skip
def test_rotation_under_load_loses_and_tears_no_line(service: Daemon, flags: list[str]) -> None:
    access, rounds = service.dir / "access", 10
    service.start("--access-log", str(access), *flags)
    first = service.error_log
    with Numbered(service, 4) as load:
        for turn in range(rounds):
            load.more(50)
            os.rename(access, service.dir / f"access.{turn}")
            os.rename(service.dir / f"{service.name}.log", service.dir / f"error.{turn}")
            service.error_log = service.dir / "error.0"  # the addresses are said there
            service.signal(signal.SIGUSR1)
            until(lambda: first.exists() and "reopened" in first.read_text(), "both opened anew")
            until(
                lambda: not rotated(service) & open_files(family(service.pid)),
                "the old ones closed",
            )
        load.more(50)
    assert load.failures == []
    service.ok("stop")
    lines = [
        line for path in service.dir.glob("access*") for line in path.read_text().splitlines()
    ]  # fmt: skip
    torn = [line for line in lines if not LINE.fullmatch(line)]
    assert torn == []
    times = Counter(LINE.fullmatch(line)[1] for line in lines)  # type: ignore[index]
    assert set(times.values()) == {1}
    assert set(times) == load.answered


def test_a_reload_that_is_superseded_takes_no_line_with_it(service: Daemon) -> None:
    """The next one has its number and another log: the logger may be about to close that of the first."""
    access = service.dir / "access"
    service.start("--access-log", str(access), "-w", "1")
    service.write_app("import time\ntime.sleep(0.2)\n" + textwrap.dedent(APP))
    with Numbered(service, 4) as load:
        for turn in range(1, 5):
            for text, times in (("reloading: ", 2 * turn - 1), (" serves\n", turn)):
                service.signal(signal.SIGHUP)
                until(lambda: service.log().count(text) >= times, text)  # noqa: B023
            load.more(20)
    assert load.failures == []
    assert service.log().count("reload superseded") == 4
    service.ok("stop")
    assert Counter(LINE.findall(access.read_text())) == Counter(load.answered)


@pytest.mark.parametrize("verb", ["reload", "stop"])
def test_what_a_logger_leaves_is_written_by_the_next(service: Daemon, verb: str) -> None:
    """Also of a generation that is over by then, and where the master ends."""
    access = service.dir / "access"
    service.expected_errors = ["the logger"]
    service.start("--access-log", str(access))
    first = service.logger_pid
    os.kill(first, signal.SIGKILL)  # the next one is not replaced before a second is over
    second = until(lambda: service.logger_pid not in (None, first) and service.logger_pid, "another one")
    os.kill(second, signal.SIGSTOP)
    for turn in range(20):
        service.get(f"/n/1-{turn}")
    if verb == "reload":
        service.ok("reload")
        until(lambda: {w["generation"] for w in service.live()["workers"]} == {2}, "all are replaced")
    os.kill(second, signal.SIGKILL)
    service.ok("stop")
    assert sorted(LINE.findall(access.read_text())) == sorted(f"1-{turn}" for turn in range(20))


def test_what_cannot_be_opened_anew_leaves_the_old_file_in_use(service: Daemon) -> None:
    logs, moved = service.dir / "logs", service.dir / "moved"
    logs.mkdir()
    service.expected_errors = ["the old file stays in use"]
    service.error_log = moved / "error"
    logs.rename(moved)
    moved.rename(logs)
    service.start("--access-log", f"{logs}/access", "--error-log", f"{logs}/error")
    logs.rename(moved)
    service.signal(signal.SIGUSR1)
    for log in ("access", "error"):
        expected = f"{log} log {logs}/{log}: No such file or directory; the old file stays in use"
        until(lambda text=expected: text in service.log(), expected)
    assert "reopened" not in service.log()
    service.get("/n")
    until(lambda: "GET /n " in (moved / "access").read_text(), "its line")
    moved.rename(logs)
    service.error_log = logs / "error"
    (logs / "error").rename(logs / "old")
    service.signal(signal.SIGUSR1)
    until(lambda: "reopened" in service.log(), "the next time it works")


def test_a_reload_says_that_the_error_log_needs_a_restart(service: Daemon) -> None:
    path = service.dir / "forkd.toml"
    common = 'app = "app:app"\nbind = ["127.0.0.1:0"]\nadmin = "127.0.0.1:0"\n'
    path.write_text(f'{common}error-log = "{service.error_log}"\n')
    service.start("-c", str(path), app=None)
    path.write_text(f'{common}error-log = "{service.dir}/other"\n')
    assert "error-log" in service.run("reload", "-c", str(path)).stderr


@contextlib.contextmanager
def unread(service: Daemon, *flags: str) -> Iterator[int]:
    """The service in the foreground, its standard error a pipe that is full. Yields the pipe's end."""
    read, write = os.pipe()
    command = service.argv("start", *service.flags(*flags), "-f")
    service.foreground = subprocess.Popen(
        command, cwd=service.dir, env=service.environ, text=True, stdin=subprocess.DEVNULL,
        stdout=write, stderr=write,
    )  # fmt: skip
    with open(service.error_log, "ab") as log:
        while "metrics on" not in service.log():
            log.write(os.read(read, 1 << 16))
            log.flush()
    # Fill it by an open file of our own: `write` is shared with the service.
    own = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(own, b"x" * 4095 + b"\n")
    os.close(own)
    os.close(write)
    try:
        yield read
    finally:
        os.close(read)


def works(service: Daemon) -> None:
    """Requests, the admin endpoint, signals and a reload."""
    for _ in range(3):
        assert service.get() == "v1"
    assert service.admin("/healthz")[0] == 200
    service.signal(signal.SIGUSR1)
    service.ok("reload")
    assert service.admin("/readyz")[0] == 200
    assert service.get() == "v1"


@pytest.mark.parametrize("flags", [[], ["--access-log", "-"]], ids=" ".join)
def test_a_standard_error_that_nobody_reads(service: Daemon, flags: list[str]) -> None:
    with unread(service, *flags):
        works(service)
        works(service)
        service.ok("stop")
        service.gone()


def test_what_nobody_read_is_counted_and_told(service: Daemon) -> None:
    service.write_app(FAILING)
    with unread(service, "-w", "1") as read:
        works(service)
        for _ in range(20):  # its sink holds 256 kiB
            with contextlib.closing(service.client()) as client:
                client.request("GET", "/fail")
                assert client.getresponse().status == 500

        def lost() -> int:
            return int(service.metric("forkd_log_lines_lost_total", log="error"))

        assert lost()
        data = bytearray()

        def told() -> bool:
            os.set_blocking(read, False)
            with contextlib.suppress(BlockingIOError):
                data.extend(os.read(read, 1 << 20))
            return sum(map(int, re.findall(rb"error log: (\d+) lines lost here", data))) == lost()

        until(told, "as many as are counted")


def test_the_access_log_to_a_reader_that_comes_late(service: Daemon) -> None:
    """Nothing is lost as long as memory for it lasts."""
    with unread(service, "--access-log", "-") as read:
        for number in range(100):
            service.get(f"/n/{number}")
        os.set_blocking(read, False)
        data = bytearray()

        def arrived() -> bool:
            with contextlib.suppress(BlockingIOError):
                data.extend(os.read(read, 1 << 20))
            return len(re.findall(rb"GET /n/\d+ ", data)) == 100

        until(arrived, "all lines, without another request")
        service.settles(0, "forkd_log_lines_lost_total")


def test_the_access_log_to_a_slow_reader_is_whole_at_a_stop(service: Daemon) -> None:
    """More of it than the pipe has room for."""
    with unread(service, "--access-log", "-", "-w", "1") as read:
        for number in range(100):
            service.get(f"/n/{number}/{'x' * 3000}")
        data = bytearray()
        while b"GET /n/0/" not in data:
            data += os.read(read, 4096)
        service.signal(signal.SIGTERM)
        while piece := os.read(read, 4096):
            data += piece
        data = re.sub(rb"[-0-9T:.]+Z \[\d+\] .*\n", b"", data)  # the error log's, which is there, too
        assert re.findall(rb"GET /n/(\d+)/x{3000} ", data) == [b"%d" % number for number in range(100)]


def test_a_fifo_without_a_reader_is_an_error_and_no_wait(service: Daemon) -> None:
    path = Path(service.dir / "fifo")
    os.mkfifo(path)
    done = service.run("start", *service.flags("--access-log", str(path)))
    assert done.returncode == 1
    assert f"access log {path}: No such device or address" in done.stderr
