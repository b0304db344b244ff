"""Stopping, and what a start that fails leaves: nothing waiting is lost, nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from .conftest import Service, until

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--accept", "exclusive"],
        ["--accept", "reuseport"],
        ["--io", "blocking"],
        ["-m", "half-sync-half-async"],
        ["-m", "reactor"],
        ["-m", "process-per-connection"],
    ],
    ids=" ".join,
)
def test_what_waits_in_the_accept_queue_is_answered(service: Service, flags: list[str]) -> None:
    service.start(*flags)
    pids = service.worker_pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    clients = []
    for _ in range(100):
        client = service.connect()
        client.sendall(REQUEST)
        clients.append(client)
    service.signal(signal.SIGTERM)
    until(lambda: "stopping" in service.log(), "the stop")
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for client in clients:
        with client:
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
    service.gone()


def test_a_start_that_fails_late_leaves_no_socket(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        admin = f"127.0.0.1:{taken.getsockname()[1]}"
        done = service.run("start", *service.flags("--admin", admin))
    assert done.returncode == 1
    assert "EADDRINUSE" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert not service.control.exists()
    assert not service.pidfile.exists()


def test_a_service_without_children_starts_and_stops(service: Service) -> None:
    assert "workers 0:2" in service.start("-w", "0:2")
    assert service.live()["workers"] == []


def test_a_broken_file_does_not_keep_a_service_from_being_stopped(service: Service) -> None:
    file = service.dir / "forkd.toml"
    file.write_text('workers = "2"\n')
    service.start("-b", "127.0.0.1:0", "-c", str(file), "--admin", "127.0.0.1:0")
    file.write_text('workers = "x"\n')
    service.ok("status", "-c", str(file))
    service.ok("stop", "-c", str(file))
    service.gone()


def test_an_address_that_a_reload_drops_is_free(service: Service) -> None:
    file = service.dir / "forkd.toml"
    file.write_text(f'bind = ["127.0.0.1:0", "unix:{service.dir}/dropped.sock"]\n')
    service.start("-c", str(file), "--admin", "127.0.0.1:0")
    held = [w["pid"] for w in service.workers()]
    inode = {os.stat(f"/proc/{service.pid}/fd/{n}").st_ino for n in _sockets(service.pid)}
    file.write_text('bind = ["127.0.0.1:0"]\n')
    service.ok("reload")
    until(lambda: not set(held) & set(service.worker_pids()), "the old generation gone")
    until(lambda: len(service.live()["workers"]) == 2, "only the new ones")
    assert not (service.dir / "dropped.sock").exists()
    gone = inode - {os.stat(f"/proc/{service.pid}/fd/{n}").st_ino for n in _sockets(service.pid)}
    for pid in service.worker_pids():
        left = {os.stat(f"/proc/{pid}/fd/{n}").st_ino for n in _sockets(pid)}
        assert not left & gone, "a child keeps the dropped listener open"


def _sockets(pid: int) -> list[str]:
    names = os.listdir(f"/proc/{pid}/fd")
    return [n for n in names if os.readlink(f"/proc/{pid}/fd/{n}").startswith("socket:")]
