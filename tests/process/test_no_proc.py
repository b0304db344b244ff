"""Where /proc is not mounted (a chroot), or hides other users' processes (proc(5), hidepid): the verbs
work, or say what is so."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Daemon, until
from .test_list import listed
from .test_room import executes, give_away, limited

_PRIVATE = "mount --make-rprivate /; "
NO_PROC = ["unshare", "--mount", "sh", "-c", _PRIVATE + 'mount -t tmpfs tmpfs /proc; exec "$@"', "sh"]
HIDDEN = [
    "unshare", "--mount", "sh", "-c",
    _PRIVATE + 'mount -t proc -o hidepid=invisible proc /proc; exec "$@"', "sh",
]  # fmt: skip


def permitted(under: list[str]) -> bool:
    try:
        return subprocess.run([*under, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not permitted(NO_PROC) or not permitted(HIDDEN), reason="mounts of one's own are not permitted here"
)


def within(
    service: Daemon, under: list[str], verb: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*under, *service.argv(verb, *arguments)], cwd=service.dir, env=service.environ, text=True,
        capture_output=True, timeout=30,
    )  # fmt: skip


@pytest.mark.parametrize("preload", ["--no-preload", "--preload"])
def test_without_proc_each_verb_works(service: Daemon, preload: str) -> None:
    done = within(service, NO_PROC, "start", *service.flags(preload))
    assert done.returncode == 0, done.stderr
    assert service.get() == "v1"
    for verb, said in [
        (["status"], "master"),
        (["scale", "3"], "3 workers"),
        (["reload"], "generation 2 serves"),
        (["check", "app:app"], "ok: app:app"),
        (["upgrade"], "serves"),
        (["reload"], "generation 4 serves"),
    ]:
        done = within(service, NO_PROC, *verb)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert "namespace" not in done.stderr
    assert service.get() == "v1"
    command = [*NO_PROC, sys.executable, "-m", "forkd", "list"]
    done = subprocess.run(command, env=service.environ, text=True, capture_output=True, timeout=30)
    assert done.returncode == 1
    assert "forkd status --pidfile asks one daemon" in done.stderr
    assert within(service, NO_PROC, "stop").returncode == 0
    service.gone()


@pytest.mark.skipif(os.geteuid() != 0 or not executes(), reason="needs root, and users of its own")
def test_without_proc_workers_become_another_user(service: Daemon) -> None:
    service.open_up()
    done = within(service, NO_PROC, "start", *service.flags("--user", "nobody", "--max-rss", "1G"))
    assert done.returncode == 0, done.stderr
    assert service.get() == "v1"
    assert "max-rss has no effect: /proc" in service.log()
    done = within(service, NO_PROC, "reload")
    assert done.returncode == 0, done.stderr


def test_without_proc_a_unix_socket_cannot_be_given_away(service: Daemon) -> None:
    path = service.dir / "web.sock"
    done = within(service, NO_PROC, "start", *service.flags("-b", f"unix:{path}", "--socket-group", "daemon"))
    assert done.returncode == 1
    assert "ENOENT: No such file or directory; that needs /proc" in done.stderr
    assert not path.exists()
    service.expected_errors = ["the service did not start"]


def test_without_proc_an_address_in_use_is_said_to_be(service: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        done = within(service, NO_PROC, "start", *service.flags("-b", f"127.0.0.1:{port}"))
    assert done.returncode == 1
    assert "EADDRINUSE" in done.stderr
    assert not service.pidfile.exists()
    service.expected_errors = ["EADDRINUSE"]


def test_without_proc_the_stand_in_of_an_upgrade_stays(service: Daemon) -> None:
    service.under = NO_PROC
    first = service.start_in_foreground()
    assert within(service, NO_PROC, "upgrade").returncode == 0
    until(lambda: service.pid != first.pid, "another master")
    until(lambda: "stopping" in service.log(), "the end of the first")
    assert within(service, NO_PROC, "status").returncode == 0
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)  # which it passes on
    assert first.wait(20) == 0


def test_a_lock_that_cannot_be_seen_through_is_said_to_be_one(service: Daemon) -> None:
    service.start()
    done = within(service, NO_PROC, "status", "--control", f"{service.dir}/none.sock")
    assert done.returncode == 1
    assert f"is locked; whether pid {service.pid} holds it cannot be seen here" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not executes(), reason="needs root, and users of its own")
def test_of_another_users_daemon_that_is_hidden_it_is_said_whose_it_is(service: Daemon) -> None:
    service.start()
    uid = give_away(service)
    for verb, said in [("stop", "belongs to another user"), ("status", "EACCES: Permission denied")]:
        done = within(service, [*HIDDEN, *limited(50, uid)], verb)
        assert done.returncode == 1
        assert said in done.stderr
        assert "namespace" not in done.stderr
    os.chown(service.dir, 0, 0)


def test_one_whose_title_could_not_be_set_is_listed(service: Daemon) -> None:
    """With an empty environment there is no room for a title."""
    root = str(Path(__file__).parents[2])
    link = service.dir / "forkd"
    link.symlink_to(Path(root, "forkd"))
    service.environ = {}
    service.start()
    assert not Path(f"/proc/{service.pid}/cmdline").read_bytes().startswith(b"forkd: ")
    [row] = listed(service)
    assert (row["pid"], row["state"], row["workers_ready"]) == (service.pid, "running", 2)
    service.ok("reload")
    service.ok("stop")
