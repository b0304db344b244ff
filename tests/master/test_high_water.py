"""The greatest lengths of accept queues: of the last 60 seconds, and since the start."""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any

from forkd.master.high_water import HighWater
from forkd.system.address import Address
from forkd.system.sockets import Listener, listen


def test_the_greatest_length_is_told_for_60_seconds_and_for_ever() -> None:
    water = HighWater()
    for when, length in ((100.0, 3), (110.0, 9), (120.0, 5), (121.0, 5), (150.0, 1)):
        water.saw("a", length, when)
    assert [water.recent("a", now) for now in (150.0, 169.9, 170.0, 180.9, 181.0, 209.9, 210.0)] == [
        9, 9, 5, 5, 1, 1, 0,
    ]  # fmt: skip
    assert water.ever("a") == 9
    assert (water.recent("b", 150.0), water.ever("b")) == (0, 0)


def test_to_ask_changes_nothing() -> None:
    water = HighWater()
    water.saw("a", 7, 100.0)
    assert [water.recent("a", 101.0) for _ in range(3)] == [7, 7, 7]


def test_what_is_kept_is_no_more_than_the_lengths_that_are_told_yet() -> None:
    water = HighWater()
    for n in range(100_000):
        water.saw("a", n % 100, n / 100)
    assert len(water._recent["a"]) <= 100


def test_it_looks_at_all_listeners_but_not_all_the_time() -> None:
    water = HighWater()
    listener = listen(Address("tcp", host="127.0.0.1", port=0), 16)
    clients = [socket.create_connection(listener.sockets[0].getsockname()) for _ in range(3)]
    water.look([listener])
    assert water.ever(listener.name) == 3
    looks: list[Any] = []

    class Counted(Listener):
        def waiting(self) -> tuple[int, int]:
            looks.append(monotonic())
            return 0, 0

    counted = Counted(listener.wanted, "b", 16, [])
    began = monotonic()
    while len(looks) < 5:
        water.look([counted])
    assert monotonic() - began >= 0.04
    for client in clients:
        client.close()
    listener.close()


def test_a_reload_forgets_what_is_gone_and_an_upgrade_nothing() -> None:
    old, new = HighWater(), HighWater()
    old.saw("a", 7, monotonic() - 100)
    old.saw("a", 2, monotonic())
    old.saw("b", 4, monotonic())
    new.saw("a", 3, monotonic())
    new.absorb(old.export())
    assert (new.recent("a", monotonic()), new.ever("a")) == (3, 7)
    assert (new.recent("b", monotonic()), new.ever("b")) == (4, 4)
    kept = listen(Address("tcp", host="127.0.0.1", port=0), 16)
    new.saw(kept.name, 1, monotonic())
    new.keep([kept])
    assert (new.ever("a"), new.ever("b"), new.ever(kept.name)) == (0, 0, 1)
    kept.close()
