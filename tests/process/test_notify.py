"""sd_notify(3): what a service manager hears, over a socket of the test's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Daemon, alive, until

SHOW_ENVIRON = """
    import os
    def app(environ, start):
        names = [n for n in os.environ if n.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_", "FORKD_"))]
        start("200 OK", [("Content-Type", "text/plain")])
        return [" ".join(names).encode() or b"none"]
"""


class Manager:
    """What systemd would hear, in order, and the descriptors that it would keep."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.setblocking(False)
        self.heard: list[dict[str, str]] = []
        self.kept: dict[str, int] = {}

    def listen(self) -> list[dict[str, str]]:
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 4096, 8)
            except BlockingIOError:
                return self.heard
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            self.heard.append(fields)
            if "FDSTORE" in fields:
                self.kept[fields["FDNAME"]] = fds[0]
            elif "FDSTOREREMOVE" in fields:
                os.close(self.kept.pop(fields["FDNAME"]))

    def hears(self, **fields: str) -> dict[str, str]:
        """Wait for a message with these fields that was not asked for before."""

        def found() -> dict[str, str] | None:
            for index, one in enumerate(self.listen()):
                if all(one.get(name) == value for name, value in fields.items()):
                    del self.heard[: index + 1]
                    return one
            return None

        return until(found, str(fields), 20)


