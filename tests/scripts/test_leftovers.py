"""What a run of the tests leaves behind is found, and a run that is broken off leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.process.conftest import until

ROOT = Path(__file__).parents[2]
LEFTOVERS = str(ROOT / "scripts" / "leftovers")
LISTENER = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
time.sleep(60)
"""


def ports() -> str:
    done = subprocess.run(
        [LEFTOVERS, "ports"], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def check(directory: Path, before: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LEFTOVERS, "check", str(directory), before], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def run(stack: ExitStack, *command: str, **options: object) -> subprocess.Popen[str]:
    made: subprocess.Popen[str] = subprocess.Popen(command, text=True, **options)  # type: ignore[call-overload]
    stack.callback(made.wait, 10)
    stack.callback(made.kill)
    return made


def unchosen() -> socket.socket:
    """A listener on a port that the kernel does not choose."""
    for port in range(31_000, 32_000):
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise AssertionError("no port is free")


def test_processes_and_ports_that_are_left_are_named(stack: ExitStack, tmp_path: Path) -> None:
    run_of_ours, other = tmp_path / "ours", tmp_path / "ours too"
    run_of_ours.mkdir()
    other.mkdir()
    before = ports()
    works = run(stack, sys.executable, "-c", LISTENER, cwd=run_of_ours, stdout=subprocess.PIPE)
    told = run(stack, "sleep", "60", env={**os.environ, "TMPDIR": str(run_of_ours)})
    with open(run_of_ours / "file", "w") as file:
        has_open = run(stack, "sleep", "60", stdout=file)
    foreign = run(stack, "sleep", "60", cwd=other)
    assert works.stdout is not None
    port = int(works.stdout.readline())
    stack.callback(works.stdout.close)
    server = stack.enter_context(unchosen())
    done = check(run_of_ours, before)
    assert done.returncode == 1
    assert f"process {works.pid} is left, listens on {port}: {sys.executable} -c" in done.stderr
    for process in (told, has_open):
        assert f"process {process.pid} is left: sleep 60\n" in done.stderr
    assert str(foreign.pid) not in done.stderr
    assert (
        f"port {server.getsockname()[1]} is listened on, which it was not before\n" in done.stderr
    )
    for process in (works, told, has_open):
        process.kill()
        process.wait(10)
    done = check(run_of_ours, ports())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "xdist"])
def test_a_run_that_is_told_to_end_leaves_nothing(stack: ExitStack, workers: list[str]) -> None:
    """By SIGTERM, as timeout(1) and the CI do; in the middle of tests that have daemons."""
    # Not in pytest's directory: the path of a unix socket has to be short.
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="f", dir="/tmp")))
    with open(directory / "output", "w") as output:
        tests = run(
            stack, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *workers,
            "tests/process/test_matrix.py", "-k", "together", cwd=ROOT, stdout=output, stderr=output,
            env={**os.environ, "TMPDIR": str(directory), "TESTS_SAMPLED": ""},
        )  # fmt: skip
    until(lambda: list(directory.rglob("t*x*.pid")) or tests.poll() is not None, "a daemon", 60)
    assert tests.poll() is None, (directory / "output").read_text()
    tests.send_signal(signal.SIGTERM)
    assert tests.wait(60) == pytest.ExitCode.INTERRUPTED
    done = check(directory, ports())
    assert (done.returncode, done.stderr) == (0, "")
