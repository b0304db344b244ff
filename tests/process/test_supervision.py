"""Promises about generations and crashes that no single verb shows."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from .conftest import Daemon, alive, command_line, processes_of, until

#: Ends its process from a thread, a moment after it was loaded.
SHORT_LIVED = """
    import os, threading
    threading.Timer(0.3, os._exit, [CODE]).start()
    def app(environ, start):
        start("200 OK", [])
        return [b"v1"]
"""


@pytest.mark.parametrize("code", [0, 1])
def test_a_crash_loop_after_ready_is_one_whatever_the_exit_code(
    service: Daemon, code: int
) -> None:
    service.expected_errors = ["gone: (exit|error)", "crash loop"]
    service.start("-w", "1")
    [pid] = service.worker_pids()
    service.write_app(SHORT_LIVED.replace("CODE", str(code)))
    os.kill(pid, signal.SIGTERM)  # replaced by one with the new code
    until(lambda: service.live()["master"]["state"] == "crash-loop", "the breaker", 20)
    reason = "exit" if code == 0 else "error"
    assert 5 <= service.metric("forkd_worker_exits_total", reason=reason) < 10
    assert service.admin("/readyz")[0] == 503
    service.write_app(version="v2")
    service.ok("reload")
    assert service.get() == "v2"
    assert service.admin("/readyz")[0] == 200


# ---- an application that is not wanted yet must be sound all the same --------------------------


def test_on_demand_a_broken_application_fails_the_start(service: Daemon) -> None:
    service.expected_errors = ["gone: boot"]
    service.write_app("raise LookupError('broken on purpose')\n")
    done = service.run("start", *service.flags("-w", "0:2"))
    assert done.returncode == 1
    assert "LookupError: broken on purpose" in done.stderr
    service.gone()


def test_on_demand_a_broken_application_fails_the_reload(service: Daemon) -> None:
    service.expected_errors = [""]
    service.start("-w", "0:2", "--scale-down-after", "1")
    until(lambda: not service.live()["workers"], "nobody")
    service.write_app("raise LookupError('broken on purpose')\n")
    done = service.run("reload")
    assert done.returncode == 1
    assert "LookupError: broken on purpose" in done.stderr
    service.write_app(version="v2")
    service.ok("reload")
    until(lambda: not service.live()["workers"], "who has proved it has gone")
    assert service.live()["master"]["generation"] == 2
    assert service.get() == "v2"


# ---- the number of workers ---------------------------------------------------------------------


def test_a_number_that_was_set_survives_a_reload(service: Daemon) -> None:
    file = service.dir / "forkd.toml"
    text = 'bind = ["127.0.0.1:0"]\nadmin = "127.0.0.1:0"\nworkers = %d\n'
    file.write_text(text % 1)
    service.start("-c", str(file))
    service.ok("scale", "3")
    until(lambda: len(service.workers()) == 3, "three")
    service.ok("reload")
    until(lambda: len(service.live()["workers"]) == 3, "three of the new generation")
    assert {w["generation"] for w in service.workers()} == {2}
    file.write_text(text % 2)
    service.ok("reload")
    until(lambda: len(service.live()["workers"]) == 2, "what is configured now")


def test_none_is_a_number_that_survives(service: Daemon) -> None:
    service.start()
    service.ok("scale", "0")
    until(lambda: not service.live()["workers"], "nobody")
    service.ok("reload")
    until(lambda: not service.live()["workers"], "who has proved the application has gone")
    assert service.live()["master"]["generation"] == 2


# ---- upgrades in the foreground ----------------------------------------------------------------


def test_the_foreground_process_outlives_upgrades_and_passes_signals_on(service: Daemon) -> None:
    first = service.start_in_foreground("-w", "1")
    masters = [first.pid]
    for number in (1, 2):
        os.kill(first.pid, signal.SIGUSR2)
        until(lambda number=number: service.log().count(" serves app:app ") > number, "the next")
        until(lambda: service.pid not in masters, "its pid in the file")
        masters.append(service.pid)
        until(lambda: command_line(first.pid).startswith("forkd: foreground"), "it stands in")
        assert service.get() == "v1"
    until(lambda: not alive(masters[1]), "the second master has gone")
    until(
        lambda: len(processes_of(service.name)) == 4, "the first, the third, its worker and logger"
    )
    worker = service.worker_pids()
    os.kill(first.pid, signal.SIGHUP)
    until(lambda: service.worker_pids() not in ([], worker), "a reload")
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(10) == 0


def test_the_foreground_fails_with_the_master_that_was_killed(service: Daemon) -> None:
    first = service.start_in_foreground("-w", "1")
    service.ok("upgrade")
    os.kill(service.pid, signal.SIGKILL)
    assert first.wait(10) == 1
    service.pidfile.unlink()  # as after any SIGKILL of a master
    service.control.unlink()


def test_a_stop_during_the_drain_of_an_upgrade_stops_the_new_master(service: Daemon) -> None:
    first = service.start_in_foreground("-w", "1")
    answers: list[str] = []
    slow = threading.Thread(target=lambda: answers.append(service.get("/sleep/2")))
    slow.start()
    until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
    service.ok("upgrade")
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(15) == 0
    slow.join()
    assert answers == ["slept"]


def test_a_stop_during_an_upgrade_does_not_say_that_the_master_goes_on(service: Daemon) -> None:
    service.start()
    gate = service.dir / "gate"
    os.mkfifo(gate)
    service.write_app("open('gate').read()\n" + Path(service.dir / "app.py").read_text())
    service.signal(signal.SIGUSR2)
    until(lambda: "is starting" in service.log(), "the upgrade")
    service.ok("stop")
    until(lambda: "upgrade given up: the master is stopping" in service.log(), "the line in the log")
    assert "goes on" not in service.log()
