"""One run of one row of the fault matrix: a daemon, its clients, what is measured and what is required.

The rows are in faults_*.py, listed by matrix.py; test_matrix.py runs their short form and
scripts/soak the long one. Nothing here knows which of the two it is.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from .clients import Crowd
from .conftest import Daemon, alive, children_of, processes_of, until, zombies_of


class Trial:
    def __init__(self, service: Daemon, seed: int, scale: float, model: str = "") -> None:
        """`scale`: 1 is the row as it was promised, less is a shorter form of the same."""
        self.service = service
        self.chance = random.Random(seed)
        self.scale = scale
        self.model = model or "leader-followers"
        self.figures: dict[str, str] = {}
        self.broken: list[str] = []

    # ---- what is wanted -------------------------------------------------------------------

    def times(self, full: int, least: int = 1) -> int:
        return max(least, round(full * self.scale))

    def seconds(self, full: float, least: float = 1.0) -> float:
        return max(least, full * self.scale)

    def require(self, held: object, promise: str) -> None:
        if not held:
            self.broken.append(promise)

    def note(self, name: str, value: object) -> None:
        self.figures[name] = f"{value:.3g}" if isinstance(value, float) else str(value)

    def summary(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.figures.items())

    @property
    def dispatched(self) -> bool:
        """The master accepts, and hands each connection to a worker's queue: no child leads."""
        return self.model in ("process-per-connection", "half-sync-half-async")

    # ---- the daemon -----------------------------------------------------------------------

    @property
    def unix(self) -> str:
        return str(self.service.dir / "s.sock")

    def start(self, *flags: str) -> None:
        """Over TCP and a unix socket, under the model of the trial."""
        self.service.start("-m", self.model, "-b", "127.0.0.1:0", "-b", f"unix:{self.unix}", *flags)

    def wanted(self, count: int) -> bool:
        """As many workers as that are ready, and there are no others."""
        workers = self.service.live()["workers"]
        return [w["state"] for w in workers] == ["ready"] * count

    def settled(self, count: int, seconds: float = 30.0) -> None:
        until(lambda: self.wanted(count), f"{count} workers: {self.service.log()[-3000:]}", seconds)

    def sound(self, count: int) -> None:
        """The state that everything has to lead back to: one master, `count` children, no others."""
        service = self.service
        self.settled(count)
        until(lambda: service.admin("/readyz")[0] == 200, "ready")
        if self.model != "process-per-connection":  # whose workers have children of their own
            until(lambda: set(processes_of(service.name)) == service.pids(), "no process but these")
        until(lambda: not zombies_of(service.pid), "no zombie")
        # A leader may promote a child that has just died: then the next connection makes another.
        wanted = not self.dispatched
        until(lambda: self.leaders() == wanted or not service.get(), f"{wanted:d} leader")
        status = service.live()["master"]
        self.require(status["state"] == "running", f"the state is {status['state']}")
        self.require(service.get() == "v1", "a request is answered at the end")

    def leaders(self) -> int:
        return [w["role"] for w in self.service.workers()].count("leader")

    # ---- clients --------------------------------------------------------------------------

    @contextlib.contextmanager
    def crowd(self, keep: int = 4, fresh: int = 4, path: str = "/") -> Iterator[Crowds]:
        """Checking clients, half of them over TCP and half over the unix socket."""
        with contextlib.ExitStack() as stack:
            crowds = Crowds([
                stack.enter_context(Crowd(address, keep=keep // 2, fresh=fresh // 2, path=path))
                for address in (self.service.address, self.unix)
            ])  # fmt: skip
            crowds.more(20, 30)
            yield crowds

    def none_failed(self, crowds: Crowds) -> None:
        self.note("answered", crowds.count("answered"))
        self.note("failed", crowds.failed)
        self.require(not crowds.failed, f"{crowds.failed} failed: {crowds.failures[:5]}")

    def stall(self, crowds: Crowds, p99: float, most: float) -> None:
        """How long requests took at worst, in seconds."""
        took = sorted(seconds for each in crowds.crowds for seconds in each.times)
        near, worst = took[int(len(took) * 0.99)], took[-1]
        self.note("p99", f"{near * 1e3:.1f} ms")
        self.note("max", f"{worst * 1e3:.0f} ms")
        self.require(near < p99, f"p99 is {near:.3f} s, not below {p99:g} s")
        self.require(worst < most, f"the longest took {worst:.3f} s, not below {most:g} s")


class Crowds:
    """Several crowds counted as one."""

    def __init__(self, crowds: list[Crowd]) -> None:
        self.crowds = crowds

    def count(self, fate: str) -> int:
        return sum(crowd.count(fate) for crowd in self.crowds)

    @property
    def failed(self) -> int:
        return sum(crowd.failed for crowd in self.crowds)

    @property
    def failures(self) -> list[str]:
        return [text for crowd in self.crowds for text in crowd.failures]

    def more(self, requests: int, seconds: float = 30.0) -> None:
        for crowd in self.crowds:
            crowd.more(requests // len(self.crowds), seconds)


# ---- processes ----------------------------------------------------------------------------


#: Whoever lists /proc and looks at an entry afterwards may find that it has gone meanwhile, and who reads a
#: file of it that it went between open(2) and read(2).
GONE = (FileNotFoundError, ProcessLookupError)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def files(pid: int) -> list[str]:
    """What its descriptors refer to; none when it has gone."""
    found: list[str] = []
    with contextlib.suppress(*GONE):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(*GONE):  # closed meanwhile
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


def open_files(pids: list[int]) -> set[str]:
    """What their descriptors refer to."""
    return {file for pid in pids for file in files(pid)}


def connections(service: Daemon) -> set[str]:
    """The sockets, as `files` has them, of those who ask the master: at the admin endpoint and the control
    socket. proc_net(5)."""
    port, found = f":{service.admin_address[1]:04X}", set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if local.endswith(port) and state != "0A":  # LISTEN
            found.add(f"socket:[{rest[5]}]")
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split(maxsplit=7)
        if path == [str(service.control)] and flags != "00010000":  # listens
            found.add(f"socket:[{inode}]")
    return found


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: list[int]) -> float:
    """Of the living among them, user and system."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(*GONE):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    return [pid, *(each for child in children_of(pid) for each in family(child))]


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """False when it has gone by itself."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
