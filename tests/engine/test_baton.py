"""The stake of a leader among threads (engine/baton.py): the native one and its twin do the same."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from forkd.engine.baton import GIVEN, NOTHING, STILL, PythonStake, Stake, make
from forkd.native import native

SECONDS = 20  # in which whatever is waited for has happened
TICK = 0.001


@pytest.fixture(params=["python", "native"])
def kind(request: pytest.FixtureRequest) -> Any:
    if request.param == "python":
        return PythonStake
    return pytest.importorskip("forkd._native").Stake


@pytest.fixture
def stake(kind: Any) -> Stake:
    return kind(50, 200)


@pytest.fixture
def sleeping(kind: Any) -> Stake:
    """Its watcher sleeps at once when there is nothing; then no tick wakes it."""
    return kind(0, 1)


class Watcher:
    """A thread that watches until it finds something."""

    def __init__(self, stake: Stake, until: Callable[[int], bool] = bool) -> None:
        self._stake, self._until = stake, until
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._until(found := self._stake.watch(TICK)):
            pass
        self._found = found

    def found(self) -> int:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the watcher has found nothing"
        return self._found


def conn() -> Any:
    return type("Conn", (), {})()


def test_the_kinds() -> None:
    assert isinstance(make(False), PythonStake)
    assert native is None or isinstance(make(True), native.Stake)


def test_put_and_drop(stake: Stake) -> None:
    first, second = conn(), conn()
    stake.put(first)
    assert not stake.drop(second)  # it is another leader's
    assert stake.drop(first)
    assert not stake.drop(first)
    assert stake.take() is None


def test_take(stake: Stake) -> None:
    first = conn()
    stake.put(first)
    assert stake.take() is first
    assert not stake.drop(first)
    second = conn()
    stake.put(second)  # by the next leader
    assert not stake.drop(first)
    assert stake.drop(second)


def test_a_leader_that_stands_still(stake: Stake) -> None:
    stake.put(conn())
    assert Watcher(stake).found() == STILL


def test_a_leader_that_moves_on_does_not_stand_still(stake: Stake) -> None:
    watcher = Watcher(stake)
    for _ in range(20_000):
        one = conn()
        stake.put(one)
        if not stake.drop(one):
            break  # this thread had no processor for a tick
    stake.give()
    assert watcher.found() in (GIVEN, STILL)


def test_leadership_that_is_given(stake: Stake) -> None:
    watcher = Watcher(stake)
    stake.give()
    assert watcher.found() == GIVEN


def test_leadership_that_was_given_before_anybody_watched(stake: Stake) -> None:
    stake.give()
    assert Watcher(stake).found() == GIVEN


def test_a_watcher_that_sleeps_wakes_up_for_a_leader(sleeping: Stake) -> None:
    found = threading.Event()
    watcher = Watcher(sleeping, lambda _: found.is_set() or bool(found.set()))
    while not found.is_set():  # it has looked once more since it last slept
        one = conn()
        sleeping.put(one)
        sleeping.drop(one)
    sleeping.put(conn())
    watcher.found()


def test_a_watcher_that_sleeps_wakes_up_for_what_is_given(sleeping: Stake) -> None:
    watcher = Watcher(sleeping)
    sleeping.give()
    assert watcher.found() == GIVEN


def test_the_end(stake: Stake) -> None:
    ended = False
    watcher = Watcher(stake, lambda found: ended and found == NOTHING)
    ended = True
    stake.end()
    assert watcher.found() == NOTHING


def test_a_stake_does_not_keep_a_connection(stake: Stake) -> None:
    import gc
    import weakref

    one = conn()
    gone = weakref.ref(one)
    stake.put(one)
    assert stake.take() is one
    del one
    gc.collect()
    assert gone() is None


def test_leadership_that_is_given_is_had_whenever_that_comes(kind: Any) -> None:
    """Between any two steps of a watch: each of these ends at once, so that it comes at its end, too."""
    stake, had, rounds = kind(1000, 1), threading.Semaphore(0), 2000

    def watch() -> None:
        for _ in range(rounds):
            while stake.watch(0.0) != GIVEN:
                pass
            had.release()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threading.Thread(target=watch, daemon=True).start()
        for number in range(rounds):
            stake.give()
            assert had.acquire(timeout=SECONDS), f"lost after {number}"
    finally:
        sys.setswitchinterval(interval)
