"""A listening socket that is shut down, and a socket file that is removed: both are noticed,
said, and listened on anew, with the workers that there are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import APP, Daemon, children_of, until

REQUEST = b"GET / HTTP/1.0\r\n\r\n"
SHUT = "the listening socket was shut down"

#: The application of conftest.py, with a path that shuts down every listening socket of its process.
SHUTTING = (
    APP
    + """
    import socket

    def shut():
        for name in os.listdir("/proc/self/fd"):
            try:
                sock = socket.socket(fileno=os.dup(int(name)))
            except OSError:
                continue
            with sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    sock.shutdown(socket.SHUT_RDWR)

    serve = app

    def app(environ, start):
        if environ["PATH_INFO"] == "/shut":
            shut()
        return serve(environ, start)
"""
)

_PIDFD_GETFD = 438  # syscalls(2); the number is the same on all architectures


@contextlib.contextmanager
def copy_of_listener(pid: int, kind: str) -> Iterator[socket.socket]:
    """A copy of the first socket of that kind that the process listens on (pidfd_getfd(2))."""
    pidfd = os.pidfd_open(pid)
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    try:
        for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
            fd = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, int(name), 0)
            if fd < 0 or not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                if fd >= 0:
                    os.close(fd)
                continue
            sock = socket.socket(fileno=fd)
            if (
                sock.family == family
                and sock.type == socket.SOCK_STREAM
                and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            ):
                yield sock
                sock.close()
                return
            sock.close()
        raise AssertionError(f"{pid} listens on no {kind} socket")
    finally:
        os.close(pidfd)


class Served:
    """A daemon that listens on one address, TCP or unix, and how a client reaches it."""

    def __init__(self, service: Daemon, kind: str) -> None:
        self.service = service
        self.path = service.dir / "s.sock"
        self.bind = f"unix:{self.path}" if kind == "unix" else "127.0.0.1:0"
        self.kind = kind

    def connect(self) -> socket.socket:
        if self.kind == "tcp":
            return self.service.connect()
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(str(self.path))
        return client

    def ask(self, path: str = "/") -> str:
        """The body of the answer; "" when there is none."""
        try:
            with self.connect() as client:
                client.sendall(REQUEST.replace(b" / ", f" {path} ".encode()))
                data = b""
                while more := client.recv(65536):
                    data += more
        except OSError:
            return ""
        head, _, body = data.partition(b"\r\n\r\n")
        return body.decode() if head.startswith(b"HTTP/1.1 200") else ""

    def pids(self) -> set[str]:
        """Who answers."""
        return {self.ask("/pid") for _ in range(20)} - {""}


def ready(service: Daemon) -> int:
    return service.admin("/readyz")[0]


def ticks(pid: int) -> int:
    """The CPU time of a process, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def idle(service: Daemon) -> None:
    """Nothing spins, and no child is granted the lease: in half a second, half of that for other things."""
    pids = [service.pid, *children_of(service.pid)]
    before, grants = {pid: ticks(pid) for pid in pids}, service.live()["doorbell"]["grants"]
    time.sleep(0.5)  # what is asserted is how little happens in it
    busy = {pid: ticks(pid) - before[pid] for pid in pids}
    assert max(busy.values()) < 25, busy
    assert service.live()["doorbell"]["grants"] - grants <= 1


