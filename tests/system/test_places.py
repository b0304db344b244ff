"""Whose place a newcomer gets, as a decision about times and phases."""

from __future__ import annotations

import socket

import pytest

from forkd.system.places import Client, Phase, gives_way

MOST = 16


def clients(*present: tuple[Phase, float]) -> list[Client]:
    unused = socket.socket()
    unused.close()
    return [Client(unused, since, since + 5.0, phase) for phase, since in present]


A, W, R = Phase.ASKING, Phase.WAITING, Phase.READING


@pytest.mark.parametrize(
    ("present", "since"),
    [
        ([], None),
        ([(A, 1.0)] * 11, None),
        # Four places are kept for those that come while others are incomplete.
        ([(A, 3.0), (A, 2.0), (A, 4.0)] * 4, 2.0),
        ([(A, 3.0)] * 11 + [(R, 1.0)] * 4, None),
        ([(A, 3.0)] * 11 + [(R, 1.0)] * 5, 3.0),
        # All are taken: who is incomplete for the longest, then who has not read for the longest.
        ([(R, 1.0)] * 15, None),
        ([(R, 1.0)] * 15 + [(A, 9.0)], 9.0),
        ([(R, 5.0), (R, 4.0)] * 8, 4.0),
        # Whose answer is not due yet keeps its place.
        ([(W, 1.0)] * 12 + [(R, 7.0), (R, 6.0), (R, 7.0), (R, 7.0)], 6.0),
        ([(W, 1.0)] * 12 + [(A, 8.0), (R, 2.0), (R, 2.0), (R, 2.0)], 8.0),
    ],
)
def test_who_gives_way(present: list[tuple[Phase, float]], since: float | None) -> None:
    found = gives_way(clients(*present), MOST)
    assert (found.since if found else None) == since
    assert found is None or found.phase is not W
