"""Upgrade: a new master on the same sockets; no request is lost, and a broken one changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .clients import Load
from .conftest import Daemon, alive, command_line, processes_of, until


def ask(path: Path, request: str = "/") -> bytes:
    """One request over a unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(f"GET {request} HTTP/1.0\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


def counters(page: str) -> dict[str, float]:
    """But for process_*: each master is a process, and has its own from the start on."""
    matches = re.findall(r"^((?!process_)\w+(?:_total|_count|_sum|_bucket)(?:\{.*\})?) (\S+)$", page, re.M)
    return {name: float(value) for name, value in matches}


@contextmanager
def upgrading(service: Daemon, how: str) -> Iterator[None]:
    """Within it, the upgrade is under way; behind it the new master serves and the old one is gone."""
    old, before = service.pids(), service.pid
    if how == "signal":
        service.signal(signal.SIGUSR2)
        yield
    else:
        service.ok("upgrade")
        yield
    until(lambda: service.pidfile.read_text().strip() not in ("", str(before)), "a new master")
    until(lambda: not [pid for pid in old if alive(pid)], f"the old ones gone: {service.log()}")
    until(lambda: len(service.workers()) == 2, "both workers")


HOW = pytest.mark.parametrize("how", ["verb", "signal"])


@HOW
def test_a_new_master_serves_and_nothing_of_the_old_is_left(service: Daemon, how: str) -> None:
    path = service.dir / "s.sock"
    service.start("-b", "127.0.0.1:0", "-b", f"unix:{path}")
    address, old = service.address, service.pids()
    service.write_app(version="v2")
    with upgrading(service, how):
        pass
    assert service.address == address
    assert service.get() == "v2"
    assert ask(path).endswith(b"v2")
    assert command_line(service.pid) == f"forkd: master [{service.name}]"
    assert not service.pids() & old
    assert set(processes_of(service.name)) == service.pids()
    status = service.status()  # over the control socket
    assert status["master"]["pid"] == service.pid
    assert status == {**service.live(), **status}
    assert [x["address"] for x in status["listeners"]] == [
        f"127.0.0.1:{address[1]}",
        f"unix:{path}",
    ]
    service.ok("reload")
    service.ok("scale", "3")
    until(lambda: len(service.workers()) == 3, "the verbs work")


@HOW
def test_no_request_is_lost_under_load(service: Daemon, how: str) -> None:
    service.start()
    with Load(service.address, keep=3, fresh=3) as load:
        load.more(100)
        service.write_app(version="v2")
        with upgrading(service, how):
            load.more(50)
        load.more(100)
    assert load.failures == []
    assert load.bodies == {b"v1", b"v2"}
    until(lambda: service.metric("forkd_requests_total") == load.asked, "all counted, by both")


@pytest.mark.parametrize(
    "environ",
    [
        {"FORKD_MODEL": "half-sync-half-async"},
        {"FORKD_ACCEPT": "reuseport"},
    ],
    ids=lambda environ: "-".join(environ.values()),
)
def test_whoever_accepts_none_is_lost(service: Daemon, environ: dict[str, str]) -> None:
    service.environ |= environ
    service.start()
    with Load(service.address, keep=1, fresh=3) as load:
        load.more(50)
        with upgrading(service, "verb"):
            load.more(50)
        load.more(50)
    assert load.failures == []


def test_two_upgrades_in_a_row_under_load(service: Daemon) -> None:
    service.start()
    first = service.pid
    with Load(service.address, keep=2, fresh=2) as load:
        for version in ("v2", "v3"):
            load.more(50)
            service.write_app(version=version)
            with upgrading(service, "verb"):
                load.more(20)
        load.more(50)
    assert load.failures == []
    assert load.bodies == {b"v1", b"v2", b"v3"}
    assert service.pid != first
    assert service.get() == "v3"
    until(lambda: service.metric("forkd_requests_total") == load.asked + 1, "counted by all three")


def test_an_upgrade_right_behind_an_upgrade(service: Daemon) -> None:
    """The first old master may still be retiring."""
    service.start()
    with Load(service.address, keep=1, fresh=1) as load:
        load.more(10)
        service.ok("upgrade")
        service.ok("upgrade")
        load.more(20)
    assert load.failures == []
    until(lambda: set(processes_of(service.name)) == service.pids(), "one daemon is left")
    assert len(service.workers()) == 2
    until(lambda: service.metric("forkd_requests_total") == load.asked, "counted by all three")


@HOW
def test_no_counter_goes_back(service: Daemon, how: str) -> None:
    """Scrapes throughout; for a moment both masters have the admin socket."""
    service.start()
    seen: dict[str, float] = {}

    def scrape() -> None:
        now = counters(service.admin("/metrics")[1])
        went_back = {k: (v, now.get(k)) for k, v in seen.items() if now.get(k, 0) < v}
        assert not went_back
        seen.update(now)

    with Load(service.address, keep=2, fresh=2) as load:
        load.more(100)
        scrape()
        assert seen['forkd_requests_total{code="200"}'] >= 90
        with upgrading(service, how):
            for _ in range(20):
                scrape()
                load.more(2)
        scrape()
    assert load.failures == []
    until(lambda: service.metric("forkd_requests_total") == load.asked, "all counted")
    scrape()


def test_a_long_request_is_finished_by_the_old_master(service: Daemon) -> None:
    service.start()
    before = service.pid
    with service.connect() as client:
        client.sendall(b"GET /sleep/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        service.ok("upgrade")
        assert service.get() == "v1"  # the new one serves meanwhile
        assert service.pid != before
        assert client.makefile("rb").read().endswith(b"slept")
    until(lambda: not alive(before), "the old one is gone")
    service.settles(2, "forkd_requests_total")


def test_connections_that_wait_in_the_queue_are_served(service: Daemon) -> None:
    """The queue belongs to the socket, which both masters have."""
    path = service.dir / "s.sock"
    service.start("-b", f"unix:{path}")
    stopped = service.worker_pids()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(10)]
    for client in clients:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    service.ok("upgrade")
    for pid in stopped:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
    for client in clients:
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        client.close()


# ---- when it fails ------------------------------------------------------------------------


def unchanged(service: Daemon, old: set[int], path: Path) -> None:
    """The old master serves on, everywhere; nothing of the new one is left."""
    assert service.get() == "v1"
    assert ask(path).endswith(b"v1")
    assert service.status()["master"]["pid"] == service.pid
    assert service.pids() == old
    assert service.admin("/readyz")[0] == 200
    until(lambda: set(processes_of(service.name)) == old, "nothing of the new one")


@pytest.mark.parametrize(
    "source, line",
    [
        ("raise LookupError('broken on purpose')", "LookupError: broken on purpose"),
        ("other = 1", "has no attribute 'app'"),
        ("import os; os._exit(3)", "worker "),
    ],
)
def test_a_broken_application_leaves_the_old_one_serving(
    service: Daemon, source: str, line: str
) -> None:
    service.expected_errors = [""]
    path = service.dir / "s.sock"
    service.start("-b", "127.0.0.1:0", "-b", f"unix:{path}")
    old = service.pids()
    service.write_app(source)
    with Load(service.address, keep=1, fresh=1) as load:
        load.more(10)
        done = service.run("upgrade")
        load.more(10)
    assert done.returncode == 1
    assert line in done.stderr
    assert load.failures == []
    until(lambda: "upgrade failed" in service.log(), "the line in the log")
    unchanged(service, old, path)
    service.write_app(version="v2")
    with upgrading(service, "verb"):  # and then it works
        pass
    assert service.get() == "v2"
    assert ask(path).endswith(b"v2")


def test_the_traceback_names_the_line(service: Daemon) -> None:
    service.expected_errors = [""]
    service.start()
    service.write_app("\n\nraise LookupError('broken on purpose')")
    done = service.run("upgrade")
    assert "Traceback" in done.stderr
    assert 'app.py", line 3' in done.stderr


def test_a_broken_configuration_leaves_the_old_one_serving(service: Daemon) -> None:
    service.expected_errors = [""]
    path = service.dir / "s.sock"
    text = f'app = "app:app"\nadmin = "127.0.0.1:0"\nbind = ["127.0.0.1:0", "unix:{path}"]\n'
    (service.dir / "c.toml").write_text(text + "workers = 2\n")
    service.start("-c", "c.toml", app=None)
    old = service.pids()
    (service.dir / "c.toml").write_text(text + 'workers = "many"\n')
    done = service.run("upgrade")
    assert done.returncode == 1
    assert "workers" in done.stderr
    unchanged(service, old, path)


# ---- one of the two ends meanwhile --------------------------------------------------------


class Booting:
    """An upgrade whose application is importing, and stays so until it is let."""

    def __init__(self, service: Daemon) -> None:
        self.gate, booting = service.dir / "gate", service.dir / "booting"
        service.write_app(f"""
            import os, time
            open({str(booting)!r}, "w").close()
            deadline = time.monotonic() + 20
            while not os.path.exists({str(self.gate)!r}) and time.monotonic() < deadline:
                time.sleep(0.01)

            def app(environ, start):
                start("200 OK", [])
                return [b"v2"]
        """)
        service.signal(signal.SIGUSR2)
        until(booting.exists, "the new one boots")
        starting = r"upgrade: pid (\d+) is starting"
        self.pid = int(until(lambda: re.findall(starting, service.log()), "its pid in the log")[-1])

    def go_on(self) -> None:
        self.gate.touch()

    def kill(self) -> None:
        if alive(self.pid):
            os.kill(self.pid, signal.SIGKILL)


def test_the_new_master_is_killed_while_it_boots(service: Daemon) -> None:
    service.expected_errors = ["upgrade failed"]
    path = service.dir / "s.sock"
    service.start("-b", "127.0.0.1:0", "-b", f"unix:{path}")
    old = service.pids()
    Booting(service).kill()
    until(lambda: "upgrade failed" in service.log(), "the failure")
    unchanged(service, old, path)


def test_a_second_upgrade_meanwhile_is_refused(service: Daemon) -> None:
    service.expected_errors = ["upgrade failed"]
    service.start()
    new = Booting(service)
    done = service.run("upgrade")
    assert (done.returncode, "under way" in done.stderr) == (1, True)
    assert service.get() == "v1"
    new.go_on()
    until(lambda: service.pid == new.pid, "the first one succeeds")
    until(lambda: set(processes_of(service.name)) == service.pids(), "the old one gone")


def test_a_stop_meanwhile_stops_both(service: Daemon) -> None:
    service.expected_errors = ["upgrade failed"]
    service.start()
    new = Booting(service)
    try:
        service.ok("stop")
        new.go_on()
        until(lambda: not alive(new.pid), "no new master", 1.5)
        assert not service.pidfile.exists()
    finally:
        new.kill()


def test_the_old_master_is_killed_meanwhile(service: Daemon) -> None:
    service.start()
    old, new = service.pid, Booting(service)
    os.kill(old, signal.SIGKILL)
    new.go_on()
    try:
        until(lambda: service.pid == new.pid and service.get() == "v2", "the new one serves")
        done = service.run("status", "--json", timeout=2.5)  # raises when there is no answer
        assert done.returncode == 0
        service.ok("stop")
        assert not service.control.exists()
    finally:
        new.kill()
        until(lambda: not processes_of(service.name), "gone")
        service.pidfile.unlink(missing_ok=True)
        service.control.unlink(missing_ok=True)


def test_the_old_master_is_killed_while_it_retires(service: Daemon) -> None:
    service.start()
    old = service.pid
    with service.connect() as client:
        client.sendall(b"GET /sleep/5 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        service.ok("upgrade")
        os.kill(old, signal.SIGKILL)
        until(lambda: set(processes_of(service.name)) == service.pids(), "only the new one")
    assert service.get() == "v1"
    assert service.status()["master"]["pid"] == service.pid


def test_without_a_daemon(service: Daemon) -> None:
    assert service.run("upgrade").returncode == 3


def test_many_upgrades_leak_nothing(service: Daemon) -> None:
    service.start("-w", "1")

    def held() -> int:
        return len(os.listdir(f"/proc/{service.pid}/fd"))

    def upgrade() -> None:
        service.ok("upgrade")
        until(lambda: set(processes_of(service.name)) == service.pids(), "the old one gone")

    upgrade()
    before = held()
    for _ in range(2):
        upgrade()
    until(lambda: held() <= before, f"{before} descriptors, as after the first; has {held()}")


# ---- in the foreground, the process that stays ----------------------------------------------


@pytest.mark.parametrize("how", ["killed", "stopped, then killed", "after two upgrades"])
def test_the_service_ends_with_the_process_that_stays(service: Daemon, how: str) -> None:
    service.expected_errors = ["has been killed; the service ends with it"]
    first = service.start_in_foreground()
    for _ in range(2 if how == "after two upgrades" else 1):
        service.ok("upgrade")
    until(lambda: command_line(first.pid).startswith("forkd: foreground"), "it stands in")
    port, pids = service.address[1], service.pids()
    with service.connect() as client:
        client.sendall(b"GET /sleep/60 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        if how == "stopped, then killed":
            first.send_signal(signal.SIGSTOP)
        first.kill()
        until(lambda: not [pid for pid in pids if alive(pid)], "the end of the service")
    assert first.wait(10) == -signal.SIGKILL
    assert not service.pidfile.exists()
    service.start("-b", f"127.0.0.1:{port}")  # as the supervisor does next
    assert service.get() == "v1"


def test_the_service_ends_with_it_while_it_finishes_its_work(service: Daemon) -> None:
    service.expected_errors = ["has been killed; the service ends with it"]
    first = service.start_in_foreground()
    with service.connect() as client:
        client.sendall(b"GET /sleep/60 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        service.ok("upgrade")
        pids = service.pids()
        first.kill()
        until(lambda: not [pid for pid in pids if alive(pid)], "the end of the service")
    service.gone()


# ---- what cannot become a new master ------------------------------------------------------------


def started_by_a_link(
    service: Daemon, *arguments: str, app: str = "app:app", forkd: Path = Path(__file__).parents[2] / "forkd"
) -> tuple[Path, Path]:
    """A service whose interpreter, and the directory of its forkd, are links that a test can remove."""
    python, lib = service.dir / "python", service.dir / "lib"
    python.symlink_to(os.path.realpath(sys.executable))
    lib.mkdir()
    (lib / "forkd").symlink_to(forkd)
    environ = {**service.environ, "PYTHONPATH": f"{lib}:{sysconfig.get_paths()['purelib']}"}
    done = subprocess.run(
        [python, *service.argv("start", *service.flags(*arguments, app=app))[1:]],
        cwd=service.dir, env=environ, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return python, lib


ECHO = """
    import asyncio

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)
"""


@pytest.mark.parametrize("io", ["epoll", "sigio"])
def test_files_that_are_replaced_change_nothing_before_an_upgrade(service: Daemon, io: str) -> None:
    """Not even what is imported later: by a worker whose application needs it, or by the first scrape."""
    service.write_app(ECHO)
    _, lib = started_by_a_link(service, "-w", "1", "--io", io, app="app:Echo")
    (lib / "forkd").unlink()
    (lib / "forkd").mkdir()
    (lib / "forkd" / "__init__.py").write_text("raise ImportError('another version')")
    (worker,) = service.worker_pids()
    service.expected_errors = ["gone: SIGKILL"]
    os.kill(worker, signal.SIGKILL)
    until(lambda: service.worker_pids() not in ([], [worker]), "a new worker")
    host, _, port = service.live()["listeners"][0]["address"].rpartition(":")

    def echoed() -> bytes:
        with socket.create_connection((host, int(port)), 10) as client:
            client.sendall(b"hello")
            return client.recv(100)

    assert echoed() == b"hello"
    service.ok("reload")
    service.settles(2, "forkd_generation")
    assert echoed() == b"hello"


#: What a later version may add to what it hands over; the places are those of master/upgrade.py.
NEWER = """
_describe = describe

def describe(*args, **kwargs):
    handed = _describe(*args, **kwargs)
    %s["sealed"] = True
    return handed
"""


@pytest.mark.parametrize(
    "place, what",
    [
        ('handed["listeners"][0]["wanted"]', "its listener 127.0.0.1:"),
        ('handed["listeners"][0]["permissions"]', "its socket file has"),
        ('handed["sources"]', "its configuration has"),
        ('handed["manager"]', "its service manager has"),
    ],
)
def test_what_a_newer_forkd_has_and_this_one_lacks_is_refused(
    service: Daemon, tmp_path: Path, place: str, what: str
) -> None:
    newer = tmp_path / "newer" / "forkd"
    shutil.copytree(Path(__file__).parents[2] / "forkd", newer)
    with open(newer / "master" / "upgrade.py", "a") as file:
        file.write(NEWER % place)
    _, lib = started_by_a_link(service, forkd=newer)
    service.expected_errors = ["upgrade failed"]
    (lib / "forkd").unlink()
    (lib / "forkd").symlink_to(Path(__file__).parents[2] / "forkd")
    workers = service.worker_pids()
    done = service.run("upgrade")
    assert done.returncode == 1
    assert what in done.stderr and "sealed = True, which this version does not have" in done.stderr
    assert "Traceback" not in done.stderr
    assert service.worker_pids() == workers and service.get() == "v1"


@pytest.mark.parametrize("how", ["verb", "signal"])
@pytest.mark.parametrize("gone", ["interpreter", "forkd", "directory"])
def test_the_reason_why_none_can_be_started_is_told(service: Daemon, gone: str, how: str) -> None:
    python, lib = started_by_a_link(service)
    service.expected_errors = ["upgrade failed", "Traceback"]
    if gone == "interpreter":
        python.unlink()
        said = f"execve({python}): ENOENT: No such file or directory"
    elif gone == "forkd":
        (lib / "forkd").unlink()
        said = f"{python}: No module named forkd"
    else:
        (lib / "forkd").unlink()
        (lib / "forkd").mkdir()
        (lib / "forkd" / "__init__.py").write_text("")
        (lib / "forkd" / "__main__.py").write_text("raise ImportError('half installed')")
        said = "ImportError: half installed"
    if how == "verb":
        done = service.run("upgrade")
        assert done.returncode == 1
        assert said in done.stderr
    else:
        service.signal(signal.SIGUSR2)
    until(lambda: said in service.log(), "the reason in the log")
    assert service.get() == "v1"
    assert len(processes_of(service.name)) == 4  # a master, a logger, two workers


def test_a_bundle_is_upgraded_by_itself_as_it_is_by_then(service: Daemon) -> None:
    """A zipapp; what it needs besides is installed."""
    bundle = service.dir / "service.pyz"

    def make(version: str) -> None:
        root = Path(__file__).parents[2]
        new = bundle.with_suffix(".new")
        with zipfile.ZipFile(new, "w") as archive:
            for path in (root / "forkd").rglob("*.py"):
                text = path.read_text()
                if path.name == "__init__.py" and path.parent.name == "forkd":
                    text = re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', text)
                archive.writestr(str(path.relative_to(root)), text)
            archive.writestr("__main__.py", "from forkd.command.main import main\nmain()\n")
        os.replace(new, bundle)

    make("1.0")
    environ = {k: v for k, v in service.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, bundle.name, *service.argv("start", *service.flags())[3:]]
    done = subprocess.run(
        command, cwd=service.dir, env=environ, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "forkd 1.0 serves" in done.stdout
    make("2.0")
    service.write_app(version="v2")
    with upgrading(service, "verb"):
        pass
    assert service.get() == "v2"
    assert "forkd 2.0 serves" in service.log()


@pytest.mark.parametrize(
    "flags",
    [[], ["-m", "half-sync-half-async"], ["-m", "process-per-connection", "--io", "sigio"]],
    ids=" ".join,
)
def test_addresses_that_the_new_master_has_no_more_are_let_go(
    service: Daemon, flags: list[str]
) -> None:
    """And who waits there is answered before, by the old one."""
    path = service.dir / "one.sock"
    toml = 'app = "app:app"\nadmin = "127.0.0.1:0"\nworkers = 2\nbind = '
    (service.dir / "c.toml").write_text(f'{toml}["127.0.0.1:0", "unix:{path}", "127.0.0.2:0"]\n')
    service.start("-c", "c.toml", *flags, app=None)
    names = [listener["address"] for listener in service.live()["listeners"]]
    address = ("127.0.0.1", int(names[0].rpartition(":")[2]))
    dropped = ("127.0.0.2", int(names[2].rpartition(":")[2]))
    (service.dir / "c.toml").write_text(f'{toml}["127.0.0.1:0"]\n')
    with Load(address, keep=2) as load:
        load.more(10)
        with upgrading(service, "verb"):
            pass
        load.more(10)
    assert load.failures == []
    assert [listener["address"] for listener in service.live()["listeners"]] == names[:1]
    assert not path.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(dropped, 5)
