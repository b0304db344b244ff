"""forkd list: the daemons of this user, or of all for root; and what others can make it say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Daemon, alive, until
from .test_pid1 import NAMESPACE
from .test_pid1 import pytestmark as in_a_namespace
from .test_room import executes, give_away, limited

root_only = pytest.mark.skipif(
    os.geteuid() != 0 or not executes(), reason="needs root, and an interpreter that others may execute"
)
Fake = Callable[..., int]


def forkd(service: Daemon, *words: str, under: list[str] | None = None) -> str:
    done = subprocess.run(
        [*(under or []), sys.executable, "-m", "forkd", *words], cwd="/", env=service.environ, text=True,
        capture_output=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def listed(service: Daemon, name: str | None = None, **options: Any) -> list[dict[str, Any]]:
    """The rows of a name: others may run daemons on this machine, too."""
    rows: list[dict[str, Any]] = json.loads(forkd(service, "list", "--json", **options))
    return [row for row in rows if row["name"] == (name or service.name)]


def test_each_daemon_is_a_row(service: Daemon, other: Daemon) -> None:
    service.start("-w", "3")
    other.start("-b", f"unix:{other.dir}/web.sock")
    (row,) = listed(service)
    assert (row["pid"], row["uid"], row["state"], row["why"]) == (service.pid, os.geteuid(), "running", "")
    assert (row["workers_ready"], row["workers_wanted"], row["generation"]) == (3, 3, 1)
    assert row["listeners"] == [":".join(map(str, service.address))]
    assert row["pidfile"] == str(service.pidfile)
    (second,) = listed(other)
    assert second["listeners"] == [f"unix:{other.dir}/web.sock"]
    text = forkd(service, "list")
    for found in (service, other):
        lines = text.splitlines()
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{found.name} "))
        assert f" {found.pid}  running " in lines[at]
        assert f"  --pidfile {found.pidfile}" in lines[at + 1 : at + 3]
        # What it says is what a verb needs.
        assert "running" in forkd(service, "status", *f"--pidfile {found.pidfile}".split())
    other.ok("stop")
    assert listed(other) == []


def test_a_master_that_was_killed_is_in_no_list(service: Daemon) -> None:
    service.start()
    pids = [service.pid, *service.worker_pids()]
    os.kill(service.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), "all gone")
    assert service.pidfile.exists() and service.control.exists()  # stale
    assert listed(service) == []
    service.pidfile.unlink()
    service.control.unlink()


def test_after_an_upgrade_there_is_one_the_new_one(service: Daemon) -> None:
    service.start()
    before = service.pid
    service.ok("upgrade")
    until(lambda: not alive(before), "the old master gone")
    assert [(row["pid"], row["state"]) for row in listed(service)] == [(service.pid, "running")]


def test_a_master_that_does_not_answer_is_shown_and_holds_up_nobody(
    service: Daemon, other: Daemon
) -> None:
    service.start()
    other.start()
    os.kill(service.pid, signal.SIGSTOP)
    try:
        (row,) = listed(service)
        assert (row["state"], row["pid"]) == ("no answer", service.pid)
        assert row["why"] == "it has not answered within 2 s"
        assert listed(other)[0]["state"] == "running"
    finally:
        os.kill(service.pid, signal.SIGCONT)


def test_a_control_socket_of_its_own_is_found(service: Daemon, tmp_path: Path) -> None:
    service.start("--control", str(tmp_path / "c.sock"))
    (row,) = listed(service)
    assert (row["state"], row["control"]) == ("running", str(tmp_path / "c.sock"))
    assert row["where"] == f"--pidfile {service.pidfile} --control {tmp_path}/c.sock"
    service.ok("stop", "--control", str(tmp_path / "c.sock"))


def test_a_crash_loop_is_said_with_its_reason(service: Daemon) -> None:
    service.expected_errors = [""]
    service.start()
    service.write_app("raise LookupError('broken on purpose')\n")
    for pid in service.worker_pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: service.live()["master"]["state"] == "crash-loop", "the breaker", 15)
    (row,) = listed(service)
    assert (row["state"], row["workers_ready"], row["workers_wanted"]) == ("crash-loop", 0, 2)
    assert row["why"].endswith("the last error: LookupError: broken on purpose")
    assert "broken on purpose" in forkd(service, "list")


@in_a_namespace
def test_one_in_a_container_is_seen_from_outside(service: Daemon) -> None:
    service.under = NAMESPACE
    service.start_in_foreground()
    assert service.foreground is not None
    (row,) = listed(service)
    assert (row["state"], row["own_pid"]) == ("running", 1)
    assert row["pid"] > 1
    assert row["where"] == "in a PID namespace of its own, as pid 1: give orders in there"
    os.kill(row["pid"], signal.SIGTERM)
    service.gone()


# ---- other users ----------------------------------------------------------------------------


@root_only
def test_root_sees_all_and_a_user_only_his_own(service: Daemon, other: Daemon) -> None:
    service.start()
    uid = give_away(other)
    become = limited(100, uid)
    done = subprocess.run(
        [*become, *other.argv("start", *other.flags())], cwd=other.dir, env=other.environ, text=True,
        capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = listed(other)
    assert (row["uid"], row["user"], row["state"]) == (uid, str(uid), "running")
    assert listed(service)[0]["uid"] == 0
    seen = json.loads(forkd(service, "list", "--json", under=become))
    assert [(r["name"], r["state"], r["uid"]) for r in seen] == [(other.name, "running", uid)]


FAKE = """
    import json, os, socket, sys, time
    from setproctitle import setproctitle

    title, control, answer = sys.argv[1:]
    answer = "[" * 100_000 + "\\n" if answer == "deep" else answer
    setproctitle(title)
    if control:
        fd = os.memfd_create("forkd-control")
        os.write(fd, json.dumps({"control": control}).encode())
    if answer:
        server = socket.socket(socket.AF_UNIX)
        server.bind(control)
        os.chmod(control, 0o666)
        server.listen()
    print("ready", flush=True)
    while answer:
        client = server.accept()[0]
        client.recv(1000)
        if answer == "nothing":
            time.sleep(60)
        try:
            while True:
                client.sendall(answer.encode())
                if not answer.startswith("endless"):
                    break
        except OSError:
            pass
        client.close()
    time.sleep(60)
