"""forkd as PID 1 of a container: a PID namespace of the test's."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Daemon, alive, children_of, command_line, until, zombies_of

NAMESPACE = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]

pytestmark = pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0,
    reason="PID namespaces are not permitted here",
)

ORPHANS = """
    import os
    def app(environ, start):
        if environ["PATH_INFO"] == "/orphan" and os.fork() == 0:
            if os.fork() == 0:
                os._exit(0)    # its parent goes first, or at once after it: PID 1 is to reap it
            os._exit(0)
        if environ["PATH_INFO"] == "/pid":
            start("200 OK", []); return [str(os.getppid()).encode()]
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"v1"]
"""


@pytest.fixture
def contained(service: Daemon) -> Iterator[Daemon]:
    service.under = NAMESPACE
    service.write_app(ORPHANS)
    yield service
    if service.foreground is not None and service.foreground.poll() is None:
        service.foreground.kill()  # --kill-child: and with it the namespace


def master(service: Daemon) -> int:
    assert service.foreground is not None
    return children_of(service.foreground.pid)[0]


def test_strangers_are_reaped_and_term_is_obeyed(contained: Daemon) -> None:
    contained.start_in_foreground()
    pid = master(contained)
    assert contained.get("/pid") == "1"
    for _ in range(20):
        contained.get("/orphan")
    workers = {w["pid"] for w in contained.workers()}
    assert len(workers) == 2

    def only_its_own() -> bool:
        # No zombie is left of the strangers; the first of each pair is the worker's own to reap.
        # Two workers and the logger remain.
        return (
            len([c for c in children_of(pid) if not alive(c)]) == 0 and len(children_of(pid)) == 3
        )

    until(only_its_own, "the strangers to be reaped")
    os.kill(pid, signal.SIGTERM)
    contained.gone()
    assert contained.foreground is not None and contained.foreground.returncode == 0
    assert "stranger" not in contained.log()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_it_ends_at_once_when_told_to(contained: Daemon, number: int) -> None:
    """PID 1 has no default actions: a signal without a handler would be ignored."""
    contained.start_in_foreground()
    os.kill(master(contained), number)
    contained.gone()
    assert contained.foreground is not None and contained.foreground.returncode == 0


def test_reload_works_in_there(contained: Daemon) -> None:
    contained.start_in_foreground()
    contained.write_app(version="v2")
    os.kill(master(contained), signal.SIGHUP)
    until(lambda: contained.get() == "v2", "the new code")
    os.kill(master(contained), signal.SIGTERM)
    contained.gone()


def test_a_command_from_outside_signals_no_stranger(contained: Daemon) -> None:
    """In the pid file there is a 1, which is another process here."""
    contained.start_in_foreground()
    assert contained.pid == 1
    done = contained.run("stop")
    assert done.returncode == 1 and "another PID namespace" in done.stderr
    os.kill(master(contained), signal.SIGTERM)
    contained.gone()


def test_it_stays_when_an_upgrade_has_made_another_the_master(contained: Daemon) -> None:
    contained.start_in_foreground()
    pid = master(contained)
    before = set(contained.worker_pids())
    os.kill(pid, signal.SIGUSR2)
    until(lambda: contained.log().count(" serves app:app ") == 2, "the new master")
    until(lambda: not [p for p in before if alive_inside(pid, p)], "the old workers gone")
    until(lambda: command_line(pid).startswith("forkd: foreground"), "it stands in")
    contained.get("/orphan")
    assert contained.get("/") == "v1"
    until(lambda: not zombies_of(pid), "the strangers to be reaped")
    os.kill(pid, signal.SIGTERM)
    contained.gone()
    assert contained.foreground is not None and contained.foreground.returncode == 0


def alive_inside(outer: int, inner: int) -> bool:
    """Whether the namespace of `outer` has a process with that pid."""
    return Path(f"/proc/{outer}/root/proc/{inner}").exists() and alive(outer)
