"""What a work is: its contenders, how it is measured, and what forkd is to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scripts.benchmark import fairness, measure
from scripts.benchmark.load import Figures
from scripts.benchmark.process import Server
from scripts.benchmark.servers import Contender

#: Name of a figure: how it is written in a table, and whether more of it is better.
METRICS = {
    "per_cpu": ("requests per CPU-second", True),
    "per_second": ("requests/s", True),
    "p50": ("p50, ms", False),
    "p99": ("p99, ms", False),
    "bytes": ("bytes per connection", False),
    "master": ("master's CPU, %", False),
    "wakeups": ("wake-ups/s", False),
    "pss": ("memory (PSS), MiB", False),
    "spread": ("dearest by cheapest", False),
    "stop": ("seconds until it has ended", False),
    "burst": ("busiest second by even", False),
    "told": ("seconds until it is told", False),
    **{
        f"{group}_{which}": (f"{group} {which}, ms", False)
        for group in fairness.GROUPS
        for which in ("p50", "p99", "max")
    },
    **{f"cost_{n}": (f"µs at {n:,}", False) for n in measure.STEPS},
}
RATES = ("per_cpu", "per_second", "p50", "p99")


@dataclass(frozen=True)
class Goal:
    """The work's first figure, of `of`: as a multiple of that of each of `against` (of the best
    alone: `best`), or by itself where there is none to compare with. At least the bound where
    more is better, else at most."""

    bound: float
    against: tuple[str, ...] = ()
    of: str = "forkd"
    best: bool = False


@dataclass(frozen=True)
class Work:
    name: str
    title: str
    metrics: tuple[str, ...]  # the first is the one that is judged and drawn
    contenders: tuple[Contender, ...]
    goals: tuple[Goal, ...]
    check: Callable[[Server], None]
    measure: Callable[[Server, float], Figures]
    warm: bool = True  # the measurement is run once before it counts
    quick: bool = False  # part of --quick
