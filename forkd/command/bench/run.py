"""Measure: start a daemon per combination, load it with wrk, read what it cost. In the command.

Rounds are interleaved, every combination once per round, so that whatever else the machine does
falls on all of them; the figures are medians. Requests per CPU-second of the daemon's processes are
steadier than requests per second when the load generator shares the machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from forkd.errors import ForkdError
from forkd.system import interpreter

_TICKS = os.sysconf("SC_CLK_TCK")
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Combination:
    model: str
    workers: int
    threads: int
    loop: str = ""  # of asyncio's; "": the one that --loop has in the environment, or its default

    def __str__(self) -> str:
        loop = f" {self.loop}" if self.loop else ""
        return f"{self.model} w{self.workers} t{self.threads}{loop}"


@dataclass
class Result:
    """The figures of one combination, with a value per round."""

    combination: Combination
    per_second: list[float] = field(default_factory=list)
    per_cpu_second: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)  # ms
    p99: list[float] = field(default_factory=list)  # ms
    errors: int = 0
    refused: str = ""  # why it cannot run

    def figures(self) -> tuple[float, float, float, float]:
        """Medians: requests/s, requests per CPU-second, p50 and p99 in ms."""
        return (
            median(self.per_second),
            median(self.per_cpu_second),
            median(self.p50),
            median(self.p99),
        )


@dataclass(frozen=True)
class Load:
    """The load that wrk makes."""

    connections: int
    seconds: float
    path: str


def wrk_or_die() -> str:
    """The path of wrk. Raises ForkdError that says how to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise ForkdError("bench needs wrk, which is not installed: apt-get install wrk")
    return found


def interface_of(app: str | None) -> str:
    """What --interface has for it. Raises ForkdError with the reason when the application cannot be loaded:
    no combination could."""
    with tempfile.TemporaryDirectory(prefix="forkd-bench-") as directory:
        where = ["--pidfile", f"{directory}/bench.pid", "-b", "127.0.0.1:0", "--admin", "none"]
        checked = _forkd("check", *([app] if app else []), *where)
    if checked.returncode:
        raise ForkdError(checked.stderr.strip().removeprefix("forkd: "))
    found = re.search(r"\((\w+)\) under ", checked.stdout)
    return found[1] if found else ""


def measure(
    app: str | None,
    combinations: list[Combination],
    rounds: int,
    load: Load,
    progress: Callable[[int, int, str], None],
) -> list[Result]:
    """Run everything. KeyboardInterrupt stops the daemon that runs, and passes on."""
    wrk = wrk_or_die()
    results = [Result(combination) for combination in combinations]
    total = rounds * len(results)
    for done in range(total):
        result = results[done % len(results)]
        progress(done, total, str(result.combination))
        if not result.refused:
            _one(wrk, app, result, load)
    progress(total, total, "done")
    return results


def _one(wrk: str, app: str | None, result: Result, load: Load) -> None:
    with tempfile.TemporaryDirectory(prefix="forkd-bench-") as directory:
        where = ["--pidfile", f"{directory}/bench.pid"]
        combination = result.combination
        flags = [
            "-m", combination.model, "-w", str(combination.workers),
            "--threads", str(combination.threads), "-b", "127.0.0.1:0", "--admin", "none",
            *(["--loop", combination.loop] if combination.loop else []),
        ]  # fmt: skip
        started = _forkd("start", *([app] if app else []), *flags, *where)
        if started.returncode:
            result.refused = started.stderr.strip().splitlines()[-1].removeprefix("forkd: ")
            return
        try:
            asked = _forkd("status", "--json", *where)
            if asked.returncode:
                raise ForkdError(f"{result.combination}: {asked.stderr.strip().removeprefix('forkd: ')}")
            status = json.loads(asked.stdout)
            url = f"http://{status['listeners'][0]['address']}{load.path}"
            master = status["master"]["pid"]
            _wrk(wrk, url, load.connections, 0.3)  # warm: imports, caches, connections
            before = _cpu(master)
            text = _wrk(wrk, url, load.connections, load.seconds)
            _read(text, _cpu(master) - before, result)
        finally:
            _forkd("stop", *where)


def _forkd(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A session of its own: Ctrl-C is this command's, which then stops the daemon properly.
    # No file that lies in this directory: what is measured is what the arguments say.
    return subprocess.run(
        interpreter.command(verb, *arguments, "-c", os.environ.get("FORKD_CONFIG") or os.devnull),
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )


def _wrk(wrk: str, url: str, connections: int, seconds: float) -> str:
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ForkdError(f"wrk failed: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def _cpu(master: int) -> float:
    """CPU seconds that the master and all its descendants have used, the reaped ones included."""
    ticks: dict[int, int] = {}
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry)] = int(fields[1])
            ticks[int(entry)] = sum(int(n) for n in fields[11:15])  # utime, stime, cutime, cstime
    tree = {master}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(ticks.get(pid, 0) for pid in tree) / _TICKS


def _read(text: str, cpu: float, result: Result) -> None:
    """Read wrk's report."""
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not requests or not rate:
        raise ForkdError(f"wrk printed something else than expected:\n{text}")
    result.per_second.append(float(rate[1]))
    result.per_cpu_second.append(int(requests[1]) / cpu if cpu else 0.0)
    for percent, values in (("50%", result.p50), ("99%", result.p99)):
        found = re.search(rf"{percent}\s+([\d.]+)(us|ms|s|m)\b", text)
        values.append(float(found[1]) * _UNITS[found[2]] if found else 0.0)
    for count in re.findall(r"(?:connect|read|write|timeout) (\d+)|Non-2xx.*?: (\d+)", text):
        result.errors += sum(int(n) for n in count if n)
