"""stop, restart, reload, status, scale, check, models: what they do and how they exit."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from .conftest import Daemon, alive, until

NOT_RUNNING = 3


@pytest.mark.parametrize("verb", [["stop"], ["reload"], ["status"], ["scale", "3"]])
def test_not_running_is_exit_3(service: Daemon, verb: list[str]) -> None:
    done = service.run(*verb)
    assert done.returncode == NOT_RUNNING
    assert "not running" in done.stderr
    assert "Traceback" not in done.stderr


def test_stop_returns_when_all_are_gone(service: Daemon) -> None:
    service.start()
    pids = [service.pid, *service.worker_pids()]
    service.ok("stop")
    assert not [pid for pid in pids if alive(pid)]
    assert not service.pidfile.exists()


def test_stop_finishes_what_is_under_way(service: Daemon) -> None:
    service.start()
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(service.get("/sleep/0.7")))
    thread.start()
    until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
    service.ok("stop")
    thread.join(10)
    assert answers == ["slept"]


def test_restart_keeps_what_it_was_started_with(service: Daemon) -> None:
    service.start("-w", "3", "--keep-alive", "7")
    before, address = service.pid, service.address
    service.write_app(version="v2")
    service.ok("restart")
    assert service.pid != before
    assert service.get() == "v2"
    assert len(service.workers()) == 3
    assert service.status()["master"]["app"] == "app:app"
    assert service.address[0] == address[0]


COLOURED = """
    import os

    def app(environ, start):
        start("200 OK", [])
        return [os.environ["COLOUR"].encode()]
