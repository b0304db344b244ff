"""How many children a `MIN:MAX` service should have. Pure; called by the master."""

from __future__ import annotations

from dataclasses import dataclass

from forkd.config import Config
from forkd.errors import ForkdError


@dataclass(frozen=True)
class Demand:
    """How long the present number of children has been more than enough."""

    calm_since: float | None = None  # monotonic seconds


def grow(want: int, most: int, starting: int) -> int:
    """A client waits in the accept queue and no child is free: one more, or as many again while
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


def require(
    want: int, config: Config, least: int, most: int, max_workers: int, pause: bool
) -> None:
    """Judge the number that an operator wants, for a service that may have `least` to `most` children, and
    room for `max_workers`. Raises ForkdError."""
    if config.accept == "reuseport" and not pause:
        raise ForkdError("with --accept reuseport the number of workers is fixed")
    if not pause and least < most:
        if not least <= want <= most:
            raise ForkdError(f"workers = {config.workers}: {want} is outside that range")
    elif not 0 <= want <= max_workers:
        raise ForkdError(
            f"{want} workers: the number goes from 0 to {max_workers} (--max-workers); a restart with a "
            "higher limit has room for more"
        )
