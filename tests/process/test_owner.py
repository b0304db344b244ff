"""With --user, no worker and no process that it gives its sockets to can have the kernel signal the master.

The open file description of a listener is shared. A process that has it may choose the signal its owner gets
(F_SETSIG), so that a master that owned it could be killed by its workers' user.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .conftest import Daemon, until
from .test_privileges import root_only
from .trial import GONE, family, open_files

pytestmark = root_only

#: Gives away each listening socket that its process has: when it is imported, in a worker or in a template,
#: and at each request.
APP = """
    import os, socket, stat

    def give_away():
        given = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                if not stat.S_ISSOCK(os.fstat(fd := int(name)).st_mode):
                    continue
                sock = socket.socket(fileno=os.dup(fd))
            except OSError:
                continue  # closed meanwhile
            with sock, socket.socket(socket.AF_UNIX) as outside:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    outside.connect(os.path.join(os.path.dirname(__file__), "outside"))
                    socket.send_fds(outside, [b"x"], [fd])
                    outside.recv(1)  # it has it
                    given += 1
        return given

    give_away()

    def app(environ, start):
        body = str(give_away()).encode()
        start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
"""

#: The process outside forkd: another child of init, with the workers' ids. For each line of its input, a pid,
#: it does all that it can to the listeners that it got, and says whose they were.
OUTSIDE = r"""
import fcntl, os, pwd, signal, socket, sys, threading

nobody = pwd.getpwnam("nobody")
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
door.listen(64)
os.setgroups([])
os.setresgid(*[nobody.pw_gid] * 3)
os.setresuid(*[nobody.pw_uid] * 3)
listeners = {}  # by the number of the socket

def collect():
    while True:
        sock, _ = door.accept()
        _, fds, _, _ = socket.recv_fds(sock, 1, 1)
        for fd in fds:
            if listeners.setdefault(os.fstat(fd).st_ino, fd) != fd:
                os.close(fd)
        sock.send(b"y")

def connect(listener):
    with socket.socket(listener.family) as client:
        client.settimeout(10)
        client.connect(listener.getsockname())
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: client.recv(1000), b"")).partition(b"\r\n")[0].decode()

threading.Thread(target=collect, daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    master, owners, answers = int(line), set(), set()
    for fd in list(listeners.values()):
        listener = socket.socket(fileno=os.dup(fd))
        owners.add(fcntl.fcntl(listener, fcntl.F_GETOWN))
        for number in (signal.SIGUSR2, signal.SIGSTOP, signal.SIGKILL):
            for own in (False, True):
                fcntl.fcntl(listener, fcntl.F_SETSIG, number)
                if own:
                    fcntl.fcntl(listener, fcntl.F_SETOWN, master)
                fcntl.fcntl(listener, fcntl.F_SETFL, fcntl.fcntl(listener, fcntl.F_GETFL) | os.O_ASYNC)
                answers.add(connect(listener))
        fcntl.fcntl(listener, fcntl.F_SETOWN, 0)
        listener.close()
    print(len(listeners), *sorted(owners - {0}), *sorted(answers), flush=True)
"""


class Outside:
    def __init__(self, service: Daemon) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", OUTSIDE, str(service.dir / "outside")], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._say() == "ready"

    def _say(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def attack(self, master: int) -> tuple[int, str]:
        """How many listeners it has by now; and the pids that owned one, and what clients were answered."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{master}\n")
        self._process.stdin.flush()
        count, _, rest = self._say().partition(" ")
        return int(count), rest

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture
def outside(service: Daemon) -> Iterator[Outside]:
    service.open_up()
    service.write_app(APP)
    made = Outside(service)
    yield made
    try:
        # Before the other one ends: a worker that starts at the end of a test gives its listener away, too.
        service.finish()
    finally:
        made.end()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def unharmed(service: Daemon, outside: Outside, least: int) -> int:
    """Attack the master, and see that it has heard nothing. Returns the number of listeners given away."""
    master, upgrades = service.pid, service.log().count("upgrade: pid")
    given = int(service.get())  # a worker's, in the answer of a worker
    count, rest = outside.attack(master)
    assert state(master) in "RS", "it was stopped, or killed"
    assert service.pid == master
    assert service.live()["workers"]  # its loop goes on, so that it has seen what came
    assert service.log().count("upgrade: pid") == upgrades
    assert count >= least
    if given:
        assert rest == "HTTP/1.1 200 OK"  # no process was the owner, and all clients were answered
    return count


#: Models whose workers have the listeners; what else they are started with.
SHARED = [
    [],
    ["--threads", "4"],
    ["--preload"],
    ["--accept", "exclusive", "-w", "1:3"],
    ["--accept", "reuseport"],
    ["--no-native"],
    ["-b", "127.0.0.1:0", "-b", "unix:SOCKET"],
    ["-m", "half-sync-half-reactive", "--threads", "4"],
    ["-m", "reactor"],
    ["-m", "simulated-proactor"],
    ["-m", "proactor"],
]
#: Those whose master accepts.
ALONE = [
    ["-m", "half-sync-half-async"],
    ["-m", "half-sync-half-async", "--io", "epoll"],
    ["-m", "half-sync-half-async", "--dispatch", "competition", "--preload"],
    ["-m", "process-per-connection", "--io", "sigio"],
    ["-m", "process-per-connection", "--preload", "--io", "sigio"],
]