FLAGS = [
    [],
    ["--no-native"],
    ["--accept", "exclusive"],
    ["--accept", "exclusive", "--no-native"],
    ["--threads", "4"],
    ["--threads", "4", "--accept", "exclusive"],
    ["--io", "poll"],
    ["--io", "select"],
    ["--io", "sigio"],
    ["--io", "blocking"],
    ["-m", "reactor"],
    ["-m", "half-sync-half-reactive"],
    ["-m", "simulated-proactor"],
    ["-m", "proactor"],
    ["-m", "proactor", "--no-native"],
    ["-m", "proactor", "-w", "1"],
    ["-m", "proactor", "--threads", "4"],
    ["-m", "proactor", "--io", "aio"],
    ["--preload"],
]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_an_application_shuts_the_listener_down(
    service: Daemon, flags: list[str], kind: str
) -> None:
    service.expected_errors = [SHUT]
    service.write_app(SHUTTING)
    served = Served(service, kind)
    service.start(*flags, "-b", served.bind)
    before = set(map(str, service.worker_pids()))
    service.write_app("the code of today does not even compile")
    served.ask("/shut")
    until(lambda: served.ask() == "v1", f"it serves again: {service.log()}")
    until(lambda: SHUT in service.log(), "it is said")
    assert re.search(
        r"not by forkd: .* noticed by (worker \d+ \(pid \d+\)|the master)", service.log()
    )
    assert ready(service) == 200
    until(lambda: served.pids() <= before, "the same workers")
    idle(service)
    served.ask("/shut")  # once more: what was made anew can be, too
    until(lambda: served.ask() == "v1", f"it serves again: {service.log()}", 20)
    until(lambda: ready(service) == 200, "ready")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_reuseport_and_several_listeners(service: Daemon, kind: str) -> None:
    """What goes on is one socket of a group, or the other address."""
    service.expected_errors = [SHUT]
    service.write_app(SHUTTING)
    served = Served(service, kind)
    flags = ["--accept", "reuseport"] if kind == "tcp" else ["-b", "127.0.0.1:0"]
    service.start(*flags, "-b", served.bind)
    served.ask("/shut")
    until(lambda: SHUT in service.log(), "it is said")
    until(lambda: ready(service) == 200, "ready")
    until(lambda: len(served.pids()) >= 1 and all(served.ask() for _ in range(50)), "all answer")
    if kind == "unix":
        assert service.get() == "v1"
    idle(service)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize(
    "flags",
    [
        ["-m", "half-sync-half-async"],
        ["-m", "half-sync-half-async", "--io", "epoll"],
        ["-m", "half-sync-half-async", "--dispatch", "competition"],
        ["-m", "process-per-connection"],
    ],
    ids=" ".join,
)
def test_where_the_master_accepts(service: Daemon, flags: list[str], kind: str) -> None:
    service.expected_errors = [SHUT]
    served = Served(service, kind)
    service.start(*flags, "-b", served.bind)
    assert served.ask() == "v1"
    with copy_of_listener(service.pid, kind) as copy:
        if copy.getsockname() == os.fspath(service.control):
            raise AssertionError("that is the control socket")
        copy.shutdown(socket.SHUT_RDWR)
    until(lambda: served.ask() == "v1", f"it serves again: {service.log()}")
    until(lambda: "noticed by the master" in service.log(), "it is said")
    assert ready(service) == 200
    idle(service)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--no-native"],
        ["--threads", "4"],
        ["--io", "blocking"],
        ["-m", "proactor"],
        ["-m", "reactor"],
    ],
    ids=" ".join,
)
def test_who_waits_in_a_unix_socket_is_served(service: Daemon, flags: list[str]) -> None:
    service.expected_errors = [SHUT]
    served = Served(service, "unix")
    service.start(*flags, "-b", served.bind, "-w", "1")
    with contextlib.ExitStack() as stack:
        pid = service.worker_pids()[0]
        os.kill(pid, signal.SIGSTOP)
        waiting = [stack.enter_context(served.connect()) for _ in range(20)]
        with copy_of_listener(pid, "unix") as copy:
            copy.shutdown(socket.SHUT_RDWR)
        until(lambda: SHUT in service.log(), "the watchdog sees it")
        later = [stack.enter_context(served.connect()) for _ in range(20)]
        os.kill(pid, signal.SIGCONT)
        for client in [*waiting, *later]:
            client.sendall(REQUEST)
            assert client.recv(1000).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
def test_a_tcp_socket_that_is_shut_down_twice(service: Daemon, how: int) -> None:
    """Before it could be repaired: two workers may do it, or one that closes all that it finds. The second
    shutdown(2) is one of a socket that does not listen: it is kept, and inherited by each connection."""
    service.expected_errors = [SHUT]
    served = Served(service, "tcp")
    service.start()
    with copy_of_listener(service.worker_pids()[0], "tcp") as copy:
        os.kill(service.pid, signal.SIGSTOP)
        copy.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            copy.shutdown(how)  # ENOTCONN, and done all the same
        os.kill(service.pid, signal.SIGCONT)
    until(lambda: ready(service) == 200, "ready")
    until(lambda: served.ask() == "v1", f"it serves again: {service.log()}")
    assert all(served.ask() == "v1" for _ in range(20))


