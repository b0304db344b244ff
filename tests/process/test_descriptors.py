"""What an application does to descriptors: it inherits none of forkd's, and may lose its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from forkd.models import registry
from forkd.models.row import ModelRow

from .clients import Load
from .conftest import Daemon, until

APP = """
    import os, subprocess

    def app(environ, start):
        path = environ["PATH_INFO"]
        body = b"ok"
        if path == "/spawn":
            # By fork and exec, with all descriptors that are not O_CLOEXEC.
            body = str(subprocess.Popen(["sleep", "600"], close_fds=False).pid).encode()
        elif path == "/close":
            for fd in range(3):
                try:
                    os.close(fd)
                except OSError:
                    pass
        elif path == "/print":
            os.write(1, b"to standard output\\n")
            os.write(2, b"to standard error\\n")
        elif path == "/fail":
            raise RuntimeError("the app failed on purpose")
        elif path == "/leak":
            try:
                while True:
                    LEAKED.append(open("/dev/null"))
            except OSError:
                body = str(os.getpid()).encode()
        elif path == "/pid":
            body = str(os.getpid()).encode()
        fields = [("Content-Length", str(len(body)))]
        if "HTTP_X_REQUEST_ID" in environ:
            fields.append(("X-Request-Id", environ["HTTP_X_REQUEST_ID"]))
        start("200 OK", fields)
        return [body]

    LEAKED = []
"""
EVERY_WAY = [
    *(
        pytest.param(
            ["-m", row.name, "--io", io], marks=[pytest.mark.soak] if io != row.ios[0] else []
        )
        for row in registry.MODELS
        for io in row.ios
    ),
    ["-m", "leader-followers", "--threads", "3"],
    ["-m", "proactor", "--threads", "3"],
    ["--accept", "reuseport"],
    ["--accept", "exclusive"],
    ["--preload"],
    ["--preload", "-m", "half-sync-half-async"],
]


@pytest.fixture(autouse=True)
def app(service: Daemon) -> None:
    service.write_app(APP)


@pytest.mark.parametrize("flags", EVERY_WAY, ids=" ".join)
def test_a_program_that_the_application_starts_has_none_of_ours(
    service: Daemon, flags: list[str]
) -> None:
    unix = [] if "reuseport" in flags else ["-b", f"unix:{service.dir}/s.sock"]
    service.start(*flags, "--access-log", "access.log", "-b", "127.0.0.1:0", *unix)
    with Load(service.address, keep=1):  # another client's connection is open, too
        pid = int(service.get("/spawn"))
        try:
            program = Path(f"/proc/{pid}")
            until(lambda: b"sleep" in (program / "cmdline").read_bytes(), "the program")

            def only_its_own() -> bool:  # once it has read its locale
                return {fd.name for fd in (program / "fd").iterdir()} <= {"0", "1", "2"}

            until(only_its_own, "no descriptor but 0, 1 and 2")
        finally:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("row", registry.MODELS, ids=lambda row: row.name)
def test_nobody_reads_the_log_when_the_application_closes_0_to_2(
    service: Daemon, row: ModelRow
) -> None:
    service.expected_errors = [r"failed on GET /fail", "Traceback"]
    service.start("-w", "1", "-m", row.name)
    assert service.get("/close") == "ok"
    for _ in range(5):
        assert service.get("/print") == "ok"
        with service.connect() as client:
            client.sendall(b"GET /fail HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda client=client: client.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"on purpose" not in answer
        assert b"to standard" not in answer


@pytest.mark.parametrize("flags", [[], ["--preload"]], ids=" ".join)
def test_closed_at_import(service: Daemon, flags: list[str]) -> None:
    service.write_app("import os\nfor fd in range(3):\n    os.close(fd)\n" + _dedented(APP))
    service.start(*flags, "-w", "1", "--access-log", "access.log")
    with Load(service.address, keep=2, fresh=2, path="/print") as load:
        load.more(50)
    assert load.failures == []
    (worker,) = service.worker_pids()
    for fd in range(3):
        # The pipe to the logger, which is the only one to have the file open.
        masters = os.readlink(f"/proc/{service.pid}/fd/{fd}")
        assert os.readlink(f"/proc/{worker}/fd/{fd}") in (os.devnull, masters)
    assert "to standard" not in (service.dir / "access.log").read_text()


#: Each combination of the three that may be closed, as a shell has it.
CLOSED = [
    " ".join(some) for count in (1, 2, 3) for some in itertools.combinations(["<&-", ">&-", "2>&-"], count)
]


def run_with_closed(service: Daemon, closed: str, command: list[str]) -> int:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        cwd=service.dir, env=service.environ, timeout=60,
    )  # fmt: skip
    return done.returncode


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_by_whoever_starts_it(service: Daemon, closed: str) -> None:
    command = service.argv("start", *service.flags("--access-log", "access.log"))
    assert run_with_closed(service, closed, command) == 0, service.log()
    assert re.fullmatch(r"\d+\n", service.pidfile.read_text())
    assert run_with_closed(service, closed, service.argv("status")) == 0
    service.ok("upgrade")
    assert service.get("/print") == "ok"
    until(lambda: "to standard" in service.log(), "what the application prints")
    assert "to standard" not in (service.dir / "access.log").read_text()


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_by_whoever_starts_it_in_the_foreground(service: Daemon, closed: str) -> None:
    path = service.dir / "s"
    service.under = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    command = service.argv("start", *service.flags("-b", f"unix:{path}", "--admin", "none"), "-f")
    with open(service.error_log, "ab") as log:
        service.foreground = subprocess.Popen(
            [*service.under, *command], cwd=service.dir, env=service.environ, text=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    until(lambda: service.pidfile.exists() and service.run("status").returncode == 0, "serving")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /print HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"ok")
    assert re.fullmatch(r"\d+\n", service.pidfile.read_text())
    master = service.pid
    assert [os.readlink(f"/proc/{master}/fd/0")] == [os.devnull]
    if "2>&-" not in closed:
        until(lambda: "to standard" in service.log(), "what the application prints")
    service.ok("stop")
    assert service.foreground.wait(10) == 0


def test_files_that_python_has_not_although_they_are_open(service: Daemon) -> None:
    program = (
        "import sys; sys.stdin = sys.stdout = sys.stderr = None; "
        "from forkd.command import main as cli; cli.main()"
    )
    for arguments, code in ((["models"], 0), (["nonsense"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=service.dir, env=service.environ, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == code
        assert ("leader-followers" in done.stdout) == (code == 0)
        assert ("forkd: " in done.stderr) == (code == 2)


def test_a_worker_that_has_no_descriptor_left_leaves_the_service_to_the_others(
    service: Daemon,
) -> None:
    service.expected_errors = ["EMFILE"]
    service.under = ["prlimit", "--nofile=256:256"]
    service.start_in_foreground("-w", "2", "--worker-connections", "100")
    full = service.get("/leak")
    with contextlib.ExitStack() as stack:
        answers = []
        for _ in range(20):
            client = stack.enter_context(contextlib.closing(service.client()))
            client.request("GET", "/pid")
            answers.append(client.getresponse().read().decode())
    # What its last client left is room for one.
    assert answers.count(full) <= 1


def _dedented(source: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in source.splitlines())
