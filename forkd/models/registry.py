"""The models that forkd has, and what each can do. A new model is a new file and one row here.

`forkd models` and docs/models/ are printed from this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkd.errors import ConfigError, Problem
from forkd.models.leader_followers import LeaderFollowers
from forkd.models.unit import Model


@dataclass(frozen=True)
class Row:
    name: str
    make: type[Model]
    ios: tuple[str, ...]  # the default first
    waits: str  # who waits and accepts
    moves: str  # who reads and writes
    logic: str  # who runs the logic
    handoff: str
    good_for: str
    weakness: str
    #: Pairs of (io, interface) that make no sense, with the reason and what to use instead.
    refused: dict[tuple[str, str], str]


MODELS: tuple[Row, ...] = (
    Row(
        name="leader-followers",
        make=LeaderFollowers,
        ios=("epoll", "poll", "select", "blocking"),
        waits="the child that leads, under the shared accept lock",
        moves="that child",
        logic="that child",
        handoff="promote a follower, then work",
        good_for="nearly everything: no hand-off on the way of a request, even spread of clients",
        weakness="a handler that blocks holds the other clients of its child; blocking io serves "
        "one client per child at a time",
        refused={
            ("blocking", "asyncio"): "an asyncio protocol needs an event loop, and blocking io has "
            "none; use --io epoll, or a socketserver handler",
        },
    ),
)

INTERFACES = ("wsgi", "socketserver", "asyncio")


def find(name: str) -> Row | None:
    return next((row for row in MODELS if row.name == name), None)


def get(name: str) -> Row:
    """The model of a configuration that `require` has passed."""
    return next(row for row in MODELS if row.name == name)


def io_of(name: str, io: str | None) -> str:
    """The `--io` in force: the model's first when none was chosen."""
    return get(name).ios[0] if io is None else io


def check(name: str, io: str | None) -> list[tuple[str, str, str]]:
    """What is wrong with the pair, as (key, value, what is allowed)."""
    row = find(name)
    if row is None:
        return [("model", name, "one of " + ", ".join(r.name for r in MODELS))]
    if io is not None and io not in row.ios:
        pairs = "; ".join(f"{r.name}: {', '.join(r.ios)}" for r in MODELS)
        return [("io", io, f"{name} works with {', '.join(row.ios)} (all pairs: {pairs})")]
    return []


def require(name: str, io: str | None) -> None:
    """Raises ConfigError when the pair makes no sense."""
    problems = check(name, io)
    if problems:
        raise ConfigError(
            Problem(key, value, allowed, "model table") for key, value, allowed in problems
        )


def refusal(row: Row, io: str, flavour: str) -> str | None:
    """Why `flavour` ("wsgi", "socketserver", "asyncio") cannot run under the pair, or None."""
    return row.refused.get((io, flavour))
