"""The baton of a leader among threads (engine/baton.py): the native one and its twin do the same."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from forkd.engine.baton import GIVEN, NOTHING, STILL, Baton, PythonBaton, make
from forkd.native import native

SECONDS = 20  # in which whatever is waited for has happened
TICK = 0.001


@pytest.fixture(params=["python", "native"])
def kind(request: pytest.FixtureRequest) -> Any:
    if request.param == "python":
        return PythonBaton
    return pytest.importorskip("forkd._native").Baton


@pytest.fixture
def baton(kind: Any) -> Baton:
    return kind(calm=50, looks=200)


@pytest.fixture
def sleeping(kind: Any) -> Baton:
    """Its watcher sleeps at once when there is nothing; then no tick wakes it."""
    return kind(calm=0, looks=1)


class Watcher:
    """A thread that watches until it finds something."""

    def __init__(self, baton: Baton, until: Callable[[int], bool] = bool) -> None:
        self._baton, self._until = baton, until
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._until(found := self._baton.watch(TICK)):
            pass
        self._found = found

    def found(self) -> int:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the watcher has found nothing"
        return self._found


def conn() -> Any:
    return type("Conn", (), {})()


def test_the_kinds() -> None:
    assert isinstance(make(False), PythonBaton)
    assert native is None or isinstance(make(True), native.Baton)


def test_hold_and_release(baton: Baton) -> None:
    first, second = conn(), conn()
    baton.hold(first)
    assert not baton.release(second)  # it is another leader's
    assert baton.release(first)
    assert not baton.release(first)
    assert baton.seize() is None


def test_seize(baton: Baton) -> None:
    first = conn()
    baton.hold(first)
    assert Watcher(baton).found() == STILL
    assert baton.seize() is first
    assert not baton.release(first)
    second = conn()
    baton.hold(second)  # by the next leader
    assert not baton.release(first)
    assert baton.release(second)


def test_a_leader_that_has_moved_on_since_is_not_overtaken(baton: Baton) -> None:
    """The watcher had to wait for the interpreter's lock."""
    first, second = conn(), conn()
    baton.hold(first)
    assert Watcher(baton).found() == STILL
    assert baton.release(first)
    assert baton.seize() is None
    baton.hold(second)
    assert baton.seize() is None
    assert Watcher(baton).found() == STILL
    assert baton.seize() is second


def test_a_leader_that_stands_still(baton: Baton) -> None:
    baton.hold(conn())
    assert Watcher(baton).found() == STILL


def test_a_leader_that_moves_on_does_not_stand_still(baton: Baton) -> None:
    watcher = Watcher(baton)
    for _ in range(20_000):
        one = conn()
        baton.hold(one)
        if not baton.release(one):
            break  # this thread had no processor for a tick
    baton.pass_on()
    assert watcher.found() in (GIVEN, STILL)


def test_leadership_that_is_given(baton: Baton) -> None:
    watcher = Watcher(baton)
    baton.pass_on()
    assert watcher.found() == GIVEN


def test_leadership_that_was_given_before_anybody_watched(baton: Baton) -> None:
    baton.pass_on()
    assert Watcher(baton).found() == GIVEN


def test_a_watcher_that_sleeps_wakes_up_for_a_leader(sleeping: Baton) -> None:
    found = threading.Event()
    watcher = Watcher(sleeping, lambda _: found.is_set() or bool(found.set()))
    while not found.is_set():  # it has looked once more since it last slept
        one = conn()
        sleeping.hold(one)
        sleeping.release(one)
    sleeping.hold(conn())
    watcher.found()


def test_a_watcher_that_sleeps_wakes_up_for_what_is_given(sleeping: Baton) -> None:
    watcher = Watcher(sleeping)
    sleeping.pass_on()
    assert watcher.found() == GIVEN


def test_the_end(baton: Baton) -> None:
    ended = False
    watcher = Watcher(baton, lambda found: ended and found == NOTHING)
    ended = True
    baton.end()
    assert watcher.found() == NOTHING


def test_a_baton_does_not_keep_a_connection(baton: Baton) -> None:
    import gc
    import weakref

    one = conn()
    gone = weakref.ref(one)
    baton.hold(one)
    assert Watcher(baton).found() == STILL
    assert baton.seize() is one
    del one
    gc.collect()
    assert gone() is None


def test_leadership_that_is_given_is_had_whenever_that_comes(kind: Any) -> None:
    """Between any two steps of a watch: each of these ends at once, so that it comes at its end, too."""
    baton, had, rounds = kind(calm=1000, looks=1), threading.Semaphore(0), 2000

    def watch() -> None:
        for _ in range(rounds):
            while baton.watch(0.0) != GIVEN:
                pass
            had.release()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threading.Thread(target=watch, daemon=True).start()
        for number in range(rounds):
            baton.pass_on()
            assert had.acquire(timeout=SECONDS), f"lost after {number}"
    finally:
        sys.setswitchinterval(interval)
