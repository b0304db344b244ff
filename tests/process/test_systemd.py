"""The shipped units under a real systemd, booted in namespaces of the test's."""

from __future__ import annotations

import grp
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .clients import Load
from .conftest import APP, alive, children_of, command_line, until

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = "/lib/systemd/systemd"
NAMESPACES = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--uts", "--ipc", "--cgroup"]

pytestmark = [
    pytest.mark.skipif(not Path(SYSTEMD).exists(), reason="systemd is not installed"),
    pytest.mark.skipif(
        subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode != 0,
        reason="namespaces are not permitted here",
    ),
]

#: What of the units is the administrator's to fill in, and what the place of the tests forbids:
#: their directories are in /tmp, the interpreter may be in a home, and /dev may be a mount of its own.
OVERRIDE = """
    [Service]
    User=root
    Group=root
    WorkingDirectory={directory}
    Environment=PYTHONPATH={root} FORKD_CONTROL=/run/forkd/control.sock FORKD_ADMIN=none FORKD_WORKERS=2
    ExecStart=
    ExecStart={python} -m forkd start --foreground app:app {flags}
    ExecReload=
    ExecReload={python} -m forkd reload
    StandardError=append:{directory}/log
    StandardOutput=append:{directory}/log
    ProtectHome=no
    PrivateTmp=no
    PrivateUsers=no
    PrivateDevices=no
    ReadWritePaths={directory}
    RuntimeDirectoryPreserve=no
    {more}
"""


#: The same for the template; all else is as it is shipped.
TEMPLATE_OVERRIDE = """
    [Service]
    User=root
    Environment=PYTHONPATH={root}
    StandardError=append:{directory}/log
    StandardOutput=append:{directory}/log
    ProtectHome=no
    PrivateTmp=no
    PrivateUsers=no
    PrivateDevices=no
    ReadWritePaths={directory}
"""