@pytest.mark.parametrize("flags", SHARED + ALONE, ids=lambda flags: " ".join(flags) or "default")
def test_the_master_hears_nothing(service: Daemon, outside: Outside, flags: list[str]) -> None:
    shared = flags in SHARED
    flags = [flag.replace("SOCKET", str(service.dir / "s.sock")) for flag in flags]
    service.start("--user", "nobody", *flags)
    count = unharmed(service, outside, least=shared)
    assert bool(count) is shared
    service.ok("reload")
    count = unharmed(service, outside, least=count)
    before = service.pid
    service.ok("upgrade")
    until(lambda: service.pid != before, "a new master")
    until(lambda: "serves; retiring" in service.log(), "the last line of the upgrade")
    count = unharmed(service, outside, least=count)
    assert bool(count) is shared


def test_when_a_reload_gives_workers_what_the_master_had_alone(
    service: Daemon, outside: Outside
) -> None:
    """And back again: a process has kept the listener."""
    config = service.dir / "forkd.toml"
    lines = 'app = "app:app"\nbind = ["127.0.0.1:0"]\nadmin = "127.0.0.1:0"\nuser = "nobody"\n'
    alone, shared = 'model = "half-sync-half-async"\nio = "sigio"\n', ""
    config.write_text(lines + alone)
    service.start("-c", str(config), app=None)
    assert unharmed(service, outside, least=0) == 0
    config.write_text(lines + shared)
    service.ok("reload")
    assert unharmed(service, outside, least=1)
    config.write_text(lines + alone)
    service.ok("reload")
    assert service.get() == "0"
    assert outside.attack(service.pid)[1] == "HTTP/1.1 200 OK"
    assert state(service.pid) in "RS"
    before = service.pid
    service.ok("upgrade")
    until(lambda: service.pid != before, "a new master")
    assert outside.attack(service.pid)[1] == "HTTP/1.1 200 OK"
    assert state(service.pid) in "RS"


def test_when_an_upgrade_gives_the_workers_other_ids(service: Daemon, outside: Outside) -> None:
    """Also the old master hears nothing, which is still there while the new workers boot."""
    service.dir.chmod(0o777)  # for the worker's word
    config = service.dir / "forkd.toml"
    lines = 'app = "app:app"\nbind = ["127.0.0.1:0"]\nadmin = "127.0.0.1:0"\n'
    config.write_text(lines)
    service.write_app(APP.replace("give_away()\n\n    def app", "\n    def app"))  # not by root
    service.start("-c", str(config), app=None)
    service.write_app(
        APP.replace("give_away()\n\n    def app", WAITING.replace("\n", "\n    ") + "\n    def app")
    )
    config.write_text(lines + 'user = "nobody"\n')
    old = service.pid
    upgrade = subprocess.Popen(
        service.argv("upgrade"), cwd=service.dir, env=service.environ, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    until((service.dir / "given").exists, "a new worker that has the listener")
    assert outside.attack(old)[1] == "HTTP/1.1 200 OK"
    assert state(old) in "RS"
    (service.dir / "go").touch()
    said, _ = upgrade.communicate(timeout=20)
    assert upgrade.returncode == 0, said
    until(lambda: service.pid != old, "a new master")
    unharmed(service, outside, least=1)


#: In the new worker: it boots until the test has seen enough.
WAITING = """
give_away()
if os.getuid():
    import time
    here = os.path.dirname(__file__)
    open(os.path.join(here, "given"), "w").close()
    while not os.path.exists(os.path.join(here, "go")):
        time.sleep(0.01)
"""


@pytest.mark.parametrize("flags", [[], ["-m", "half-sync-half-async"]], ids=" ".join)
def test_an_inherited_socket_has_no_owner(
    service: Daemon, outside: Outside, flags: list[str]
) -> None:
    """Its creator may have set one, and `--io sigio` means epoll then."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        fcntl.fcntl(listener, fcntl.F_SETOWN, os.getpid())
        fd = listener.fileno()
        flags = service.flags("--user", "nobody", "-b", f"fd://{fd}", *flags)
        done = service.run("start", *flags, pass_fds=[fd])
        assert done.returncode == 0, done.stderr
        assert fcntl.fcntl(listener, fcntl.F_GETOWN) == 0
        unharmed(service, outside, least="-m" not in flags)
        service.ok("reload")
        assert fcntl.fcntl(listener, fcntl.F_GETOWN) == 0
        assert service.get().isdigit()


@pytest.mark.parametrize(
    ("flags", "alone"),
    [
        ([], False),
        (["--preload", "--access-log", "access"], False),
        (["-m", "half-sync-half-async"], True),
        (["-m", "half-sync-half-async", "--dispatch", "competition", "--preload"], True),
        (["-m", "process-per-connection", "--io", "sigio", "--preload"], True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_master_owns_only_what_it_has_alone(
    service: Daemon, flags: list[str], alone: bool
) -> None:
    """Of all its descriptors: channels, queues, bells, files."""
    service.open_up()
    service.start("--user", "nobody", *flags)
    for _ in range(2):
        master = service.pid
        theirs = open_files([pid for pid in family(master) if pid != master])
        owned = [name for name, owner in owners(master) if owner]
        assert len(owned) == alone
        assert theirs.isdisjoint(owned)
        service.ok("reload")


def owners(pid: int) -> list[tuple[str, int]]:
    """What the descriptors of a process refer to, and who is the owner of each (F_GETOWN)."""
    found = []
    pidfd = os.pidfd_open(pid)
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(*GONE):  # closed meanwhile
            file = os.readlink(f"/proc/{pid}/fd/{name}")
            fd = ctypes.CDLL(None).syscall(_PIDFD_GETFD, pidfd, int(name), 0)
            if fd >= 0:
                if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:  # the directory, which can have none
                    found.append((file, fcntl.fcntl(fd, fcntl.F_GETOWN)))
                os.close(fd)
    os.close(pidfd)
    assert len(found) > 10
    return found


_PIDFD_GETFD = 438  # pidfd_getfd(2)
