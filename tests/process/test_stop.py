"""Stopping, and what a start that fails leaves: nothing waiting is lost, nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import pytest

from forkd.models import registry

from .conftest import Daemon, alive, until
from .trial import open_files

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


#: Every model with every io, and the other ways to share what comes.
EVERY_WAY = [
    *(
        pytest.param(
            ["-m", row.name, "--io", io], marks=[pytest.mark.soak] if io != row.ios[0] else []
        )
        for row in registry.MODELS
        for io in row.ios
    ),
    ["--threads", "4"],
    ["--accept", "exclusive"],
    ["--accept", "reuseport"],
    ["-m", "half-sync-half-async", "--dispatch", "competition"],
    ["-m", "half-sync-half-async", "--dispatch", "round-robin"],
]


def ask(service: Daemon, count: int) -> list[socket.socket]:
    """Clients that have sent a request."""
    clients = []
    for _ in range(count):
        client = service.connect(30)
        client.sendall(REQUEST)
        clients.append(client)
    return clients


def stop_while_they_wait(service: Daemon, count: int) -> None:
    """TERM while no worker accepts; then all are answered."""
    pids = service.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    clients = ask(service, count)
    service.signal(signal.SIGTERM)
    until(lambda: "stopping" in service.log(), "the stop")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for client in clients:
        with client:
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
    service.gone(20)  # and not only when --graceful-timeout, 30 s, has them killed


@pytest.mark.parametrize("flags", EVERY_WAY, ids=" ".join)
def test_what_waits_in_the_accept_queue_is_answered(service: Daemon, flags: list[str]) -> None:
    service.start(*flags)
    stop_while_they_wait(service, 200)


@pytest.mark.parametrize("flags", [["-m", row.name] for row in registry.MODELS], ids=" ".join)
def test_nobody_takes_more_than_it_can_hold(service: Daemon, flags: list[str]) -> None:
    """The children that retire share what waits: each has three connections at most."""
    service.write_app(CROWD)
    service.start(*flags, "--worker-connections", "3")
    stop_while_they_wait(service, 40)
    crowds = [int(x) for x in (service.dir / "crowds").read_text().split()]
    assert len(crowds) == 40
    if "process-per-connection" not in flags:  # whose processes have one each
        assert max(crowds) <= 3


#: Notes how many clients its process has.
CROWD = r"""
    import os, pathlib, socket
    NOTES = pathlib.Path(__file__).with_name("crowds")

    def clients():
        for name in os.listdir("/proc/self/fd"):
            try:
                if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"): continue
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    if sock.family == socket.AF_INET: yield sock.getpeername()
            except OSError:
                pass

    def app(environ, start):
        with open(NOTES, "a") as notes: notes.write(f"{len(list(clients()))}\n")
        start("200 OK", [("Content-Length", "2")])
        return [b"ok"]
"""


def test_more_clients_than_processes_wait_their_turn(service: Daemon) -> None:
    """process-per-connection: 256 processes at most, for each worker."""
    service.start("-m", "process-per-connection", "-w", "1")
    stop_while_they_wait(service, 300)


def test_a_start_that_fails_late_leaves_no_socket(service: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        admin = f"127.0.0.1:{taken.getsockname()[1]}"
        done = service.run("start", *service.flags("--admin", admin))
    assert done.returncode == 1
    assert "EADDRINUSE" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert not service.control.exists()
    assert not service.pidfile.exists()


def test_a_service_without_children_starts_and_stops(service: Daemon) -> None:
    assert "workers 0:2" in service.start("-w", "0:2")
    until(lambda: not service.live()["workers"], "none: who has proved the application has gone")


def test_a_broken_file_does_not_keep_a_service_from_being_stopped(service: Daemon) -> None:
    file = service.dir / "forkd.toml"
    file.write_text('workers = "2"\n')
    service.start("-b", "127.0.0.1:0", "-c", str(file), "--admin", "127.0.0.1:0")
    file.write_text('workers = "x"\n')
    service.ok("status", "-c", str(file))
    service.ok("stop", "-c", str(file))
    service.gone()


def test_an_address_that_a_reload_drops_is_free(service: Daemon) -> None:
    file = service.dir / "forkd.toml"
    file.write_text(f'bind = ["127.0.0.1:0", "unix:{service.dir}/dropped.sock"]\n')
    # By default there are as many as there are processors, which may be one.
    service.start("-c", str(file), "--admin", "127.0.0.1:0", "-w", "2")
    held = [w["pid"] for w in service.workers()]
    before = _sockets(service.pid)
    file.write_text('bind = ["127.0.0.1:0"]\n')
    service.ok("reload")
    until(lambda: not set(held) & set(service.worker_pids()), "the old generation gone")
    until(lambda: len(service.live()["workers"]) == 2, "only the new ones")
    assert not (service.dir / "dropped.sock").exists()
    gone = before - _sockets(service.pid)
    assert gone, "the master keeps the dropped listener open"
    for pid in service.worker_pids():
        assert not _sockets(pid) & gone, "a child keeps the dropped listener open"


def _sockets(pid: int) -> set[str]:
    """By inode. The master closes the connections of this test's questions when it comes to that, perhaps
    between the two looks at a descriptor, which is no error."""
    return {name for name in open_files([pid]) if name.startswith("socket:")}


@pytest.mark.parametrize("lame_duck", [[], ["--lame-duck", "0.2"]], ids=["at once", "lame duck"])
def test_told_to_stop_again_and_again_it_stops_quietly(
    service: Daemon, lame_duck: list[str]
) -> None:
    """Also once its listeners are closed, and until it is gone."""
    service.start("-w", "2", *lame_duck)
    master = service.pid
    while alive(master):
        with contextlib.suppress(ProcessLookupError):
            os.kill(master, signal.SIGTERM)
    assert "a bug in forkd" not in service.log()
