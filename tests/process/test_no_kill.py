"""Root that may not signal its workers: a container with SETUID and SETGID and without KILL, and --user."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from forkd.system.signal_sockets import SignalSockets

from .conftest import Daemon, alive, command_line, processes_of, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

#: As `cap_drop: [ALL]`, `cap_add: [SETUID, SETGID]` has it.
FEW = ["setpriv", "--bounding-set", "-all,+setuid,+setgid", "--inh-caps", "-all"]
SETUID_AND_SETGID = 1 << 7 | 1 << 6

KINDS = {
    "native": [],
    "without native code": ["--no-native"],
    "preload": ["--preload"],
    "threads": ["--threads", "2"],
}
#: Its processes have the worker's ids, and the worker ends them itself.
FORKS = {"process-per-connection": ["-m", "process-per-connection"]}


def start(service: Daemon, *flags: str) -> None:
    service.open_up()
    service.under = FEW
    service.start_in_foreground("--user", "nobody", *flags)
    found = re.search(r"^CapEff:\s*(\w+)", Path(f"/proc/{service.pid}/status").read_text(), re.M)
    assert found is not None and int(found[1], 16) == SETUID_AND_SETGID
    assert all(os.stat(f"/proc/{pid}").st_uid != 0 for pid in service.worker_pids())


def ask(service: Daemon, path: str) -> socket.socket:
    """A client whose request is in the application."""
    client = service.connect()
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    until(lambda: any(w["in_flight"] for w in service.workers()), "the request in flight")
    return client


@pytest.mark.parametrize("kind", KINDS | FORKS)
def test_a_reload_ends_who_does_not_finish(service: Daemon, kind: str) -> None:
    start(service, *(KINDS | FORKS)[kind], "--graceful-timeout", "0.5s")
    old = service.worker_pids()
    with ask(service, "/c/60"):
        service.ok("reload")
        until(lambda: not [pid for pid in old if alive(pid)], "the old workers gone")
    assert service.get() == "v1"
    assert len(service.workers()) == 2
    until(lambda: "not done in time" in service.log(), "the report")


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_is_stuck_is_killed_with_its_stacks(service: Daemon, kind: str) -> None:
    access = service.dir / "access.log"
    start(service, *KINDS[kind], "--timeout", "0.5s", "--access-log", str(access))
    service.expected_errors = ["gone: timeout"]
    with ask(service, "/c/60"):
        until(lambda: "gone: timeout" in service.log(), "the report")
    until(lambda: "app.py" in service.log(), "its stack")
    until(lambda: '"GET /c/60 HTTP/1.1" 504' in access.read_text(), "its line")
    until(lambda: len(service.workers()) == 2, "another in its place")
    assert service.get() == "v1"


def test_one_that_is_stopped_is_killed_too(service: Daemon) -> None:
    start(service, "--graceful-timeout", "0.5s")
    old = service.worker_pids()
    for pid in old:
        os.kill(pid, signal.SIGSTOP)  # the test may
    service.ok("reload")
    until(lambda: not [pid for pid in old if alive(pid)], "the old workers gone")
    assert service.get() == "v1"


@pytest.mark.parametrize(
    ("kind", "path"), [*((kind, "/c/60") for kind in KINDS | FORKS), ("native", "/sleep/60")]
)
def test_a_master_that_is_killed_leaves_nothing(service: Daemon, kind: str, path: str) -> None:
    start(service, *(KINDS | FORKS)[kind])
    pids, address = service.pids(), service.address
    with ask(service, path):
        service.signal(signal.SIGKILL)
        until(lambda: not [pid for pid in pids if alive(pid)], "all gone")
    assert service.foreground is not None
    service.foreground.wait(10)
    assert not processes_of(service.name)
    service.start("-b", f"127.0.0.1:{address[1]}")
    assert service.get() == "v1"


def test_stop_ends_all(service: Daemon) -> None:
    start(service, "--graceful-timeout", "0.5s")
    with ask(service, "/c/60"):
        assert service.ok("stop") == ""
        service.gone(0)


def test_int_ends_all_at_once(service: Daemon) -> None:
    start(service)
    with ask(service, "/c/60"):
        service.signal(signal.SIGINT)
        service.gone()


def test_stop_after_an_upgrade_leaves_nothing(service: Daemon) -> None:
    start(service, "--graceful-timeout", "0.5s")
    old = service.worker_pids()
    with ask(service, "/c/60"):
        service.ok("upgrade")
        until(lambda: not [pid for pid in old if alive(pid)], "the workers of the old master gone")
        service.ok("stop")
        service.gone()


def test_a_template_that_hangs_is_killed(service: Daemon) -> None:
    start(service, "--preload", "--boot-timeout", "1s")
    service.write_app("import time\ntime.sleep(60)\n")
    service.expected_errors = ["reload", "not ready within"]
    done = service.run("reload")
    assert done.returncode == 1
    assert "time.sleep" in done.stderr or "app.py" in done.stderr
    all_of_them = [pid for pid in processes_of(service.name) if "template" in command_line(pid)]
    until(lambda: len([pid for pid in all_of_them if alive(pid)]) <= 1, "the template gone")
    assert service.get() == "v1"


def test_a_hook_that_hangs_is_killed(service: Daemon) -> None:
    service.write_app("import time\ndef on_reload(place):\n    time.sleep(60)\n", name="hooks.py")
    start(service, "--hooks", "hooks", "--timeout", "1s")
    service.expected_errors = ["hook on_reload"]
    service.ok("reload")
    until(lambda: "failed: SIGKILL" in service.log(), "its end")


def test_who_may_signal_has_no_such_sockets() -> None:
    ours, theirs = SignalSockets.pair((signal.SIGKILL,))
    assert (len(ours), len(theirs)) == (0, 0)