"""


@pytest.fixture
def fake(service: Daemon) -> Iterator[Fake]:
    """Start a process of another user that says it is a master: (uid, title, control, answer)."""
    made: list[subprocess.Popen[str]] = []

    def start(uid: int, title: str, control: str = "", answer: str = "") -> int:
        command = [*limited(50, uid), sys.executable, "-c", textwrap.dedent(FAKE), title, control, answer]
        process = subprocess.Popen(
            command, cwd="/", env=service.environ, stdout=subprocess.PIPE, text=True
        )
        made.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process.pid

    yield start
    for process in made:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@root_only
def test_nobody_passes_for_another(service: Daemon, other: Daemon, fake: Fake) -> None:
    """A user's process has root's daemon for its control socket, and the other way round."""
    service.start()
    uid = give_away(other)
    pid = fake(uid, f"forkd: master [{service.name}]", str(service.control))
    rows = {row["pid"]: row for row in listed(service)}
    assert set(rows) == {pid, service.pid}
    assert (rows[service.pid]["uid"], rows[service.pid]["state"]) == (0, "running")
    assert (rows[pid]["uid"], rows[pid]["state"], rows[pid]["pidfile"]) == (uid, "no answer", None)
    assert rows[pid]["why"] == f"its control socket {service.control} is that of uid 0"
    # A planted socket of that user where root's would be: it is never asked.
    planted = str(other.dir / "planted.sock")
    fake(uid, f"forkd: master [{other.name}]", planted, "nothing")
    mine = fake(0, f"forkd: master [{service.name}r]", planted)
    (row,) = listed(service, service.name + "r")
    assert (row["pid"], row["state"]) == (mine, "no answer")
    assert row["why"] == f"its control socket {planted} is that of uid {uid}"


@root_only
def test_a_master_without_a_notice_may_be_of_an_older_version(service: Daemon, fake: Fake) -> None:
    """That one serves, and neither starts nor ends: it is what one sees between installing and upgrading."""
    pid = fake(0, f"forkd: master [{service.name}]")
    (row,) = listed(service)
    assert (row["pid"], row["state"]) == (pid, "no answer")
    assert row["why"] == (
        "it does not say where its control socket is: it starts, has handed over to another master, or is of "
        "a version without `forkd list`"
    )


ANSWERS = {
    "empty object": ("{}\n", "its answer makes no sense"),
    "no JSON": ("hello\n", "its answer makes no sense"),
    "deep": ("deep", "its answer makes no sense"),
    "endless": ("endless" * 1000, "its answer does not end"),
    "nothing": ("nothing", "it has not answered within 2 s"),
    "infinite": (
        '{"status": {"master": {"pid": 1e999}, "workers": [], "listeners": []}}\n',
        "its answer makes no sense",
    ),
    "another pid": (
        '{"status": {"master": {"pid": 1, "state": "running", "why": "", "version": "1", "generation": 1, '
        '"app": null, "workers_wanted": 1, "uptime": 1, "pidfile": "/x"}, "workers": [], "listeners": []}}\n',
        "another master answers for it: an upgrade is under way",
    ),
}


@root_only
@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_that_is_none_misleads_nobody(
    service: Daemon, other: Daemon, fake: Fake, kind: str
) -> None:
    answer, why = ANSWERS[kind]
    service.start()
    pid = fake(give_away(other), f"forkd: master [{other.name}]", str(other.dir / "liar.sock"), answer)
    (row,) = listed(other)
    assert (row["pid"], row["state"]) == (pid, "no answer")
    if kind == "endless":
        assert row["why"] in (why, "it has not answered within 2 s")
    else:
        assert row["why"] == why
    assert listed(service)[0]["state"] == "running"


@root_only
def test_a_title_moves_no_cursor(service: Daemon, other: Daemon, fake: Fake) -> None:
    fake(give_away(other), "forkd: master [\x1b[2Jred\n\u202e]")
    text = forkd(service, "list")
    assert "\\x1b[2Jred\\n" in text
    assert text.isascii() or "\u202e" not in text
    assert "\x1b" not in text


@root_only
def test_many_that_hang_hold_up_no_other_user(service: Daemon, other: Daemon, fake: Fake) -> None:
    service.start()
    uid = give_away(other)
    for number in range(6):  # each takes the two seconds that one has: more than all have together
        fake(uid, f"forkd: master [{other.name}{number}]", str(other.dir / f"{number}.sock"), "nothing")
    rows = json.loads(forkd(service, "list", "--json"))
    states = {row["name"]: row["state"] for row in rows}
    assert states[service.name] == "running"
    assert [states[f"{other.name}{n}"] for n in range(6)] == ["no answer"] * 6
