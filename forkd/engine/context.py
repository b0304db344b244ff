"""The context of a child, which its model works with, and the protocol that a model implements.

Made by worker/main.py after the fork; used by every model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from forkd.config import Config
from forkd.engine.intake import Intake
from forkd.log.lines import AccessLog, Log
from forkd.session.seam import Host, Interface
from forkd.system.lanes import Lanes
from forkd.system.lease import Lease
from forkd.system.scoreboard import Row


@dataclass(frozen=True)
class ChildContext:
    """One logic context: a child process."""

    config: Config
    io: str  # how readiness is learned: --io, or the model's default
    slot: int
    row: Row  # the main thread's lane of the scoreboard
    lanes: Lanes | None  # of the scoreboard, where the model has a pool
    lease: Lease | None  # None when the kernel chooses which child accepts (exclusive, reuseport)
    intakes: list[Intake]  # where connections come from
    interface: Interface
    host: Host
    log: Log
    access: AccessLog | None
    #: Called with a listener that was shut down (shutdown(2)), so that it can be listened on anew.
    deaf: Callable[[int], None]
    #: Further descriptors to wait on, with what to call when they are readable.
    watched: dict[int, Callable[[], None]]
    #: Housekeeping, to be called at the end of every turn. Returns when it wants another, at the latest.
    after_turn: Callable[[], float]
    #: Called, by a model that forks, with the model that serves in the forked process.
    serves: Callable[[Model], None] = lambda model: None
    #: Asks such a process, by its pidfd, for the stacks of its threads; returns what reads them.
    ask_stacks: Callable[[int], Callable[[], str]] = lambda pidfd: str


class Model(Protocol):
    """A concurrency model, running in a child."""

    #: Nothing is left to do: retired, and every connection is closed.
    done: bool

    def __init__(self, context: ChildContext) -> None: ...

    def turn(self, timeout: float | None) -> None:
        """Wait once, up to `timeout` seconds (None: until something happens); handle what came."""

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call `call` whenever `fd` is readable."""

    def relisten(self, number: int, anew: bool, fd: int) -> None:
        """A listener lets clients in again: the same socket, or another one, `fd`."""

    def retire(self, idle_grace: float, drain_queue: bool) -> None:
        """Stop accepting and end when the work in flight is done. `drain_queue`: no process accepts
        after this one, so first take what already waits in the accept queue."""

    def abandon(self) -> None:
        """Close everything now."""

    def descriptors(self) -> set[int]:
        """Of all that it waits on, and of its clients: what ends in a process that the application forks. But
        for the sockets that handlers have in this thread."""
        ...
