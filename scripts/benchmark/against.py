"""This commit beside another one: whether forkd has become slower.

Both are built from what git has of them, each with a virtual environment of its own, and measured in
rounds that take turns. A run of the other commit against itself comes first: its spread says how much
of a difference is noise on this machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median

from scripts.benchmark import run
from scripts.benchmark.peers import BUILD, ROOT, Failed, command_output, virtual_environment
from scripts.benchmark.process import Server, Unavailable
from scripts.benchmark.servers import Contender
from scripts.benchmark.work import Work
from scripts.benchmark.works import WORKS

#: The works that a change is held to, and the least ratio: of requests per CPU-second, or of COSTS. The first
#: six are those that are measured when none is named.
LEAST_RATIOS = {
    "hello": 0.98,
    "headers": 0.98,
    "threads": 0.98,
    "close": 0.97,
    "echo": 0.98,
    "proactor": 0.98,
    "upload": 0.97,
    "64k": 0.97,
    "sleep": 0.97,
    "1m": 0.97,
    "slow": 0.97,
    "repeated": 0.97,
    "python-hello": 0.97,
    "python-upload": 0.97,
    "connections": 0.97,
    "idle-connections": 0.97,
}
QUICK = tuple(LEAST_RATIOS)[:6]
#: Figures of which less is better: CPU time of a request beside 10,000 connections, memory of one at rest.
COSTS = {"connections": "cost_10000", "idle-connections": "bytes"}
#: What such a server has allocated it has for good, so each round has servers of its own; and fewer do.
ANEW = {"idle-connections"}
ANEW_ROUNDS = 5
ROUNDS = 21


@dataclass(frozen=True)
class Comparison:
    """Ratios of how good they are, one for each round: the other commit by itself, and this by it."""

    work: str
    same: tuple[float, ...]
    ours: tuple[float, ...]

    @property
    def bound(self) -> float:
        """Half of the width of the interval that the median of equals falls into is noise."""
        low, high = interval(self.same)
        return LEAST_RATIOS[self.work] - (high - low) / 2

    @property
    def passed(self) -> bool:
        return median(self.ours) >= self.bound


def interval(ratios: tuple[float, ...]) -> tuple[float, float]:
    """Where the median of such rounds lies, with 95 % confidence: order statistics, with the normal
    approximation of the binomial distribution. Of 21 rounds these are the 6th and the 16th."""
    found = sorted(ratios)
    rank = max(1, int((len(found) - 1.96 * sqrt(len(found))) / 2))
    return found[rank - 1], found[-rank]


def compare(
    commit: str, names: list[str], rounds: int, seconds: float, progress: Callable[[str], None]
) -> bool:
    """Print a line for each work. Returns whether all have passed. Raises Failed where one of the
    trees cannot be built, or this one has changes that are not committed."""
    if command_output("git", "status", "--porcelain", "--untracked-files=no").strip():
        raise Failed("there are changes that are not committed: what is compared are commits")
    theirs, ours = (build(each) for each in (commit, "HEAD"))
    core, _ = run.prepare()
    passed = True
    print(f"{ours.name} against {theirs.name}: more is better, medians of the ratios of {rounds} rounds")
    for work in WORKS:
        if work.name in names:
            found = _measure(work, theirs, ours, core, rounds, seconds, progress)
            progress("")
            print(line(found), flush=True)
            passed = passed and found.passed
    return passed


def line(found: Comparison) -> str:
    low, high = interval(found.same)
    ours_low, ours_high = interval(found.ours)
    return (
        f"{found.work:16} A/A {median(found.same):.3f} ({low:.3f} to {high:.3f}), "
        f"this {median(found.ours):.3f} ({ours_low:.3f} to {ours_high:.3f}), "
        f"at least {found.bound:.3f}: {'passed' if found.passed else 'FAILED'}"
    )


def _measure(
    work: Work, theirs: Path, ours: Path, core: int, rounds: int, seconds: float,
    progress: Callable[[str], None],
) -> Comparison:  # fmt: skip
    same = _ratios(work, (theirs, theirs), core, rounds, seconds, progress)
    return Comparison(
        work.name, same, _ratios(work, (theirs, ours), core, rounds, seconds, progress)
    )


def _ratios(
    work: Work, trees: tuple[Path, Path], core: int, rounds: int, seconds: float,
    progress: Callable[[str], None],
) -> tuple[float, ...]:  # fmt: skip
    """Of the second tree by the first one. Who is first changes with each round, for the sake of what
    the first of two leaves behind for the second."""
    contender: Contender = next(c for c in work.contenders if c.name == work.goals[0].of)
    anew = work.name in ANEW
    ratios: list[float] = []
    for _ in range(ANEW_ROUNDS if anew else 1):
        with ExitStack() as stack:
            servers = [
                run.start(work, contender, core, stack, tree / ".venv" / "bin") for tree in trees
            ]
            for server in servers if work.warm else ():
                work.measure(server, run.WARM_SECONDS)
            for number in range(len(ratios), len(ratios) + 1 if anew else rounds):
                progress(f"{work.name}, {trees[1].name}: round {number + 1}")
                figures = [0.0, 0.0]
                for which in (0, 1) if number % 2 else (1, 0):
                    figures[which] = _goodness(work, servers[which], seconds)
                ratios.append(figures[1] / figures[0])
    return tuple(ratios)


def _goodness(work: Work, server: Server, seconds: float) -> float:
    """Requests per CPU-second, or the inverse of the cost."""
    found, cost = work.measure(server, seconds), COSTS.get(work.name)
    if found["errors"] or (cost or "per_cpu") not in found:
        raise Unavailable(f"{work.name}: {found['errors']:.0f} errors")
    return 1 / found[cost] if cost else found["per_cpu"]


def build(commit: str) -> Path:
    """The tree of the commit, with forkd installed in its `.venv`."""
    name = command_output("git", "rev-parse", "--short=10", f"{commit}^{{commit}}").strip()
    tree = BUILD / "trees" / name
    done = tree / ".venv" / "built"
    if not done.exists():
        print(f"building {name}", file=sys.stderr)
        tree.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(
            ["git", "archive", "--format=tar", name], cwd=ROOT, capture_output=True, check=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
        virtual_environment(tree / ".venv")
        python = str(tree / ".venv/bin/python")
        command_output(python, "-m", "pip", "install", "--quiet", str(tree))
        command_output(python, "-P", "-c", "import forkd._native")
        done.touch()
    return tree