"""


def test_restart_takes_the_environment_of_its_caller_and_the_options_of_the_daemon(
    service: Daemon,
) -> None:
    service.write_app(COLOURED)
    service.environ |= {"COLOUR": "red", "FORKD_WORKERS": "3"}
    service.ok("start", "app:app", "-b", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert service.get() == "red"
    del service.environ["FORKD_WORKERS"]
    service.environ["COLOUR"] = "blue"
    service.ok("reload")
    assert service.get() == "red"
    service.ok("restart")
    assert service.get() == "blue"
    assert len(service.workers()) == 3


def test_restart_starts_what_does_not_run(service: Daemon) -> None:
    service.ok("restart", *service.flags())
    assert service.get() == "v1"


def test_restart_with_a_broken_file_leaves_it_running(service: Daemon) -> None:
    config = service.dir / "c.toml"
    config.write_text('app = "app:app"\nbind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n')
    service.start("-c", str(config), app=None)
    before = service.pid
    config.write_text("workers = -3\n")
    assert service.run("restart").returncode == 2
    assert service.pid == before
    assert service.get() == "v1"


def test_status_as_a_table(service: Daemon) -> None:
    service.start()
    table = service.ok("status")
    for word in (service.name, str(service.pid), "leader", "follower", "ready", "app:app"):
        assert word in table
    for pid in service.worker_pids():
        assert str(pid) in table


def test_status_tells_of_five_kill_9(service: Daemon) -> None:
    """It said nothing of them: five new workers, and a service that runs."""
    service.expected_errors = ["SIGKILL"]
    service.start()
    for count in range(1, 6):
        pid = service.worker_pids()[0]
        os.kill(pid, signal.SIGKILL)
        until(lambda c=count: service.live()["totals"]["untimely"] == {"SIGKILL": c}, "it is counted")
        until(lambda p=pid: len(set(service.worker_pids()) - {p}) == 2, "another in its place")
    text = service.ok("status")
    assert "died         5 workers: 5 SIGKILL; the last:" in text
    assert f"ago: worker {service.live()['departures'][-1]['slot']} (pid {pid}), SIGKILL, age " in text
    status = service.status()
    assert status["totals"]["exits"] == {"SIGKILL": 5}
    service.ok("upgrade")
    assert "died         5 workers: 5 SIGKILL; before an upgrade: see the error log" in service.ok("status")
    assert service.ok("status").count("SIGKILL") == 1  # the details were the master's before


def test_status_tells_of_a_crash_loop_before_anything_else(service: Daemon) -> None:
    service.expected_errors = [""]
    service.start()
    service.write_app("raise LookupError('broken on purpose')\n")
    for pid in service.worker_pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: service.live()["master"]["state"] == "crash-loop", "the breaker", 15)
    lines = service.ok("status").splitlines()
    assert lines[0].endswith(f"[{service.name}] crash-loop")
    assert "children in a row crashed" in lines[1]
    before_the_rest = lines[: lines.index(next(x for x in lines if x.startswith("master ")))]
    assert "  LookupError: broken on purpose" in before_the_rest
    assert any("/app.py" in line and "line 1" in line for line in before_the_rest)
    assert any(" boot, exit code 3, " in line for line in lines)


@pytest.mark.parametrize("access", [[], ["--access-log", "access.log"]], ids=" ".join)
def test_status_names_the_files(service: Daemon, access: list[str]) -> None:
    file = service.dir / "c.toml"
    file.write_text(f'bind = "unix:{service.dir}/web.sock"\nadmin = "127.0.0.1:0"\nworkers = 2\n')
    service.start("-c", str(file), *access)
    text = service.ok("status")
    for label, path in (
        ("config     ", file), ("pid file   ", service.pidfile), ("control    ", service.control),
        ("error log  ", service.error_log),
    ):  # fmt: skip
        assert f" {label}{path}\n" in text
    assert (f" access log {service.dir}/access.log\n" in text) == bool(access)
    assert f"listening    unix:{service.dir}/web.sock, " in text
    assert max(len(line) for line in text.splitlines() if "/" not in line) <= 100


def test_the_shape_of_status_json(service: Daemon) -> None:
    service.start()
    status = service.status()
    assert {"pid", "generation", "model", "io"} <= set(status["master"])
    assert status["master"]["pid"] == service.pid
    assert status["master"]["generation"] == 1
    assert (status["master"]["model"], status["master"]["io"]) == ("leader-followers", "epoll")
    for worker in status["workers"]:
        assert {
            "slot", "pid", "state", "role", "requests", "connections", "rss_bytes", "busy_for",
        } <= set(worker)  # fmt: skip
        assert worker["rss_bytes"] > 1 << 20
    assert sorted(w["role"] for w in status["workers"]) == ["follower", "leader"]
    (listener,) = status["listeners"]
    assert set(listener) >= {"address", "accept_queue", "backlog"}
    assert listener["accept_queue"] == 0
    assert listener["backlog"] > 0
    assert set(json.loads(service.admin("/status.json")[1])) == set(status)


def test_status_counts_requests_by_worker(service: Daemon) -> None:
    service.start()
    for _ in range(10):
        service.get()
    assert sum(w["requests"] for w in service.status()["workers"]) == 10


@pytest.mark.parametrize(("amount", "expected"), [("4", 4), ("+2", 4), ("-1", 1), ("1", 1)])
def test_scale(service: Daemon, amount: str, expected: int) -> None:
    service.start()
    assert service.ok("scale", amount) == f"{expected} workers\n"
    until(lambda: len(service.live()["workers"]) == len(service.workers()) == expected, "scaled")
    assert service.get() == "v1"


@pytest.mark.parametrize("amount", ["x", "", "+", "1.5", "--3", "³"])
def test_scale_by_nonsense_is_exit_2(service: Daemon, amount: str) -> None:
    service.start()
    done = service.run("scale", amount)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(service.workers()) == 2


@pytest.mark.parametrize("amount", ["-9", "100000", "9" * 30])
def test_scale_beyond_what_is_possible_is_refused(service: Daemon, amount: str) -> None:
    service.start()
    assert service.run("scale", amount).returncode == 1
    assert len(service.workers()) == 2
    assert service.get() == "v1"


def test_check_changes_nothing(service: Daemon) -> None:
    before = sorted(os.listdir(service.dir))
    printed = service.ok("check", "app:app")
    assert "ok" in printed
    assert sorted(os.listdir(service.dir)) == before


def test_check_says_what_is_wrong(service: Daemon) -> None:
    service.write_app("import this_is_not_there\n")
    done = service.run("check", "app:app")
    assert done.returncode == 1
    assert "this_is_not_there" in done.stderr
    assert service.run("check", "app:app", "-w", "x").returncode == 2


def test_check_beside_a_running_daemon(service: Daemon) -> None:
    service.start("-b", "127.0.0.1:0")
    port = service.address[1]
    service.ok("check", "app:app", "-b", f"127.0.0.1:{port}")
    assert service.get() == "v1"


def test_models_lists_the_default(service: Daemon) -> None:
    printed = service.ok("models")
    for word in ("leader-followers", "epoll", "blocking", "promote a follower", "asgi (--io io_uring)"):
        assert word in printed


def test_the_address_can_be_bound_after_stop(service: Daemon) -> None:
    service.start()
    port = service.address[1]
    service.get()
    service.ok("stop")
    service.start("-b", f"127.0.0.1:{port}")
    assert service.get() == "v1"