def test_half_of_a_unix_socket(service: Daemon) -> None:
    """SHUT_RD refuses clients as well, and poll(2) says nothing of HUP then."""
    service.expected_errors = [SHUT]
    served = Served(service, "unix")
    service.start("-b", served.bind)
    with copy_of_listener(service.worker_pids()[0], "unix") as copy:
        copy.shutdown(socket.SHUT_RD)
        until(lambda: served.ask() == "v1", f"it serves again: {service.log()}")
    until(lambda: f"also held by pid {os.getpid()} (" in service.log(), "it is said")


def test_an_inherited_tcp_socket_listens_again(service: Daemon) -> None:
    service.expected_errors = [SHUT]
    service.write_app(SHUTTING)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        assert (
            service.run("start", *service.flags("-b", f"fd://{fd}"), pass_fds=[fd]).returncode == 0
        )
        port = listener.getsockname()[1]
        service.get("/shut")
        until(lambda: SHUT in service.log(), "it is said")
        until(lambda: ready(service) == 200, "ready")
        assert service.address[1] == port
        assert service.get() == "v1"


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--accept", "exclusive", "-w", "1:3"],
        ["-m", "half-sync-half-async", "--io", "epoll"],
        ["-m", "proactor"],
    ],
    ids=" ".join,
)
def test_an_inherited_unix_socket_is_not_ours_to_make(service: Daemon, flags: list[str]) -> None:
    service.expected_errors = [SHUT, "reload failed"]
    path = service.dir / "theirs.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        done = service.run("start", *service.flags("-b", f"fd://{fd}", *flags), pass_fds=[fd])
        assert done.returncode == 0, done.stderr
        assert ready(service) == 200
        before = len(service.workers())
        listener.shutdown(socket.SHUT_RDWR)
        until(lambda: ready(service) == 503, "not ready")
    until(lambda: SHUT in service.log(), "it is said")
    assert "can only be made anew by whoever made it" in service.admin("/readyz")[1]
    assert "NOT listening on unix:" in service.ok("status")
    done = service.run("reload")
    assert done.returncode == 1
    assert "can only be made anew by whoever made it" in done.stderr
    idle(service)
    assert len(service.workers()) == service.live()["master"]["workers_wanted"] == before
    assert len(re.findall(f"error .*{SHUT}", service.log())) == 1  # said once


def test_a_listener_that_cannot_be_made_now_is_made_later(service: Daemon) -> None:
    service.expected_errors = [SHUT]
    served = Served(service, "unix")
    place = service.dir / "run"
    place.mkdir()
    served.path = place / "s.sock"
    service.start("-b", f"unix:{served.path}")
    shutil.rmtree(place)
    with copy_of_listener(service.worker_pids()[0], "unix") as copy:
        copy.shutdown(socket.SHUT_RDWR)
    until(lambda: f"{SHUT}; bind" in service.log(), "it is said why not")
    assert SHUT in service.admin("/readyz")[1]
    idle(service)
    place.mkdir()
    until(lambda: served.ask() == "v1", "the directory is there again")
    until(lambda: ready(service) == 200, "ready")


# ---- socket files ---------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--preload"], ["-m", "half-sync-half-async"]], ids=" ".join)
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_socket_file_is_made_again_at_a_reload(
    service: Daemon, how: str, flags: list[str]
) -> None:
    served = Served(service, "unix")
    service.start(*flags, "-b", served.bind)
    assert ready(service) == 200
    served.path.unlink()
    if how == "replaced":  # by a socket of a process that has gone
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(served.path))
    status, why = service.admin("/readyz")
    assert status == 503
    assert f"unix:{served.path}: the socket file was removed or replaced" in why
    assert "socket file was removed" in service.ok("status")
    service.ok("reload")
    assert ready(service) == 200
    assert served.ask() == "v1"
    service.ok("reload")
    assert served.ask() == "v1"
    service.ok("stop")
    assert not served.path.exists()


