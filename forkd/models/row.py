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

#: Why a model with a pool carries no asyncio protocol.
ONE_THREAD = (
    "an asyncio protocol belongs to the thread of its event loop, and this model would run it in "
    "any thread of its pool; use --model leader-followers"
)
