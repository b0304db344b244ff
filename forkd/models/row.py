"""What is said of a model: the row that each model's file ends with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forkd.engine.context import ChildContext, Model


@dataclass(frozen=True)
class ModelRow:
    name: str
    make: Callable[[ChildContext], Model]
    ios: tuple[str, ...]  # the default first
    master_accepts: bool  # and hands the sockets to its children
    forks: bool  # a process for each client
    threaded: bool  # --threads means something
    pooled: bool  # the logic always runs in a pool of them
    waits: str  # who waits and accepts
    moves: str  # who reads and writes
    logic: str  # who runs the logic
    handoff: str
    good_for: str
    weakness: str
    #: Pairs of (io, interface) that make no sense, with the reason and what to use instead. `MULTIPLEXED` is
    #: each interface whose connections have several exchanges at a time.
    refused: dict[tuple[str, str], str]


MULTIPLEXED = "several exchanges at a time"


def refused_by_pools(*ios: str) -> dict[tuple[str, str], str]:
    """What a model with a pool does not carry, with each of these."""
    reason = (
        "{} belongs to the thread of its event loop, and this model would run it in any thread of its pool; "
        "use --model leader-followers"
    )
    kinds = {"asyncio": "an asyncio protocol", "asgi": "an ASGI application"}
    return {(io, name): reason.format(what) for name, what in kinds.items() for io in ios}
