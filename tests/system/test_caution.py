"""When workers are cautious: decisions over shared memory, in no process."""

from __future__ import annotations

import os

from forkd.system.caution import Caution


def test_one_that_took_a_while_is_no_sign() -> None:
    caution = Caution()
    caution.slow(100.0, 0.05)
    assert not caution.advised(100.0)


def test_two_shortly_one_after_the_other_are_and_it_passes() -> None:
    caution = Caution()
    caution.slow(100.0, 0.05)
    caution.slow(100.9, 0.05)
    assert caution.advised(100.9)
    assert caution.advised(102.3)
    assert not caution.advised(102.5)


def test_two_that_are_far_apart_are_not() -> None:
    caution = Caution()
    caution.slow(100.0, 0.05)
    caution.slow(101.1, 0.05)
    assert not caution.advised(101.1)


def test_one_that_took_long_is_enough_and_for_longer() -> None:
    caution = Caution()
    caution.slow(100.0, 3.0)
    assert caution.advised(130.0)
    assert not caution.advised(131.5)
    caution.slow(200.0, 3600.0)
    assert caution.advised(259.0)
    assert not caution.advised(261.0)


def test_what_a_worker_gone_mad_has_written_is_taken_for_nothing() -> None:
    caution = Caution()
    for written in (float("inf"), float("nan"), 1e300, -1.0):
        caution._ends[0] = written
        assert not caution.advised(100.0)


def test_all_workers_know() -> None:
    caution = Caution()
    pid = os.fork()
    if not pid:
        caution.slow(100.0, 0.5)
        os._exit(0)
    os.waitpid(pid, 0)
    assert caution.advised(100.0)