class Machine:
    """A booted systemd with the units of one test."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.units = directory / "units"
        self.units.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def unit(self, flags: str = "", more: str = "", activated: int = 0) -> None:
        """Install forkd.service, and forkd.socket when `activated` is a port."""
        service = (ROOT / "systemd/forkd.service").read_text()
        if activated:
            text = (ROOT / "systemd/forkd.socket").read_text()
            (self.units / "forkd.socket").write_text(
                text.replace("127.0.0.1:8000", f"127.0.0.1:{activated}")
            )
        else:
            service = service.replace("Requires=forkd.socket\n", "")
        (self.units / "forkd.service").write_text(service)
        override = self.units / "forkd.service.d"
        override.mkdir(exist_ok=True)
        text = textwrap.dedent(OVERRIDE).format(
            directory=self.dir, root=ROOT, python=sys.executable, flags=flags,
            more=more.replace("; ", "\n"),
        )  # fmt: skip
        (override / "here.conf").write_text(text)
        self.app()

    def template(self) -> None:
        """Install forkd@.service."""
        text = (ROOT / "systemd/forkd@.service").read_text()
        for here, there in [
            ("/srv/%i/.venv/bin/forkd", f"{sys.executable} -m forkd"),
            ("/srv/%i", f"{self.dir}/%i"),
            ("/etc/forkd/%i.toml", f"{self.dir}/%i.toml"),
        ]:
            assert here in text
            text = text.replace(here, there)
        (self.units / "forkd@.service").write_text(text)
        self.drop_in("forkd@.service", TEMPLATE_OVERRIDE.format(directory=self.dir, root=ROOT))

    def instance(self, name: str, config: str) -> None:
        """What the administrator makes for one of its instances."""
        (self.dir / name).mkdir()
        (self.dir / f"{name}.toml").write_text(f'app = "app:app"\nworkers = 1\n{config}')
        self.app(version=name, within=name)

    def drop_in(self, unit: str, text: str) -> None:
        directory = self.units / f"{unit}.d"
        directory.mkdir(exist_ok=True)
        (directory / "here.conf").write_text(textwrap.dedent(text))

    def inside(self, path: str) -> Path:
        """A file of the machine's, out here."""
        return Path(f"/proc/{self.pid}/root{path}")

    def app(self, source: str = APP, version: str = "v1", within: str = ".") -> None:
        new = self.dir / within / "app.new"
        new.write_text(textwrap.dedent(source).replace('"v1"', f'"{version}"'))
        os.replace(new, self.dir / within / "app.py")

    def boot(self) -> None:
        # /tmp, /var and /etc are the machine's: read-only here, but for the test's own directory, and
        # the services that would tidy them up at boot are masked.
        masked = [
            "tmpfiles-setup",
            "tmpfiles-setup-dev",
            "tmpfiles-clean",
            "update-utmp",
            "random-seed",
        ]
        script = (
            "set -e; mount --make-rprivate /; "
            "for d in /tmp /var /etc; do mount --bind $d $d; done; "
            f"mount --bind {self.dir} {self.dir}; "
            "for d in /tmp /var /etc; do mount -o remount,bind,ro $d; done; "
            "mount -t tmpfs tmpfs /var/log; "
            "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system; "
            f"cp -r {self.units}/. /run/systemd/system/; "
            + "".join(
                f"ln -s /dev/null /run/systemd/system/systemd-{name}.service; " for name in masked
            )
            + f"export container=other; exec {SYSTEMD} --system --unit=basic.target"
        )
        self.process = subprocess.Popen(
            [*NAMESPACES, "--kill-child", "bash", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: children_of(self.process.pid), "the namespace")  # type: ignore[union-attr]
        self.pid = children_of(self.process.pid)[0]
        until(lambda: "is-system" not in self.state(), "systemd to be up", 60)

    def state(self) -> str:
        done = self.ctl("is-system-running", check=False)
        found = done.stdout.strip()
        return found if found in ("running", "degraded") else "is-system-not-up"

    def ctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-a", "systemctl", *arguments],
            capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr}{self.log()}"
        return done

    def show(self, name: str, unit: str = "forkd.service") -> str:
        return self.ctl("show", "-P", name, unit).stdout.strip()

    def log(self) -> str:
        try:
            return (self.dir / "log").read_text()
        except FileNotFoundError:
            return ""

    def forkds(self) -> list[int]:
        """The forkd processes of the machine, as pids out here."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    command = Path(f"/proc/{entry}/cmdline").read_bytes()
                    space = os.stat(f"/proc/{entry}/ns/pid").st_ino
                except OSError:
                    continue
                if (
                    command.startswith(b"forkd: ")
                    and space == os.stat(f"/proc/{self.pid}/ns/pid").st_ino
                ):
                    found.append(int(entry))
        return [pid for pid in found if alive(pid)]

    def masters(self) -> list[int]:
        return [p for p in self.forkds() if "master" in command_line(p)]

    def off(self) -> None:
        if self.process is not None:
            self.process.kill()  # --kill-child: and so all that is in the namespace
            self.process.wait()
            until(lambda: not alive(self.pid), "the machine to be off")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.off()


@pytest.fixture
def port() -> int:
    """A free one, below those that the kernel gives to the other tests' daemons (ip_local_port_range)."""
    while True:
        found = random.randrange(20000, 32000)
        try:
            socket.create_server(("127.0.0.1", found)).close()
        except OSError:
            continue
        return found


def get(port: int, path: str = "/", timeout: float = 20) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while more := client.recv(65536):
            data += more
    assert data.startswith(b"HTTP/1.1 200"), data[:100]
    return data.partition(b"\r\n\r\n")[2].decode()


