"""System calls that a policy denies: a start ends and names the call, or does without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Daemon, processes_of
from .deny import NUMBERS

DENY = str(Path(__file__).with_name("deny.py"))
pytestmark = pytest.mark.skipif("flock" not in NUMBERS, reason="no numbers of system calls for this machine")


def denied(
    service: Daemon, error: str, calls: str, verb: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """A verb with those calls denied."""
    with open(service.dir / "said", "w+") as said:
        done = subprocess.run(
            [sys.executable, DENY, error, calls, *service.argv(verb, *arguments)],
            cwd=service.dir, env=service.environ, text=True, stdout=said, stderr=said, timeout=30,
        )  # fmt: skip
        said.seek(0)
        done.stdout = said.read()
    return done


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("preload", ["--no-preload", "--preload"])
@pytest.mark.parametrize(
    "call",
    ["pidfd_open", "pidfd_send_signal", "memfd_create", "eventfd2", "epoll_create1", "socketpair", "pipe2"],
)
def test_a_start_ends_and_names_the_call(
    service: Daemon, call: str, error: str, preload: str
) -> None:
    done = denied(service, error, call, "start", *service.flags(preload))
    service.expected_errors = ["the service did not start"]
    assert done.returncode == 1
    assert call.rstrip("012") in done.stdout, done.stdout
    assert error in done.stdout or "Operation not permitted" in done.stdout, done.stdout
    assert "a policy denies this system call" in done.stdout
    assert "Traceback" not in done.stdout
    assert processes_of(service.name) == []
    assert not service.pidfile.exists()


def test_a_process_that_cannot_begin_ends_the_start(service: Daemon) -> None:
    """The logger, which is the first; it was forked again for ever."""
    done = denied(service, "EPERM", "prctl", "start", *service.flags())
    service.expected_errors = ["the service did not start", "prctl"]
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + service.log()
    assert "prctl(PR_SET_PDEATHSIG): EPERM: Operation not permitted" in done.stdout
    assert processes_of(service.name) == []


def test_in_the_foreground_too(service: Daemon) -> None:
    done = denied(service, "EPERM", "memfd_create", "start", "-f", *service.flags())
    assert done.returncode == 1
    assert "memfd_create: EPERM: Operation not permitted; the kernel or a policy denies" in done.stdout


@pytest.mark.parametrize("call", ["pidfd_open", "memfd_create"])
def test_a_check_names_the_call(service: Daemon, call: str) -> None:
    done = denied(service, "EPERM", call, "check", *service.flags())
    assert done.returncode == 1
    assert f"forkd: {call}: EPERM: Operation not permitted" in done.stdout


def test_a_stop_names_the_call_and_stops_nothing(service: Daemon) -> None:
    service.start()
    done = denied(service, "EPERM", "pidfd_open", "stop")
    assert done.returncode == 1
    assert "forkd: stop: pidfd_open: EPERM: Operation not permitted" in done.stdout
    assert service.get() == "v1"


@pytest.mark.parametrize("call", ["sched_getaffinity", "close_range"])
def test_some_calls_are_not_needed(service: Daemon, call: str) -> None:
    done = denied(service, "EPERM", call, "start", *service.flags())
    assert done.returncode == 0, done.stdout
    assert service.get() == "v1"


@pytest.mark.parametrize("error", ["ENOLCK", "EPERM"])
def test_a_file_system_without_locks_is_said_to_be_one(service: Daemon, error: str) -> None:
    done = denied(service, error, "flock", "start", *service.flags())
    service.expected_errors = ["the service did not start"]
    assert done.returncode == 1
    said = f"flock({service.pidfile}): {error}: "
    assert said in done.stdout
    assert "the pid file needs a file system with locks: choose another --pidfile" in done.stdout
    service.pidfile.unlink(missing_ok=True)
    service.start()
    done = denied(service, error, "flock", "status")
    assert done.returncode == 1
    assert said in done.stdout
