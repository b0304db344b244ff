"""The event loop of a worker, and how it waits together with the model: as one, in the model's handle set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from forkd.engine.context import Model

Turn = Callable[[float | None], None]


class Coupling(Protocol):
    """An event loop, and how it waits together with the model."""

    name: str  # as in --loop
    loop: asyncio.AbstractEventLoop

    def attach(self, model: Model, turn: Turn) -> None:
        """From now on the loop waits by `turn`, up to so many seconds (None: until something happens)."""

    def run_forever(self) -> None:
        """Until the loop is stopped, or `turn` has raised, which this raises then."""

    def close(self) -> None:
        """Close the loop."""

    def halt(self) -> set[int]:
        """In a process that the application has forked: it leaves before whatever is next in the loop.
        Returns the descriptors that it shares with its parent's loop."""
        ...
