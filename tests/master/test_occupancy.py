"""Busy and idle threads of one worker, by what it has written to the scoreboard."""

from __future__ import annotations

import pytest

from forkd.config import Config
from forkd.master.children import State
from forkd.master.occupancy import occupancy
from forkd.system.cells import IN_FLIGHT, OCCUPIED, REQUEST, WORKING
from forkd.system.scoreboard import Scoreboard

SINGLE = Config()
THREADS = Config(threads=3)
POOL = Config(model="half-sync-half-reactive", threads=3)
FORKS = Config(model="process-per-connection", worker_connections=3)


@pytest.mark.parametrize(
    ("config", "written", "busy", "idle"),
    [
        (SINGLE, {}, 0, 1),
        (SINGLE, {(0, WORKING): 5}, 1, 0),
        (SINGLE, {(0, WORKING): 5, (0, REQUEST): 6}, 1, 0),
        (THREADS, {(0, WORKING): 5}, 0, 3),  # the leader is not in the application
        (THREADS, {(0, WORKING): 5, (2, REQUEST): 6}, 1, 2),
        (THREADS, {(1, REQUEST): 5, (2, OCCUPIED): 6, (3, OCCUPIED): 6}, 3, 0),
        (THREADS, {(lane, OCCUPIED): 6 for lane in range(4)}, 3, 0),  # there is one thread more
        (POOL, {(0, WORKING): 5, (1, OCCUPIED): 6, (1, REQUEST): 7}, 1, 2),
        (FORKS, {(0, WORKING): 5, (1, IN_FLIGHT): 1, (3, IN_FLIGHT): 1}, 2, 1),
        (SINGLE, {(0, WORKING): -1, (0, REQUEST): -1}, 0, 1),  # nonsense
    ],
)
def test_who_is_busy(
    config: Config, written: dict[tuple[int, int], int], busy: int, idle: int
) -> None:
    lanes = Scoreboard(1, threads=3).lanes[1]
    for (lane, cell), value in written.items():
        lanes[lane].cells[cell] = value
    assert occupancy(config, State.READY, True, lanes) == (busy, idle)
    # Whoever gets no connections has no thread to spare, and may be at work still.
    assert occupancy(config, State.READY, False, lanes) == (busy, 0)
    assert occupancy(config, State.RETIRING, True, lanes) == (busy, 0)
    assert occupancy(config, State.STARTING, True, lanes) == (0, 0)
    assert occupancy(config, State.KILLED, True, lanes) == (0, 0)
    assert occupancy(None, State.KILLED, False, lanes) == (0, 0)  # of a reload that has failed
