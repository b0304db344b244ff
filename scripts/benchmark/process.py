"""A server under measurement: started on its core, its process tree read from /proc, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
APPS = Path(__file__).parent / "apps"
START_SECONDS = 30
END_SECONDS = 5


class Unavailable(Exception):
    """A contender that cannot take part, and why."""


class Server:
    """One server. A context manager: whatever happens, nothing of it is left when it is over."""

    def __init__(self, command: list[str], port: int, log: Path, core: int):
        self.command, self.port, self._core = command, port, core
        self.directory = log.parent
        self._log = open(log, "w+b")

    def __enter__(self) -> Server:
        # A session of its own: Ctrl-C is for the suite, which then stops the server.
        self._process = subprocess.Popen(
            self.command, cwd=APPS, stdin=subprocess.DEVNULL, stdout=self._log,
            stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {self._core}),
        )  # fmt: skip
        try:
            self._until_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # not all peers end while connections are open
        for pid, fields in _processes():
            if int(fields[3]) == self._process.pid:  # of its session
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _until_it_listens(self) -> None:
        if until_it_listens(self._process, self.port):
            return
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        raise Unavailable("it did not start: " + ("; ".join(lines[-2:]) or "it printed nothing"))

    def log(self) -> str:
        """What it has printed."""
        with open(self._log.name, errors="replace") as file:
            return file.read()

    @property
    def master(self) -> int:
        return self._process.pid

    def pids(self) -> list[int]:
        """The server's first process and all its descendants."""
        parents = {pid: int(fields[1]) for pid, fields in _processes()}
        tree = [self.master]
        for pid in tree:  # grows while it is read
            tree += [child for child, parent in parents.items() if parent == pid]
        return tree

    def cpu(self) -> float:
        """CPU seconds of the tree; a child that ended counts in the parent that reaped it."""
        tree = set(self.pids())
        return sum(sum(map(int, f[11:15])) for pid, f in _processes() if pid in tree) / _TICKS

    def master_cpu(self) -> float:
        """CPU seconds of the first process alone, to the nanosecond: it is to use next to none."""
        found = [_read(task / "schedstat").split() for task in _tasks(self.master)]
        return sum(int(fields[0]) for fields in found if fields) / 1e9

    def memory(self) -> int:
        """PSS in bytes of the tree: pages that n processes share count an n-th for each."""
        return sum(_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in self.pids()) * 1024

    def wakeups(self) -> int:
        """How often threads of the tree have gone to sleep: each time, something had woken them."""
        return sum(
            _field(task / "status", "voluntary_ctxt_switches:")
            for pid in self.pids()
            for task in _tasks(pid)
        )


def until_it_listens(process: subprocess.Popen[bytes], port: int) -> bool:
    """False: it has ended, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _processes() -> list[tuple[int, list[str]]]:
    """Of each process the fields of /proc/PID/stat from the third on: state, parent, …"""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(entry / "stat")):
            found.append((int(entry.name), stat.rpartition(")")[2].split()))
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read(path: Path) -> str:
    """"" when the process has gone since it was listed."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _field(path: Path, name: str) -> int:
    """0 when the process has gone since it was listed."""
    text = _read(path)
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    if text:
        raise ValueError(f"{path} has no {name}")
    return 0
