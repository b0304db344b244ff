"""The judgement of scripts/bench --against: what is noise, and what is slower."""

import pytest

from scripts.benchmark.against import LEAST_RATIOS, Comparison, interval, line

STEADY = (1.0,) * 21


def test_the_interval_of_the_median_of_21_rounds_is_from_the_6th_to_the_16th():
    assert interval(tuple(float(n) for n in range(1, 22))) == (6.0, 16.0)


@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_of_a_few_rounds_it_is_all_of_them(rounds):
    ratios = tuple(float(n) for n in range(rounds))
    assert interval(ratios) == (0.0, rounds - 1.0)


@pytest.mark.parametrize(
    ("work", "ours", "passed"),
    [("hello", 0.981, True), ("hello", 0.979, False), ("close", 0.971, True), ("close", 0.969, False)],
)
def test_without_noise_the_bound_is_the_works_own(work, ours, passed):
    found = Comparison(work, STEADY, (ours,) * 21)
    assert found.bound == LEAST_RATIOS[work]
    assert found.passed is passed


def test_half_of_the_interval_of_equals_is_allowed_besides():
    noisy = tuple(1 + n / 100 for n in range(-10, 11))  # 6th to 16th: 0.95 to 1.05
    assert Comparison("hello", noisy, (0.94,) * 21).passed
    assert not Comparison("hello", noisy, (0.92,) * 21).passed


def test_one_bad_round_is_not_a_slower_server():
    assert Comparison("hello", STEADY, (1.0,) * 20 + (0.1,)).passed


def test_a_line_says_what_was_compared_and_what_came_of_it():
    text = line(Comparison("hello", STEADY, (0.9,) * 21))
    assert "this 0.900" in text
    assert "at least 0.980: FAILED" in text
