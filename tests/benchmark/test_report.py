"""The pure parts of scripts/bench: medians, goals, the page, the plots."""

import xml.etree.ElementTree as ElementTree

import pytest

from scripts.benchmark import plot, report
from scripts.benchmark.judge import Spread, spread, verdicts
from scripts.benchmark.load import read_wrk
from scripts.benchmark.work import METRICS
from scripts.benchmark.works import WORKS

WORK = {work.name: work for work in WORKS}

WRK = """Running 2s test @ http://127.0.0.1:8000/
  1 threads and 32 connections
  Latency Distribution
     50%  531.00us
     75%    1.02ms
     90%    2.00ms
     99%    1.20s
  84012 requests in 2.00s, 9.61MB read
  Socket errors: connect 0, read 3, write 1, timeout 0
  Non-2xx or 3xx responses: 7
Requests/sec:  42006.11
Transfer/sec:      4.81MB
"""


def result(metric, **figures):
    return {
        "when": "2026-01-01 00:00",
        "rounds": 3,
        "seconds": 5,
        "figures": {
            name.replace("_", " "): [{metric: value, "errors": 0} for value in values]
            for name, values in figures.items()
        },
        "missing": {"granian": "not installed: no | network"},
    }


def test_a_spread_is_median_least_and_greatest():
    rounds = [{"p50": 9.0}, {"p50": 1.0}, {"p50": 2.0}, {"errors": 3}]
    assert spread(rounds, "p50") == Spread(2.0, 1.0, 9.0)
    assert spread(rounds, "p99") is None


def test_wrk_is_read_with_its_units_and_all_its_errors():
    found = read_wrk(WRK)
    assert found["requests"] == 84012
    assert found["per_second"] == 42006.11
    assert found["p50"] == pytest.approx(0.531)
    assert found["p99"] == pytest.approx(1200)
    assert found["errors"] == 3 + 1 + 7


def test_a_report_of_wrk_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="unable to connect"):
        read_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_a_goal_is_the_median_of_the_rounds_ratios_to_each_peer():
    found = verdicts(
        WORK["hello"],
        result("per_cpu", forkd=[120, 10, 999], bjoern=[100, 10, 500], fastwsgi=[101] * 3),
    )
    assert [(v.found, v.reached) for v in found] == [
        (1.2, True),
        (pytest.approx(1.188, abs=0.001), False),
    ]


def test_where_less_is_better_the_ratio_has_to_stay_below():
    found = verdicts(
        WORK["slow"], result("p99", forkd=[4.0], gunicorn_gthread=[8.0], granian=[7.0])
    )
    assert [v.reached for v in found] == [True, False]


def test_against_the_best_only_the_best_that_was_measured_counts():
    (found,) = verdicts(WORK["64k"], result("per_cpu", forkd=[90], bjoern=[80], fastwsgi=[100]))
    assert found.text == "forkd ÷ fastwsgi ≥ 1"
    assert (found.found, found.reached) == (0.9, False)


def test_a_goal_without_a_peer_is_absolute():
    (found,) = verdicts(WORK["idle"], result("wakeups", forkd=[4, 5, 6]))
    assert (found.found, found.reached) == (5, True)


@pytest.mark.parametrize("name", ["hello", "64k", "idle"])
def test_what_is_missing_is_no_goal_reached(name):
    found = verdicts(WORK[name], result(WORK[name].metrics[0], bjoern=[1.0]))
    assert found and not any(v.reached for v in found)
    assert {report.outcome(v) for v in found} == {"not measured"}


def test_every_goal_names_contenders_of_its_work():
    for work in WORKS:
        names = {contender.name for contender in work.contenders}
        assert len(names) == len(work.contenders), work.name
        assert set(work.metrics) <= METRICS.keys(), work.name
        for goal in work.goals:
            assert {goal.of, *goal.against} <= names, work.name


def test_the_page_has_the_table_the_goals_and_who_is_missing():
    works = {"hello": result("per_cpu", forkd=[120000, 110000, 130000], bjoern=[100000] * 3)}
    peers = {
        "bjoern": {"version": "3", "missing": ""},
        "granian": {"version": "", "missing": "no wheel"},
    }
    results = {"machine": {"kernel": "6.1"}, "peers": peers, "works": works}
    page = report.page("Performance", WORKS, results, "performance/")
    assert "| forkd | 120,000 (110,000–130,000) | – | – | – | 0 |" in page
    assert "| granian | not measured: not installed: no ¦ network | | | | |" in page
    assert "- granian: not installed: no wheel" in page
    assert "| WSGI hello, 2 header fields | forkd ÷ bjoern ≥ 1.2 | 1.2, reached |" in page
    assert "| WSGI hello, 2 header fields | forkd ÷ fastwsgi ≥ 1.2 | not measured |" in page
    assert "performance/hello.svg" in page and "performance/echo.svg" not in page


def test_a_plot_is_well_formed_and_its_bars_are_to_scale():
    drawing = plot.bars(
        "<a & b>", "µs", {"forkd": Spread(50, 40, 60), "C & co": Spread(100, 90, 200)}
    )
    bars = [
        float(element.get("width"))
        for element in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}rect")
    ][1:]
    assert bars == [plot.WIDTH * 50 / 200, plot.WIDTH * 100 / 200]
