"""How many children a `MIN:MAX` service should have. Pure; called by the master."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """How long the present number of children has been more than enough."""

    calm_since: float | None = None  # monotonic seconds


def grow(want: int, most: int, starting: int) -> int:
    """Somebody waits in the accept queue and nobody is free: one more, or as many again while
    children that were asked for are not there yet would overshoot, so none then."""
    return want if starting else min(most, want + max(1, want // 4))


def shrink(
    want: int, least: int, busy: int, demand: Demand, now: float, patience: float
) -> tuple[int, Demand]:
    """One fewer after `patience` seconds in which at least one child had nothing to do.

    `busy` counts children that hold connections or work. Returns the number, and the new demand.
    """
    if want <= least or busy >= want:
        return want, Demand()
    if demand.calm_since is None:
        return want, Demand(now)
    if now - demand.calm_since < patience:
        return want, demand
    return want - 1, Demand(now)