def test_start_reload_upgrade_and_stop(machine: Machine, port: int) -> None:
    machine.unit(f"-b 127.0.0.1:{port}")
    machine.app(version="v1")
    source = "import time; time.sleep(1)\n" + textwrap.dedent(APP)
    machine.app(source)
    machine.boot()
    # Start is ready only when the children are.
    machine.ctl("start", "forkd.service")
    assert get(port) == "v1"
    assert "2 workers ready" in machine.show("StatusText")
    # One worker that the OOM killer takes does not end it all; no number of failures does for good.
    assert (machine.show("OOMPolicy"), machine.show("StartLimitIntervalUSec")) == ("continue", "0")
    [worker, *_] = [pid for pid in machine.forkds() if "worker" in command_line(pid)]
    assert re.findall(r"Umask:\s*(\d+)", Path(f"/proc/{worker}/status").read_text()) == ["0027"]
    # A reload returns when the new generation serves.
    machine.app(source, version="v2")
    machine.ctl("reload", "forkd.service")
    assert get(port) == "v2"
    # And fails when that cannot boot; the old one goes on.
    machine.app("nonsense")
    assert machine.ctl("reload", "forkd.service", check=False).returncode != 0
    assert get(port) == "v2" and machine.show("ActiveState") == "active"
    machine.app(version="v3")
    # An upgrade moves MAINPID.
    before = machine.show("MainPID")
    os.kill(machine.masters()[0], signal.SIGUSR2)
    until(lambda: machine.show("MainPID") not in (before, "0"), "another main process", 30)
    until(lambda: len(machine.masters()) == 1, "the old master to end", 30)
    assert get(port) == "v3" and machine.show("ActiveState") == "active"
    machine.ctl("reload", "forkd.service")
    # Stop leaves nothing.
    machine.ctl("stop", "forkd.service")
    assert machine.forkds() == [] and machine.show("ActiveState") == "inactive"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
    done = machine.ctl("show", "-P", "NFileDescriptorStore", "forkd.service")
    assert done.stdout.strip() == "0"


def test_a_start_that_fails_is_a_failed_unit(machine: Machine, port: int) -> None:
    machine.unit(f"-b 127.0.0.1:{port}", "Restart=no")
    machine.app("nonsense")
    machine.boot()
    assert machine.ctl("start", "forkd.service", check=False).returncode != 0
    assert "NameError" in machine.log() and machine.forkds() == []


def test_the_first_connection_starts_the_service(machine: Machine, port: int) -> None:
    machine.unit(activated=port)
    machine.boot()
    machine.ctl("start", "forkd.socket")
    assert machine.show("FreeBind", "forkd.socket") == "yes"
    assert machine.forkds() == []
    assert get(port, timeout=60) == "v1"
    # Over a restart clients wait in the socket, which is systemd's.
    with Load(("127.0.0.1", port), fresh=4, timeout=60) as load:
        machine.ctl("restart", "forkd.service")
        until(lambda: load.asked > 0, "requests")
    assert not load.failures, load.failures[:5]
    machine.ctl("stop", "forkd.socket", "forkd.service")
    assert machine.forkds() == []


def test_a_killed_master_is_started_again_and_no_client_is_refused(
    machine: Machine, port: int
) -> None:
    machine.unit(f"-b 127.0.0.1:{port}", "RestartSec=300ms")
    machine.boot()
    machine.ctl("start", "forkd.service")
    assert machine.show("NFileDescriptorStore") == "1"
    for _ in range(3):
        before = machine.show("MainPID")
        os.kill(machine.masters()[0], signal.SIGKILL)
        deadline = time.monotonic() + 30
        while machine.show("MainPID") in (before, "0") or not machine.masters():
            assert time.monotonic() < deadline
            assert get(port) == "v1"  # it waits for the next master; refused, it would raise
        assert get(port) == "v1"
    assert machine.show("NRestarts") == "3"


def test_the_watchdog_fires_when_the_children_are_wedged(machine: Machine, port: int) -> None:
    machine.unit(f"-b 127.0.0.1:{port} --timeout 0", "WatchdogSec=2; RestartSec=100ms")
    machine.boot()
    machine.ctl("start", "forkd.service")
    before = machine.show("MainPID")
    for pid in set(machine.forkds()) - set(machine.masters()):
        os.kill(pid, signal.SIGSTOP)
    until(lambda: machine.show("MainPID") not in (before, "0"), "a new master", 30)
    until(lambda: machine.show("ActiveState") == "active", "it to serve", 30)
    assert get(port) == "v1"


