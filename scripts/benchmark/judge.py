"""Figures to medians, and medians to goals reached or not. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from scripts.benchmark.work import METRICS, Goal, Work


@dataclass(frozen=True)
class Spread:
    """Of one figure over the rounds."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    text: str  # what is compared
    found: float | None  # None: one of the two is missing
    bound: float
    reached: bool


def spread(rounds: list[dict[str, float]], metric: str) -> Spread | None:
    values = [figures[metric] for figures in rounds if metric in figures]
    return Spread(median(values), min(values), max(values)) if values else None


def verdicts(work: Work, result: dict[str, Any]) -> list[Verdict]:
    metric = work.metrics[0]
    found = {name: spread(rounds, metric) for name, rounds in result["figures"].items()}
    middles = {name: one.middle for name, one in found.items() if one}
    figures = result["figures"]
    return [verdict for goal in work.goals for verdict in _verdicts(goal, metric, middles, figures)]


def _verdicts(
    goal: Goal, metric: str, middles: dict[str, float], figures: dict[str, list[dict[str, float]]]
) -> list[Verdict]:
    more = METRICS[metric][1]
    own = middles.get(goal.of)
    if not goal.against:
        return [_verdict(METRICS[metric][0], own, goal.bound, more)]
    others = goal.against
    if goal.best:
        present = [name for name in others if name in middles]
        others = (
            ((max if more else min)(present, key=middles.__getitem__),) if present else others[:1]
        )
    ratios = {name: ratio(figures, metric, goal.of, name) for name in others}
    return [
        _verdict(f"{goal.of} ÷ {name}", found, goal.bound, more) for name, found in ratios.items()
    ]


def ratio(
    figures: dict[str, list[dict[str, float]]], metric: str, one: str, other: str
) -> float | None:
    """The median of the rounds' ratios: what the machine does for longer than a round, to whatever it
    runs, is in both figures of a round."""
    ratios = [
        mine[metric] / theirs[metric]
        for mine, theirs in zip(figures.get(one, []), figures.get(other, []), strict=False)
        if metric in mine and theirs.get(metric)
    ]
    return median(ratios) if ratios else None


def _verdict(text: str, found: float | None, bound: float, more: bool) -> Verdict:
    reached = found is not None and (found >= bound if more else found <= bound)
    return Verdict(f"{text} {'≥' if more else '≤'} {bound:,g}", found, bound, reached)
