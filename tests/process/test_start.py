"""`forkd start`: returns when the service answers, or fails with the reason and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from .conftest import Daemon, alive, command_line, processes_of, until, zombies_of


def nothing_left(service: Daemon) -> None:
    assert processes_of(service.name) == []
    assert not service.pidfile.exists()
    assert not service.control.exists()


def test_it_answers_when_start_returns_and_says_where(service: Daemon) -> None:
    printed = service.start()
    assert service.get() == "v1"
    host, port = service.address
    assert f"http://{host}:{port}/" in printed
    assert str(service.pid) in printed
    assert str(service.error_log) in printed
    metrics = re.search(r"http://127\.0\.0\.1:\d+/metrics", printed)
    assert metrics is not None


def test_all_children_serve_when_it_returns(service: Daemon) -> None:
    service.start("-w", "3")
    assert len(service.workers()) == 3
    assert service.admin("/readyz")[0] == 200


def test_without_an_application_there_is_a_welcome(service: Daemon) -> None:
    service.start(app=None)
    page = service.get()
    assert "forkd" in page
    assert "leader-followers" in page
    assert "/metrics" in page


def test_the_applications_traceback_is_printed(service: Daemon) -> None:
    service.write_app("import this_is_not_there\n")
    done = service.run("start", *service.flags())
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'this_is_not_there'" in done.stderr
    assert 'app.py", line 1' in done.stderr
    nothing_left(service)
    service.expected_errors = [""]


@pytest.mark.parametrize(
    ("source", "app", "said"),
    [
        ("x = 1\n", "app:app", "no attribute 'app'"),
        ("app = 1\n", "app:app", "no application"),
        ("def make():\n    return 1 / 0\n", "app:make()", "ZeroDivisionError"),
        ("import os\nos._exit(3)\n", "app:app", ""),
        ("import sys\nsys.exit('enough')\n", "app:app", "enough"),
        ("def app(:\n", "app:app", "SyntaxError"),
    ],
)
def test_an_application_that_does_not_load(
    service: Daemon, source: str, app: str, said: str
) -> None:
    service.write_app(source)
    service.expected_errors = [""]
    done = service.run("start", *service.flags(app=app))
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.strip()
    nothing_left(service)


def test_an_address_in_use_names_its_holder(service: Daemon) -> None:
    holder = subprocess.Popen(
        [
            "python3", "-c",
            "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
            "print(s.getsockname()[1], flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdin is not None
    port = holder.stdout.readline().strip()
    try:
        done = service.run("start", *service.flags("-b", f"127.0.0.1:{port}"))
        assert done.returncode == 1
        assert "EADDRINUSE" in done.stderr
        assert f"pid {holder.pid}" in done.stderr
        nothing_left(service)
    finally:
        holder.stdin.close()
        holder.wait(10)
        holder.stdout.close()


def test_when_one_of_several_addresses_is_in_use_none_stays(service: Daemon) -> None:
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        free_port = free.getsockname()[1]
        free.close()
        done = service.run(
            "start", *service.flags(
                "-b", f"127.0.0.1:{free_port}", "-b", f"127.0.0.1:{taken.getsockname()[1]}",
                "-b", f"unix:{service.dir}/s.sock",
            )
        )  # fmt: skip
    assert done.returncode == 1
    assert not (service.dir / "s.sock").exists()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", free_port))
    nothing_left(service)


def test_wrong_options_are_told_all_at_once_with_exit_2(service: Daemon) -> None:
    config = service.dir / "c.toml"
    config.write_text('workers = "many"\ntimeuot = 3\nbacklog = -1\n')
    done = service.run("start", "app:app", "-c", str(config))
    assert done.returncode == 2
    for word in ("workers", "many", "timeuot", "timeout?", "backlog"):
        assert word in done.stderr
    nothing_left(service)


@pytest.mark.parametrize(
    "flags", [["--io", "nope"], ["-m", "nope"], ["--wrokers", "3"], ["-w", "0"], ["-b", "x"]]
)
def test_a_bad_option_is_exit_2(service: Daemon, flags: list[str]) -> None:
    done = service.run("start", *service.flags(*flags))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    nothing_left(service)


def test_of_two_that_race_exactly_one_wins(service: Daemon) -> None:
    running = [
        subprocess.Popen(
            service.argv("start", *service.flags()), cwd=service.dir, env=service.environ,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    ended = [(p.communicate(timeout=30), p.returncode) for p in running]
    assert sorted(code for _, code in ended) == [0, 1]
    loser = next(err for (_, err), code in ended if code == 1)
    assert "already running" in loser
    assert service.get() == "v1"
    assert len([p for p in processes_of(service.name) if "master" in command_line(p)]) == 1


def test_a_second_start_is_refused_and_the_first_goes_on(service: Daemon) -> None:
    service.start()
    before = service.pid
    done = service.run("start", *service.flags())
    assert done.returncode == 1
    assert f"pid {before}" in done.stderr
    assert service.pid == before
    assert service.get() == "v1"


def test_a_pid_file_that_was_left_blocks_nobody(service: Daemon) -> None:
    service.pidfile.write_text("1\n")
    service.start()
    assert service.pid != 1


def test_titles(service: Daemon) -> None:
    service.start()
    assert command_line(service.pid) == f"forkd: master [{service.name}]"
    titles = sorted(command_line(pid) for pid in service.worker_pids())
    assert titles == [f"forkd: worker {n} [{service.name}]" for n in (1, 2)]


def test_the_foreground_is_a_child_of_who_started_it(service: Daemon) -> None:
    process = service.start_in_foreground()
    assert process.pid == service.pid
    assert service.get() == "v1"
    service.ok("stop")
    assert process.wait(10) == 0


def test_a_detached_daemon_has_left_its_session_and_terminal(service: Daemon) -> None:
    service.start()
    fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
    session, terminal = int(fields[3]), int(fields[4])
    assert terminal == 0
    assert session != int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[3])


def inherited(what: str) -> None:
    """In the child that becomes `forkd`: what careless programs leave to those that they start."""
    everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    if what == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    else:
        for number in everything - set(range(32, 35)):
            signal.signal(number, signal.SIG_IGN)


def another_than(pid: int, service: Daemon) -> int:
    """The one worker, or 0 for as long as it is that one, or not the only one."""
    pids = service.worker_pids()
    return pids[0] if len(pids) == 1 and pids[0] != pid and not zombies_of(service.pid) else 0


@pytest.mark.parametrize("what", ["blocked", "ignored"])
def test_signals_that_its_parent_blocked_or_ignored_are_heard(service: Daemon, what: str) -> None:
    service.expected_errors = ["gone: ", "SIGKILL"]
    done = service.run("start", *service.flags("-w", "1"), preexec_fn=lambda: inherited(what))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    [worker] = service.worker_pids()
    os.kill(service.pid, signal.SIGHUP)
    second = until(lambda: another_than(worker, service), "the reload")
    os.kill(second, signal.SIGKILL)
    until(lambda: another_than(second, service), "another worker")
    assert service.get() == "v1"
    master = service.pid
    service.ok("stop")
    until(lambda: not alive(master), "the end")
