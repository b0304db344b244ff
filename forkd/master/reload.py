"""Reload: a new generation beside the old, which takes over when all its children are ready.

One at a time. A reload that is asked for meanwhile (SIGHUP, `forkd reload`) supersedes the one under way,
whose callers are told so (docs/decisions/0026-boot.md). When the configuration is wrong, an address cannot be
bound or a child cannot boot, the old generation goes on serving and the caller is told why. In the master.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from forkd.config import Config, keep_unreloadable, unreloadable
from forkd.errors import StartError
from forkd.ipc.control import Command
from forkd.master.children import Child, State
from forkd.models import registry

SUPERSEDED = "superseded: another reload was asked for before this one was ready"


@dataclass
class Reloads:
    """Who waits for the reload under way, and how those before have ended."""

    results: Counter[str] = field(
        default_factory=lambda: Counter(success=0, failure=0, superseded=0)
    )
    waiters: list[Command] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)  # options that changed and need a restart
    #: Callers whose reload begins when children that were killed have gone, and have left their slots.
    queued: list[Command] | None = None

    def take_queued(self) -> list[Command] | None:
        """The callers of a reload that can be tried again now; None: there is none."""
        queued, self.queued = self.queued, None
        return queued

    def join_queued(self) -> None:
        """Those whose reload has not begun hear what the others hear."""
        self.waiters += self.take_queued() or []

    def supersede(self) -> None:
        """Another was asked for meanwhile."""
        self.results["superseded"] += 1
        self.join_queued()

    def answer(self, generation: int, unused: list[str]) -> None:
        self.results["success"] += 1
        for waiter in self.waiters:
            waiter.answer(generation=generation, restart=self.restart, unused=unused)
        self.waiters = []

    def refuse(self, error: str) -> None:
        for waiter in self.waiters:
            waiter.refuse(error)
        self.waiters = []


@dataclass(frozen=True)
class Wanted:
    """What a reload is to bring up."""

    config: Config
    same_size: bool  # keep the number of children that the operator or the load have set
    restart: list[str]  # options that changed and need a restart


class SlotsTaken(Exception):
    """Children that were killed have the slots; when they have gone the reload can begin."""


def wanted(
    loaded: Config,
    *,
    old: Config,
    most: int,
    paused: str,
    max_workers: int,
    lanes: int,
    children: Collection[Child],
    slots: int,
) -> Wanted:
    """Judge the configuration `loaded` for a service that has `old`, at most `most` children, and room for
    `max_workers`. Raises StartError, or SlotsTaken."""
    config = keep_unreloadable(old, loaded)
    if registry.lanes(config) > lanes:
        raise StartError(
            f"model {config.model} needs more rows of the scoreboard than this master has; restart"
        )
    # After SIGWINCH the number is back at what is configured.
    same_size = config.workers == old.workers and paused != "SIGWINCH"
    most = most if same_size else config.workers.max
    if most > max_workers:
        raise StartError(
            f"workers {config.workers}: there may be up to {max_workers} (--max-workers) "
            "until the next restart"
        )
    if len(children) + most > slots:
        if any(child.state is State.KILLED for child in children):
            raise SlotsTaken
        raise StartError(
            f"workers {config.workers}: {len(children)} are there still, and there is room "
            f"for {slots}, old and new together; try again when some have gone"
        )
    return Wanted(config, same_size, unreloadable(old, loaded))