@pytest.fixture
def manager(service: Daemon, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    service.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    yield made
    made.sock.close()
    for fd in made.kept.values():
        os.close(fd)


def test_ready_reload_and_stop_are_told(service: Daemon, manager: Manager) -> None:
    service.start_in_foreground()
    assert "2 workers ready" in manager.hears(READY="1")["STATUS"]
    service.ok("reload")
    assert int(manager.hears(RELOADING="1")["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert "generation 2" in manager.hears(READY="1")["STATUS"]
    service.ok("stop")
    manager.hears(STOPPING="1")


def test_a_reload_that_fails_ends_too(service: Daemon, manager: Manager) -> None:
    service.expected_errors = ["reload failed", "gone: boot", "Traceback", "NameError"]
    service.start_in_foreground()
    manager.hears(READY="1")
    service.write_app("nonsense")
    assert service.run("reload").returncode == 1
    manager.hears(RELOADING="1")
    status = manager.hears(READY="1")["STATUS"]
    assert "generation 1" in status and "last error" in status


def test_after_an_upgrade_another_process_is_the_main_one(
    service: Daemon, manager: Manager
) -> None:
    first = service.start_in_foreground()
    manager.hears(READY="1")
    service.ok("upgrade")
    pid = int(
        until(lambda: next((m for m in manager.listen() if "MAINPID" in m), None), "the pid")[
            "MAINPID"
        ]
    )
    until(lambda: service.pid == pid, "the pid file to say so")
    first.wait(20)
    manager.heard.clear()
    service.ok("reload")
    manager.hears(RELOADING="1")
    manager.hears(READY="1")
    assert all("MAINPID" not in message for message in manager.listen())


def test_the_application_sees_nothing_of_it(service: Daemon, manager: Manager) -> None:
    service.environ |= {"WATCHDOG_USEC": "60000000", "LISTEN_FDS": "0", "FORKD_TIMEOUT": "20"}
    service.write_app(SHOW_ENVIRON)
    service.start_in_foreground()
    assert service.get() == "FORKD_WORKER"


def test_an_abstract_address(service: Daemon) -> None:
    name = f"forkd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(20)
        service.environ["NOTIFY_SOCKET"] = "@" + name
        service.start_in_foreground()
        heard = b""
        while b"READY=1" not in heard:
            heard = sock.recv(4096)


def test_a_manager_that_does_not_read_holds_up_nothing(service: Daemon, manager: Manager) -> None:
    service.environ["WATCHDOG_USEC"] = "20000"
    service.start_in_foreground()
    for _ in range(5):
        service.ok("reload")
    assert service.get() == "v1"


# ---- the watchdog -------------------------------------------------------------------------


def fill(path: Path) -> None:
    """Until there is no room for another datagram (unix(7), net.unix.max_dgram_qlen), whoever sends it: one
    sender's own buffer may be full before."""
    with contextlib.suppress(BlockingIOError):
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(str(path))
                sock.send(b"X=1")


def test_what_its_queue_has_no_room_for_is_said_again_in_order(
    service: Daemon, manager: Manager, tmp_path: Path
) -> None:
    fill(tmp_path / "notify")
    service.start("-w", "2")
    service.ok("reload")
    assert manager.hears(FDSTORE="1")["FDNAME"].startswith("forkd-")
    assert "generation 1, 2 workers ready" in manager.hears(READY="1")["STATUS"]
    assert manager.hears(RELOADING="1")
    assert "generation 2, 2 workers ready" in manager.hears(READY="1")["STATUS"]
    master = service.pid
    fill(tmp_path / "notify")
    service.ok("upgrade")
    assert manager.hears(MAINPID=str(service.pid)) and service.pid != master
    assert list(manager.kept) and all("WATCHDOG" not in message for message in manager.listen())


def test_an_old_master_stays_until_the_manager_knows_of_the_new_one(
    service: Daemon, manager: Manager, tmp_path: Path
) -> None:
    service.start()
    manager.hears(READY="1")
    old, children = service.pid, service.worker_pids()
    fill(tmp_path / "notify")
    service.ok("upgrade")
    until(lambda: not [pid for pid in children if alive(pid)], "its workers gone")
    assert service.status()["master"]["pid"] == service.pid != old
    assert alive(old)
    assert manager.hears(MAINPID=str(service.pid))
    until(lambda: not alive(old), "the old master gone")


def beats(manager: Manager) -> int:
    return sum(1 for message in manager.listen() if "WATCHDOG" in message)


def test_the_watchdog_hears_of_children_that_are_wedged(service: Daemon, manager: Manager) -> None:
    service.environ["WATCHDOG_USEC"] = "400000"
    service.start_in_foreground("--timeout", "0")
    until(lambda: beats(manager) >= 3, "the first beats")
    pids = service.worker_pids()
    os.kill(pids[0], signal.SIGSTOP)
    at = beats(manager)
    until(lambda: beats(manager) >= at + 3, "beats while one serves")
    os.kill(pids[1], signal.SIGSTOP)
    until_silent(manager)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    at = beats(manager)
    until(lambda: beats(manager) >= at + 2, "beats again")


def test_a_request_without_end_is_heard_of_too(service: Daemon, manager: Manager) -> None:
    service.environ["WATCHDOG_USEC"] = "400000"
    service.start_in_foreground("--timeout", "0", "-w", "1")
    with service.connect() as client:
        client.sendall(b"GET /c/3 HTTP/1.1\r\nHost: a\r\n\r\n")
        until_silent(manager)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    at = beats(manager)
    until(lambda: beats(manager) >= at + 2, "beats again")


def until_silent(manager: Manager) -> None:
    last = [beats(manager), time.monotonic()]

    def silent() -> bool:
        now = beats(manager)
        if now != last[0]:
            last[:] = [now, time.monotonic()]
        return time.monotonic() - last[1] > 1

    until(silent, "silence", 20)


# ---- the store of listeners ---------------------------------------------------------------


def restart_with(service: Daemon, manager: Manager, *flags: str) -> None:
    """As systemd does: the kept descriptors from 3 on, their names in the environment."""
    names = list(manager.kept)
    command = service.argv("start", *service.flags(*flags), "-f")
    shell = (
        f"export LISTEN_PID=$$ LISTEN_FDS={len(names)} LISTEN_FDNAMES={':'.join(names)}; "
        + " ".join(
            f"exec {3 + i}<&{fd};"
            for i, fd in enumerate(os.dup(fd) for fd in manager.kept.values())
        )
        + ' exec "$@"'
    )
    fds = [int(part.split("<&")[1].rstrip(";")) for part in shell.split() if "<&" in part]
    with open(service.error_log, "ab") as log:
        service.foreground = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command], cwd=service.dir, env=service.environ, text=True,
            pass_fds=fds, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_a_killed_master_gets_its_listeners_back(
    service: Daemon, manager: Manager, where: str
) -> None:
    bind = "127.0.0.1:0" if where == "tcp" else f"unix:{service.dir}/s.sock"
    service.start_in_foreground("-b", bind)
    manager.hears(READY="1")
    assert len(manager.kept) == 1
    address = service.address if where == "tcp" else f"{service.dir}/s.sock"
    master, children = service.pid, service.worker_pids()
    os.kill(master, signal.SIGKILL)
    assert service.foreground is not None
    service.foreground.wait(10)
    until(lambda: not any(map(alive, children)), "the children to go with it")
    with contextlib.closing(
        socket.socket(socket.AF_INET if where == "tcp" else socket.AF_UNIX)
    ) as client:
        client.settimeout(20)
        client.connect(address)  # no worker serves, and no client is refused
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        restart_with(service, manager, "-b", bind)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    manager.hears(READY="1")


def test_a_kept_listener_that_nobody_wants_is_given_back(
    service: Daemon, manager: Manager
) -> None:
    config = service.dir / "c.toml"
    one, two = f"unix:{service.dir}/1.sock", f"unix:{service.dir}/2.sock"
    config.write_text(f'app = "app:app"\nadmin = "none"\nbind = ["{one}", "{two}"]\n')
    service.start_in_foreground("-c", str(config), app=None)
    manager.hears(READY="1")
    assert len(manager.kept) == 2
    config.write_text(f'app = "app:app"\nadmin = "none"\nbind = ["{two}"]\n')
    service.ok("reload")
    until(lambda: len(manager.listen()) and len(manager.kept) == 1, "it to be given back")


# ---- what is left after a stop --------------------------------------------------------------

LEAVES_A_PROCESS = """
    import os, time
    def app(environ, start):
        if os.fork() == 0:   # with all that it has open
            os.setsid()
            time.sleep(60)
            os._exit(0)
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]
"""


@pytest.mark.parametrize(
    "model", ["leader-followers", "reactor", "half-sync-half-async", "proactor"]
)
def test_what_the_application_leaves_behind_holds_no_port(service: Daemon, model: str) -> None:
    service.write_app(LEAVES_A_PROCESS)
    service.start("-m", model)
    address = service.address
    service.get()
    pids = service.worker_pids()
    left = [
        int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) not in [*pids, service.pid]
        and parent(int(p)) in pids
    ]  # fmt: skip
    assert left
    try:
        service.ok("stop")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 5)
        with socket.create_server(address):
            pass
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def test_a_listener_made_anew_is_kept_instead_of_the_old_one(
    service: Daemon, manager: Manager
) -> None:
    path = service.dir / "s.sock"
    service.start("-b", f"unix:{path}")
    manager.hears(READY="1")
    (name,) = manager.kept
    old = os.fstat(manager.kept[name]).st_ino
    path.unlink()
    service.ok("reload")
    manager.hears(READY="1")
    assert list(manager.kept) == [name]
    assert os.fstat(manager.kept[name]).st_ino != old
    with socket.socket(fileno=manager.kept.pop(name)) as kept:
        assert kept.getsockname() == str(path)
        assert service.admin("/readyz")[0] == 200


