"""A disk that hangs under the logs: no process waits for it but the logger.

No test waits for a process to be in state D, and the file system's server is killed from outside, so that
nothing stays stuck (fuse.py)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import fuse
from .clients import Load
from .conftest import Daemon, alive, command_line, until
from .trial import GONE, files

needs_fuse = pytest.mark.skipif(bool(fuse.why_not()), reason=f"no FUSE here: {fuse.why_not()}")
LINE = re.compile(r'127\.0\.0\.1 - - \[[^]]+\] "GET (\S+) HTTP/1\.1" 200 2 "-" "-" [0-9.]+')
#: Requests of 2000 bytes each that are more than two workers' rings hold.
MANY = 600

TALKING = """
    import os, sys

    def app(environ, start):
        sys.stdout.write("out " + "x" * 1000 + "\\n")
        os.write(2, b"err " + b"y" * 1000 + b"\\n")
        start("200 OK", [("Content-Length", "2")])
        return [b"v1"]
"""


@pytest.fixture
def disk(service: Daemon, tmp_path: Path) -> Iterator[fuse.Disk]:
    """It is unmounted last: what waits for it ends then."""
    with fuse.hanging_disk(tmp_path / "disk") as mounted:
        yield mounted
        with contextlib.suppress(BrokenPipeError):  # the test has killed it
            mounted.say("go")
        if service.pidfile.exists():
            service.ok("stop")


def start(service: Daemon, disk: fuse.Disk, *flags: str) -> None:
    """`forkd start`, where the disk is to be seen."""
    done = subprocess.run(
        [*disk.under, "sh", "-c", 'cd "$0" && exec "$@"', str(service.dir),
         *service.argv("start", *service.flags(*flags))],
        env=service.environ, text=True, capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + service.log()


def lost(service: Daemon, log: str = "access") -> int:
    return int(service.metric("forkd_log_lines_lost_total", log=log))


def serves(service: Daemon) -> None:
    assert service.get() == "v1"
    assert service.admin("/healthz")[0] == 200
    assert service.admin("/readyz")[0] == 200


@needs_fuse
@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--no-native", "--preload"],
        ["-m", "reactor", "--threads", "4"],
        ["-m", "half-sync-half-async"],
        ["-m", "process-per-connection"],
    ],
    ids=" ".join,
)
def test_an_access_log_whose_disk_hangs_stops_nobody(
    service: Daemon, disk: fuse.Disk, flags: list[str]
) -> None:
    service.expected_errors = ["its disk does not answer"]
    access = f"{disk.directory}/access"
    start(service, disk, "--access-log", access, *flags)
    service.get("/before")
    until(lambda: "/before" in disk.read("access"), "its line")
    disk.say("hang")
    with Load(service.address, keep=2, fresh=2, path="/" + "x" * 2000) as load:
        load.more(MANY, 60)
        until(lambda: lost(service), "lines are lost, and counted", 30)
        serves(service)
        service.signal(signal.SIGUSR1)
        service.ok("reload")
        serves(service)
        load.more(100, 60)
    assert load.failures == []
    until(lambda: "a disk does not answer (access log, " in service.ok("status"), "status says so")
    assert service.metric("forkd_log_write_seconds", log="access") > 1
    service.settles(0, "forkd_log_write_seconds", log="error")
    disk.say("go")

    def lines() -> list[str]:
        return disk.read("access").splitlines()

    asked = load.asked + 3  # with those of this test itself
    # Also what the old generation's workers, which have gone, left in their rings.
    until(lambda: len(lines()) + lost(service) == asked, "each line is there, or counted", 20)
    assert [line for line in lines() if not LINE.fullmatch(line)] == []
    service.get("/after")
    until(lambda: "/after" in disk.read("access"), "a line when the disk answers")


@needs_fuse
def test_an_error_log_whose_disk_hangs_stops_nobody_and_a_print_neither(
    service: Daemon, disk: fuse.Disk
) -> None:
    service.write_app(TALKING)
    start(service, disk, "--error-log", str(service.error_log), "-w", "1")
    address = service.admin_address, service.address
    service.ok("stop")
    service.error_log = service.dir / "copy"  # the file itself is on the disk
    ports = ["--admin", f"127.0.0.1:{address[0][1]}", "-b", f"127.0.0.1:{address[1][1]}"]
    start(service, disk, "--error-log", f"{disk.directory}/error", "-w", "1", *ports)
    service.error_log.write_text(disk.read("error"))
    disk.say("hang")
    with Load(service.address, keep=2, fresh=2) as load:
        load.more(3000, 60)  # some megabytes: no pipe and no ring holds them
        until(lambda: lost(service, "error"), "lines are lost, and counted", 30)
        serves(service)
        service.ok("reload")
        load.more(100, 60)
    assert load.failures == []
    disk.say("go")
    until(lambda: "generation 2 serves" in disk.read("error"), "the master's, from its ring")
    torn = [
        line for line in disk.read("error").splitlines()
        if not re.fullmatch(r"out x{1000}|err y{1000}|\d{4}-.*|.*lines lost here| {4}.*", line)
    ]  # fmt: skip
    assert torn == []


@needs_fuse
@pytest.mark.parametrize("mode", ["hang", "dead"])
def test_a_stop_and_a_start_while_it_hangs(service: Daemon, disk: fuse.Disk, mode: str) -> None:
    service.expected_errors = ["its disk does not answer"]
    access = f"{disk.directory}/access"
    start(service, disk, "--access-log", access)
    ports = [
        "--admin", f"127.0.0.1:{service.admin_address[1]}", "-b", f"127.0.0.1:{service.address[1]}",
        "-b", f"unix:{service.dir}/s.sock", "--access-log", access, "--graceful-timeout", "2",
    ]  # fmt: skip
    service.ok("stop")
    start(service, disk, *ports)
    disk.say(mode)
    service.get("/stuck")
    until(lambda: service.metric("forkd_log_write_seconds", log="access") > 0, "the write hangs")
    first = service.logger_pid
    stopped = service.run("stop")
    assert stopped.returncode == 0
    said = f"forkd: forkd: logger [{service.name}] (pid {first}) does not end by SIGKILL: "
    assert said in stopped.stderr
    until(lambda: f"access log {access}: its disk does not answer" in service.log(), "it is said")
    until(lambda: f"(pid {first}) ends when it does" in service.log(), "whose it is")
    assert not service.pidfile.exists()
    start(service, disk, *ports)
    serves(service)
    assert service.status()["master"]["state"] == "running"
    again = service.run("restart", timeout=60)
    assert again.returncode == 0
    serves(service)
    service.run("stop")
    disk.kill()
    until(lambda: not Path(f"/proc/{first}").exists(), "the kernel has ended the wait")


@needs_fuse
def test_a_worker_that_waits_for_a_dead_disk_is_left_behind(service: Daemon, disk: fuse.Disk) -> None:
    service.expected_errors = ["does not end by SIGKILL"]
    service.write_app(f"""
        import os

        def app(environ, start):
            if environ["PATH_INFO"] == "/write":
                fd = os.open("{disk.directory}/file", os.O_CREAT | os.O_WRONLY)
                os.write(fd, b"x")
            start("200 OK", [("Content-Length", "2")])
            return [b"v1"]
    """)
    start(service, disk, "--graceful-timeout", "1", "--timeout", "0", "-w", "2")
    ports = ["--admin", f"127.0.0.1:{service.admin_address[1]}", "-b", f"127.0.0.1:{service.address[1]}"]
    disk.say("hang")
    with contextlib.closing(service.client()) as client:
        client.request("GET", "/write")
        busy = until(
            lambda: next((w for w in service.workers() if w["request"]), None), "it is in the request"
        )
        stopped = service.run("stop")
    assert stopped.returncode == 0
    named = f"(pid {busy['pid']}) does not end by SIGKILL: "
    until(lambda: f"worker {busy['slot']} {named}" in service.log(), "the line in the log")
    assert named in stopped.stderr
    start(service, disk, *ports)
    assert service.get() == "v1"
    service.ok("stop")


# ---- the logger itself, which needs no such disk --------------------------------------------------


def test_a_logger_that_is_killed_is_replaced_and_loses_nothing(service: Daemon) -> None:
    service.expected_errors = ["the logger .* is gone: SIGKILL; another one goes on"]
    access = service.dir / "access"
    service.start("--access-log", str(access))
    count = 0
    for _ in range(3):
        old = service.logger_pid
        os.kill(old, signal.SIGSTOP)
        for _ in range(50):
            service.get(f"/n/{count}")
            count += 1
        os.kill(old, signal.SIGKILL)
        for _ in range(50):
            service.get(f"/n/{count}")
            count += 1
        until(lambda gone=old: service.logger_pid not in (None, gone), "another one")
    service.ok("stop")
    times = Counter(LINE.fullmatch(line)[1] for line in access.read_text().splitlines())  # type: ignore[index]
    assert set(times) == {f"/n/{number}" for number in range(count)}
    # A logger that is killed between a write and the note of it has a line written twice.
    assert service.log().count("another one goes on") >= 3


def test_a_stopped_logger_does_not_keep_the_master(service: Daemon) -> None:
    service.start("--access-log", f"{service.dir}/access", "--graceful-timeout", "1")
    logger = service.logger_pid
    os.kill(logger, signal.SIGSTOP)
    serves(service)
    service.ok("stop")
    assert not alive(logger)


def test_the_logger_holds_nothing_that_another_start_needs(service: Daemon) -> None:
    service.start(
        "--access-log", f"{service.dir}/access", "-b", f"unix:{service.dir}/s.sock", "-b", "127.0.0.1:0"
    )
    logger = service.logger_pid
    assert command_line(logger) == f"forkd: logger [{service.name}]"
    held = sorted(files(logger))
    logs = [name for name in held if name.startswith(str(service.dir))]
    assert logs == [f"{service.dir}/access", str(service.error_log)]
    assert len([name for name in held if name.startswith("socket:")]) == 1  # to the master
    listening = subprocess.run(["ss", "-Hltxnp"], capture_output=True, text=True, check=True).stdout
    assert f"pid={logger}," not in listening


def test_an_idle_logger_does_not_wake(service: Daemon) -> None:
    service.start("--access-log", f"{service.dir}/access")
    service.get()
    logger = service.logger_pid
    until(lambda: "GET / " in (service.dir / "access").read_text(), "its line")

    def switches() -> int:
        """Of all its threads, of which one may be gone by now."""
        total = 0
        for task in Path(f"/proc/{logger}/task").glob("*/status"):
            with contextlib.suppress(*GONE):
                total += int(task.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        return total

    service.ok("status")  # a second or so, in which it has looked for more lines, and found none
    before = until(lambda: (n := switches()) == switches() and n, "it sleeps")
    service.admin("/healthz")
    service.ok("status")  # a second or so, in which the master has had its turns
    assert switches() == before


@pytest.mark.parametrize("same", [True, False])
def test_a_file_that_is_stdout(service: Daemon, same: bool) -> None:
    """In the foreground, its descriptors 1 and 2 redirected to files by a shell."""
    service.write_app(TALKING)
    out = service.error_log if same else service.dir / "out"
    command = service.argv("start", *service.flags("--access-log", "-"), "-f")
    with open(service.error_log, "ab") as err, open(out, "ab") as stdout:
        service.foreground = subprocess.Popen(
            command, cwd=service.dir, env=service.environ, text=True, stdin=subprocess.DEVNULL,
            stdout=stdout, stderr=err,
        )  # fmt: skip
    until(lambda: " serves " in service.log() and "metrics on" in service.log(), "serving")
    pids = [service.pid, *service.worker_pids()]
    for pid in pids:
        for fd in (1, 2):
            assert os.readlink(f"/proc/{pid}/fd/{fd}").startswith("pipe:")
    service.get("/n")
    service.ok("upgrade")
    service.get("/m")
    service.ok("stop")
    text = out.read_text()
    assert re.search('"GET /n HTTP/1.1" 200 2 ', text) and re.search('"GET /m HTTP/1.1" 200 2 ', text)
    assert text.count("out x") == 2
    assert service.log().count("err y") == 2