def test_instances_of_the_template_share_nothing(machine: Machine, port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        second = int(sock.getsockname()[1])
    machine.template()
    machine.unit("-b 127.0.0.1:0 -w 1")
    for name, address in [("one", f"127.0.0.1:{port}"), ("my-two", f"127.0.0.1:{second}")]:
        log = f"/var/log/forkd-{name}/access.log"
        machine.instance(name, f'bind = "{address}"\naccess-log = "{log}"\n')
    machine.boot()
    machine.ctl("start", "forkd@one.service", "forkd@my-two.service", "forkd.service")
    assert (get(port, "/a"), get(second, "/b")) == ("one", "my-two")
    pids = {name: machine.show("MainPID", f"forkd@{name}.service") for name in ("one", "my-two")}
    for name, path in (("one", "/a"), ("my-two", "/b")):
        run, logs = machine.inside(f"/run/forkd-{name}"), machine.inside(f"/var/log/forkd-{name}")
        assert {p.name for p in run.iterdir()} == {"forkd.pid", "forkd.sock", "admin.sock"}
        assert (run / "forkd.pid").read_text().strip() == pids[name]
        until(
            lambda logs=logs, path=path: re.findall(r"GET (/\w+)", (logs / "access.log").read_text())
            == [path],
            "its own line and no other",
        )
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(run / "admin.sock"))
            client.sendall(b"GET /status.json HTTP/1.0\r\nHost: localhost\r\n\r\n")
            data = b"".join(iter(lambda: client.recv(65536), b""))
        status = json.loads(data.partition(b"\r\n\r\n")[2])
        assert status["master"]["name"] == name and len(status["workers"]) == 1
    # What one of them does is nothing to the others.
    machine.app(version="anew", within="one")
    machine.ctl("reload", "forkd@one.service")
    assert (get(port), get(second)) == ("anew", "my-two")
    machine.ctl("stop", "forkd@one.service", "forkd.service")
    assert not machine.inside("/run/forkd-one").exists() and not machine.inside("/run/forkd").exists()
    assert get(second) == "my-two" and len(machine.masters()) == 1
    machine.ctl("reload", "forkd@my-two.service")
    assert machine.show("MainPID", "forkd@my-two.service") == pids["my-two"]
    machine.ctl("stop", "forkd@my-two.service")
    assert machine.forkds() == []


def test_an_instance_gives_its_unix_socket_to_a_group(machine: Machine) -> None:
    """With the lines that the template names: its filter forbids chown(2) otherwise."""
    path = "/run/forkd-one/web.sock"
    config = f'bind = "unix:{path}"\nsocket-mode = "660"\n'
    machine.template()
    machine.instance("one", config)
    machine.boot()
    machine.ctl("start", "forkd@one.service")
    assert machine.inside(path).stat().st_mode & 0o777 == 0o660
    machine.ctl("stop", "forkd@one.service")
    (machine.dir / "one.toml").write_text(f'app = "app:app"\n{config}socket-group = "daemon"\n')
    assert machine.ctl("start", "forkd@one.service", check=False).returncode != 0
    assert "EPERM" in machine.log() and "Traceback" not in machine.log()
    machine.ctl("stop", "forkd@one.service")
    drop_in = machine.inside("/run/systemd/system/forkd@one.service.d")
    drop_in.mkdir()
    (drop_in / "group.conf").write_text(
        "[Service]\nSupplementaryGroups=daemon\nSystemCallFilter=@chown\n"
    )
    machine.ctl("daemon-reload")
    machine.ctl("start", "forkd@one.service")
    found = machine.inside(path).stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o660, grp.getgrnam("daemon").gr_gid)


def hardening(unit: str) -> list[str]:
    text = (ROOT / "systemd" / unit).read_text().partition("# Hardening.")[2]
    return [line for line in text.splitlines()[1:] if line and not line.startswith("#")]


def test_the_template_is_hardened_as_the_service_is() -> None:
    assert len(hardening("forkd.service")) > 20
    assert hardening("forkd@.service") == hardening("forkd.service")


def test_the_units_are_sound_and_hardened(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    units = ("forkd.service", "forkd.socket", "forkd@.service")
    for unit in units:
        text = (ROOT / "systemd" / unit).read_text()
        # The one thing that is wrong with them here: the program is not there.
        (tmp_path / unit).write_text(re.sub(r"/srv/(hello|%i)/.venv/bin/forkd", "/bin/true", text))
    paths = [str(tmp_path / unit) for unit in units]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for path in (paths[0], paths[2]):
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", path], capture_output=True, text=True
        )
        score = re.findall(r"Overall exposure level for forkd(?:@i)?.service: ([0-9.]+)", done.stdout)
        assert float(score[0]) <= 2.0