def test_a_kept_listener_whose_file_is_gone_is_made_anew(service: Daemon, manager: Manager) -> None:
    path = service.dir / "s.sock"
    service.start_in_foreground("-b", f"unix:{path}")
    manager.hears(READY="1")
    children = service.worker_pids()
    os.kill(service.pid, signal.SIGKILL)
    assert service.foreground is not None
    service.foreground.wait(10)
    until(lambda: not any(map(alive, children)), "the children to go with it")
    path.unlink()
    restart_with(service, manager, "-b", f"unix:{path}")
    manager.hears(READY="1")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_killed_master_gets_the_tables_of_storage_back(service: Daemon, manager: Manager) -> None:
    service.write_app(COUNTS)
    flags = ["--storage", "shm:4m", "--storage", "small=shm:2m"]
    service.start_in_foreground(*flags)
    manager.hears(READY="1")
    assert {"forkd-table=default", "forkd-table=small"} < set(manager.kept)
    assert [service.get("/default"), service.get("/default"), service.get("/small")] == ["1", "2", "1"]
    children = service.worker_pids()
    os.kill(service.pid, signal.SIGKILL)
    assert service.foreground is not None
    service.foreground.wait(10)
    until(lambda: not any(map(alive, children)), "the children to go with it")
    restart_with(service, manager, "--storage", "shm:4m", "--storage", "small=shm:3m")
    assert until(lambda: service.get("/default"), "an answer") == "3"
    assert service.get("/small") == "1"  # it has another size
    until(lambda: "storage small: begins empty" in service.log(), "that it says so")
    manager.hears(FDSTOREREMOVE="1", FDNAME="forkd-table=small")
    manager.hears(FDSTORE="1", FDNAME="forkd-table=small")


COUNTS = """
    from forkd.storage.shm import Shm
    def app(environ, start):
        body = str(Shm.open(environ["PATH_INFO"][1:]).incr(b"n", 1, None)).encode()
        start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
"""
