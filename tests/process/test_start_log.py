"""A start that fails says why where an operator looks: on the command's stderr and in the error log."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Daemon, processes_of


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is listened on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def _no_module(service: Daemon, port: int) -> list[str]:
    service.write_app("import this_is_not_there\n")
    return []


def _exits(service: Daemon, port: int) -> list[str]:
    service.write_app("import os\nos._exit(3)\n")
    return []


def _dies(service: Daemon, port: int) -> list[str]:
    service.write_app("import os\nos.abort()\n")
    return []


def _preloads(service: Daemon, port: int) -> list[str]:
    service.write_app("import this_is_not_there\n")
    return ["--preload"]


def _hangs(service: Daemon, port: int) -> list[str]:
    service.write_app("import time\ntime.sleep(60)\n")
    return ["--boot-timeout", "1"]


def _hook(service: Daemon, port: int) -> list[str]:
    (service.dir / "myhooks.py").write_text("import this_is_not_there\n")
    return ["--hooks", "myhooks"]


#: What goes wrong, and what the error has to say of it.
FAULTS: dict[str, tuple[Callable[[Daemon, int], list[str]], str]] = {
    "import": (_no_module, "No module named 'this_is_not_there'"),
    "exit": (_exits, "ended with exit code 3 before it was ready"),
    "signal": (_dies, "ended by SIGABRT before it was ready"),
    "preload": (_preloads, "No module named 'this_is_not_there'"),
    "boot-timeout": (_hangs, "within 1 s (--boot-timeout)"),
    "hook": (_hook, "No module named 'this_is_not_there'"),
    "bind": (lambda service, port: ["-b", f"127.0.0.1:{port}"], "EADDRINUSE"),
    "admin": (lambda service, port: ["--admin", f"127.0.0.1:{port}"], "EADDRINUSE"),
    "control": (lambda service, port: ["--control", f"{service.dir}"], "is not a socket"),
    "chdir": (lambda service, port: ["--chdir", f"{service.dir}/none"], "chdir"),
    "pidfile directory": (lambda service, port: ["--control", "/proc/none/x.sock"], "mkdir(/proc/none)"),
    "user": (lambda service, port: ["--user", "no-such-user"], "no-such-user"),
    "access log": (lambda service, port: ["--access-log", "/proc/none/x"], "access log /proc/none/x"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("foreground", [False, True], ids=["detached", "foreground"])
def test_a_boot_failure_is_on_stderr_and_in_the_error_log(
    service: Daemon, taken: int, fault: str, foreground: bool
) -> None:
    service.expected_errors = [""]
    make, said = FAULTS[fault]
    flags = service.flags(*make(service, taken))
    where = ["-f", "--error-log", str(service.error_log)] if foreground else []
    done = service.run("start", *flags, *where)
    assert done.returncode == 1
    assert done.stderr.startswith("forkd: ")
    assert said in done.stderr
    told = [line for line in service.log().splitlines() if "the service did not start: " in line]
    assert len(told) == 1, service.log()
    assert "] error master: the service did not start: " in told[0]
    assert said in service.log()
    assert processes_of(service.name) == []


def test_it_is_an_object_among_json_lines(service: Daemon, taken: int) -> None:
    service.run("start", *service.flags("-b", f"127.0.0.1:{taken}", "--log-format", "json"))
    (line,) = [json.loads(line) for line in service.log().splitlines()]
    assert line["level"] == "error"
    assert line["message"].startswith("the service did not start: bind(127.0.0.1:")


def test_who_finds_it_running_leaves_the_log_of_the_daemon_alone(service: Daemon) -> None:
    service.start()
    before = service.log()
    done = service.run("start", *service.flags())
    assert (done.returncode, "already running" in done.stderr) == (1, True)
    assert service.log() == before


def test_the_terminal_is_let_go_once_it_serves(service: Daemon, tmp_path: Path) -> None:
    """Who has started it in the foreground with a log of its own waits for the end of its stderr."""
    seen = tmp_path / "stderr"
    with seen.open("w") as terminal:
        process = service.start_in_foreground("--error-log", str(service.error_log), stderr=terminal)
        links = [
            link.resolve()
            for pid in [process.pid, *service.worker_pids()]
            for link in Path(f"/proc/{pid}/fd").iterdir()
        ]
    assert seen.resolve() not in links
    assert seen.read_text() == ""
