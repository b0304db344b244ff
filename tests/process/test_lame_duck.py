"""--lame-duck: not ready any more, and still accepting, so that balancers turn away first."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from .clients import Load
from .conftest import Daemon, command_line, processes_of, until


def told_to_stop(service: Daemon, *flags: str) -> None:
    service.start(*flags)
    service.signal(signal.SIGTERM)
    until(lambda: service.admin("/readyz")[0] == 503, "not ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_everything_goes_on_until_a_second_signal(service: Daemon, number: int) -> None:
    service.expected_errors = ["gone: SIGKILL"]
    told_to_stop(service, "--lame-duck", "600")
    assert "draining" in service.admin("/readyz")[1]
    assert service.admin("/healthz")[0] == 200
    assert service.live()["master"]["state"] == "stopping"
    with Load(service.address, keep=1, fresh=1) as load:
        load.more(20)
    assert load.failures == []
    victim = service.worker_pids()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in service.worker_pids() and len(service.workers()) == 2, "another")
    done = service.run("reload")
    assert done.returncode == 1
    assert "the master is stopping" in done.stderr
    service.signal(number)
    service.gone()


def test_then_it_stops(service: Daemon) -> None:
    told_to_stop(service, "--lame-duck", "1")
    assert service.get() == "v1"
    service.gone()
    log = service.log()
    assert 0 < log.index("accepting for 1 s (--lame-duck)") < log.index(": stopping")


def test_an_upgrade_does_not_wait_for_it(service: Daemon) -> None:
    service.start("--lame-duck", "600")
    old = service.pid
    service.ok("upgrade")
    until(lambda: not os.path.exists(f"/proc/{old}"), "the old master gone")
    assert service.admin("/readyz")[0] == 200
    service.signal(signal.SIGTERM)
    until(lambda: service.admin("/readyz")[0] == 503, "not ready")


def test_a_start_that_is_broken_off_has_nothing_to_wait_for(service: Daemon) -> None:
    service.write_app("import time; time.sleep(60)\n")
    start = subprocess.Popen(
        service.argv("start", *service.flags("--lame-duck", "600")),
        cwd=service.dir, env=service.environ, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    workers = lambda: [p for p in processes_of(service.name) if "worker" in command_line(p)]  # noqa: E731
    until(workers, "a worker that boots")
    service.signal(signal.SIGTERM)
    service.gone()
    assert start.communicate(timeout=10)[1]
    assert start.returncode == 1
