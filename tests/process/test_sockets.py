"""What forkd listens on: TCP, unix, several at once, inherited; and how children share it."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .clients import Load
from .conftest import Daemon, until

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


def ask_unix(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(REQUEST)
        return client.recv(1000)


@pytest.mark.parametrize(
    "flags",
    [
        ["--accept", "exclusive"],
        ["--accept", "reuseport"],
        ["--io", "blocking"],
        ["--io", "blocking", "--accept", "reuseport"],
    ],
    ids=" ".join,
)
def test_every_way_of_accepting_serves(service: Daemon, flags: list[str]) -> None:
    service.start(*flags)
    with Load(service.address, fresh=4, expect=lambda body: body == b"v1") as load:
        load.more(200)
    assert load.failures == []
    service.ok("reload")
    assert service.get() == "v1"


def test_reuseport_keeps_what_waits_when_a_child_dies(service: Daemon) -> None:
    service.expected_errors = ["SIGKILL"]
    service.start("--accept", "reuseport", "-w", "2")
    with Load(service.address, fresh=2) as load:
        load.more(20)
        os.kill(service.worker_pids()[0], 9)
        until(lambda: len(service.workers()) == 2, "another in its place")
        load.more(50)
    assert len(load.failures) <= 2  # in flight at the victim


def test_a_unix_socket_is_removed_at_the_end(service: Daemon) -> None:
    path = service.dir / "s.sock"
    printed = service.start("-b", f"unix:{path}")
    assert f"unix:{path}" in printed
    assert ask_unix(path).startswith(b"HTTP/1.1 200")
    assert stat.S_ISSOCK(path.stat().st_mode)
    service.ok("stop")
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(service: Daemon) -> None:
    path = service.dir / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    service.start("-b", f"unix:{path}")
    assert ask_unix(path).startswith(b"HTTP/1.1 200")


def test_a_live_unix_socket_is_never_stolen(service: Daemon, other: Daemon) -> None:
    path = service.dir / "s.sock"
    service.start("-b", f"unix:{path}")
    done = other.run("start", *other.flags("-b", f"unix:{path}"))
    assert done.returncode == 1
    assert f"pid {service.pid}" in done.stderr
    assert ask_unix(path).startswith(b"HTTP/1.1 200")


def test_a_file_in_the_way_is_kept(service: Daemon) -> None:
    path = service.dir / "s.sock"
    path.write_text("precious")
    assert service.run("start", *service.flags("-b", f"unix:{path}")).returncode == 1
    assert path.read_text() == "precious"


def test_ipv6(service: Daemon) -> None:
    service.start("-b", "[::1]:0")
    address = service.live()["listeners"][0]["address"]
    with socket.create_connection(("::1", int(address.rpartition(":")[2])), 10) as client:
        client.sendall(REQUEST)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_several_addresses_at_once(service: Daemon) -> None:
    paths = [service.dir / f"{n}.sock" for n in range(3)]
    service.start("-b", "127.0.0.1:0", *[x for p in paths for x in ("-b", f"unix:{p}")])
    assert service.get() == "v1"
    for path in paths:
        assert ask_unix(path).startswith(b"HTTP/1.1 200")
    assert len(service.live()["listeners"]) == 4


def test_an_inherited_descriptor(service: Daemon) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        fd = listener.fileno()
        done = service.run("start", *service.flags("-b", f"fd://{fd}"), pass_fds=[fd])
        assert done.returncode == 0, done.stderr
        port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(REQUEST)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("what", ["closed", "file", "not listening", "shut down"])
def test_a_descriptor_that_is_no_listener_is_refused(service: Daemon, what: str) -> None:
    with socket.socket() as bound, open(os.devnull) as file, socket.socket(socket.AF_UNIX) as shut:
        bound.bind(("127.0.0.1", 0))
        shut.bind(str(service.dir / "shut.sock"))
        shut.listen()
        shut.shutdown(socket.SHUT_RDWR)
        numbers = {"file": file, "not listening": bound, "shut down": shut}
        fd = numbers[what].fileno() if what in numbers else 99
        pass_fds = [] if what == "closed" else [fd]
        done = service.run("start", *service.flags("-b", f"fd://{fd}"), pass_fds=pass_fds)
    assert done.returncode == 1
    assert f"fd://{fd}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("detached", [True, False])
def test_activation_by_a_service_manager(service: Daemon, detached: bool) -> None:
    """As systemd does it: descriptor 3, and LISTEN_PID is the process that it executes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = service.argv("start", "app:app", "-w", "1", "--admin", "none")
        command += [] if detached else ["-f"]
        manager = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_FDS'] = '1';"
            "os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[2], sys.argv[2:])"
        )
        with open(service.error_log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", manager, str(listener.fileno()), *command],
                cwd=service.dir, env=service.environ, pass_fds=[listener.fileno()],
                stdout=log, stderr=log,
            )  # fmt: skip
    if not detached:
        service.foreground = process  # type: ignore[assignment]
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(REQUEST)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    until(lambda: " serves " in service.log(), "ready")
    if detached:
        assert process.wait(10) == 0
    service.ok("stop")
