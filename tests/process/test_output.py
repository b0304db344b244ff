"""A command whose output cannot be read: one line, if that is possible, and an exit code."""

from __future__ import annotations

import os
import subprocess

import pytest

from .conftest import Daemon

FULL = "forkd: write(stdout): ENOSPC: No space left on device"


def run(service: Daemon, *arguments: str, out: str = "/dev/full", err: str = "") -> tuple[int, str]:
    """(exit code, stderr without warnings) of a command whose stdout is that device, and stderr, if that one
    is given."""
    command, where = service.argv("status")[:3], service.argv("status")[4:]
    if arguments[0] in ("models", "list") or arguments[0].startswith("-"):
        where = []
    with open(out, "w") as stdout, open(err or os.devnull, "w") as stderr:
        done = subprocess.run(
            [*command, *arguments, *where], cwd=service.dir, env=service.environ, text=True,
            stdout=stdout, stderr=stderr if err else subprocess.PIPE, timeout=30,
        )  # fmt: skip
    said = (done.stderr or "").splitlines(keepends=True)
    return done.returncode, "".join(line for line in said if not line.startswith("forkd: warning: "))


@pytest.mark.parametrize(
    "arguments",
    [["models"], ["list"], ["list", "--json"], ["--help"], ["--version"], ["start", "--help"],
     ["check", "app:app", "-b", "127.0.0.1:0", "--admin", "none"]],
    ids=" ".join,
)  # fmt: skip
def test_a_full_disk_is_one_line(service: Daemon, arguments: list[str]) -> None:
    assert run(service, *arguments) == (1, f"{FULL}\n")


def test_a_full_disk_and_a_daemon_that_runs(service: Daemon) -> None:
    """What the command did is done, and the line says so."""
    assert run(service, "start", *service.flags()) == (1, f"{FULL}; the service runs\n")
    assert service.get() == "v1"
    assert run(service, "status") == (1, f"{FULL}\n")
    assert run(service, "status", "--json") == (1, f"{FULL}\n")
    assert run(service, "scale", "3") == (1, f"{FULL}; the number is changed\n")
    assert run(service, "reload") == (1, f"{FULL}; the reload is done\n")
    assert service.live()["master"]["generation"] == 2
    assert run(service, "upgrade") == (1, f"{FULL}; the upgrade is done\n")
    assert run(service, "restart") == (1, f"{FULL}; the service runs\n")
    assert service.get() == "v1"
    assert run(service, "stop") == (0, "")  # it has nothing to say


def test_a_terminal_that_is_gone(service: Daemon) -> None:
    master, terminal = os.openpty()
    name = os.ttyname(terminal)
    keep = os.open(name, os.O_WRONLY | os.O_NOCTTY)
    os.close(terminal)
    os.close(master)
    done = subprocess.run(
        service.argv("models"), cwd=service.dir, env=service.environ, text=True, stdout=keep,
        stderr=subprocess.PIPE, timeout=30,
    )  # fmt: skip
    os.close(keep)
    assert (done.returncode, done.stderr) == (1, "forkd: write(stdout): EIO: Input/output error\n")


@pytest.mark.parametrize(
    ("arguments", "code"), [(["status"], 3), (["start", "--wrokers", "3"], 2), (["nonsense"], 2)]
)
def test_the_code_is_the_same_where_stderr_is_full(service: Daemon, arguments: list[str], code: int) -> None:
    assert run(service, *arguments, err="/dev/full") == (code, "")


def test_a_reader_that_has_read_enough_is_no_error(service: Daemon) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        service.argv("models"), cwd=service.dir, env=service.environ, text=True, stdout=write,
        stderr=subprocess.PIPE, timeout=30,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
