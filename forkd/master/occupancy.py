"""How many threads of a worker are busy, and how many could take work: the saturation of the service. In the
master.

A thread here is what a request needs to be served: a thread of the pool under the models that have one, a
process of its own under process-per-connection, else the worker itself, which is busy from its wake-up
until it waits again.
"""

from __future__ import annotations

from typing import NamedTuple

from forkd.config import Config
from forkd.master.children import State
from forkd.models import registry
from forkd.system.cells import IN_FLIGHT, OCCUPIED, REQUEST, WORKING
from forkd.system.scoreboard import Row


class Occupancy(NamedTuple):
    busy: int
    idle: int


def occupancy(config: Config | None, state: State, serves: bool, lanes: list[Row]) -> Occupancy:
    """Of one worker, by its lanes of the scoreboard, the main thread's first. `config`: its generation's;
    None when that was withdrawn. `serves`: its generation gets connections; a worker that does not, or that
    retires, has no thread to spare."""
    if config is None or state not in (State.READY, State.RETIRING):
        return Occupancy(0, 0)
    threads = _threads(config)
    busy = min(threads, _busy(config, lanes))
    return Occupancy(busy, threads - busy if state is State.READY and serves else 0)


def _threads(config: Config) -> int:
    return registry.lanes(config) if registry.get(config.model).forks else config.threads


def _busy(config: Config, lanes: list[Row]) -> int:
    model = registry.get(config.model)
    if model.forks:
        return sum(row.cells[IN_FLIGHT] > 0 for row in lanes[1:])
    inside = sum(row.cells[REQUEST] > 0 or row.cells[OCCUPIED] > 0 for row in lanes)
    if model.pooled or config.threads > 1:
        return inside
    return max(inside, int(lanes[0].cells[WORKING] > 0))