def test_a_socket_file_whose_directory_is_gone(service: Daemon) -> None:
    service.expected_errors = ["reload failed"]
    place = service.dir / "run"
    place.mkdir()
    path = place / "s.sock"
    service.start("-b", "127.0.0.1:0", "-b", f"unix:{path}")
    shutil.rmtree(place)
    done = service.run("reload")
    assert done.returncode == 1
    assert f"bind unix:{path}" in done.stderr or f"bind(unix:{path})" in done.stderr, done.stderr
    assert service.live()["master"]["generation"] == 1
    assert service.get() == "v1"
    assert ready(service) == 503
    place.mkdir()
    service.ok("reload")
    assert ready(service) == 200


def test_a_socket_file_that_is_anothers_by_now(service: Daemon, other: Daemon) -> None:
    service.expected_errors = ["reload failed"]
    served = Served(service, "unix")
    service.start("-b", served.bind)
    served.path.unlink()
    other.start("-b", served.bind)
    done = service.run("reload")
    assert done.returncode == 1
    assert "belongs to pid" in done.stderr
    service.ok("stop")
    assert served.ask() == "v1"  # the other's file was left alone


def test_a_control_socket_file_is_made_again(service: Daemon) -> None:
    service.start()
    service.control.unlink()
    assert service.run("status").returncode != 0
    service.signal(signal.SIGHUP)
    until(lambda: service.run("status").returncode == 0, "it answers again")
    until(lambda: service.live()["master"]["generation"] == 2, "reloaded")


def test_so_are_those_of_the_admin_endpoint_and_the_health_listener(service: Daemon) -> None:
    paths = {who: service.dir / f"{who}.sock" for who in ("admin", "health")}
    flags = [word for who, path in paths.items() for word in (f"--{who}", f"unix:{path}")]
    flags += ["-b", f"unix:{service.dir}/web.sock", "-w", "1", "--socket-mode", "600"]
    service.start(*flags)

    def answers(path: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 200 ")

    for verb in ("reload", "upgrade"):
        assert all(map(answers, paths.values()))
        paths["admin"].unlink()
        paths["health"].unlink()
        with socket.socket(socket.AF_UNIX) as stale:  # of a process that has gone
            stale.bind(str(paths["health"]))
        checked, shown = service.ok("check", *service.flags(*flags)), service.ok("status")
        for path in paths.values():
            gone = f"unix:{path}: the socket file was removed or replaced; a reload makes it again"
            assert f"note: the running daemon cannot be reached at {gone}\n" in checked
            assert f"NOT listening on {gone}" in " ".join(shown.split())
        service.ok(verb)
        until(lambda: "NOT listening" not in service.ok("status"), "made again")
        assert {path.stat().st_mode & 0o777 for path in paths.values()} == {0o600}
    assert all(map(answers, paths.values()))
    service.ok("stop")
    assert not any(path.exists() for path in paths.values())


def test_an_upgrade_makes_files_again(service: Daemon) -> None:
    served = Served(service, "unix")
    service.start("-b", served.bind)
    old = service.pid
    served.path.unlink()
    service.control.unlink()
    service.signal(signal.SIGUSR2)
    until(lambda: service.pid != old, "another master")
    until(lambda: served.ask() == "v1", f"it serves: {service.log()}")
    assert service.ok("status")
    until(lambda: ready(service) == 200, "ready")
    service.ok("stop")
    assert not served.path.exists()


def test_a_listener_made_anew_ends_an_upgrade(service: Daemon) -> None:
    """The new master would have the old socket."""
    service.expected_errors = [SHUT, "upgrade failed"]
    served = Served(service, "unix")
    service.start("-b", served.bind)
    old = service.pid
    service.write_app("import time\ntime.sleep(60)")
    service.signal(signal.SIGUSR2)
    until(
        lambda: re.search(r"upgrade: pid \d+ is starting", service.log()), "an upgrade is under way"
    )
    with copy_of_listener(service.worker_pids()[0], "unix") as copy:
        copy.shutdown(socket.SHUT_RDWR)
    until(lambda: "a listener was made anew meanwhile" in service.log(), "it is given up")
    assert service.pid == old
    until(lambda: served.ask() == "v1", "and the service is well")
