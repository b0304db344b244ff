"""README's section on speed is made of the results."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.benchmark.readme import with_figures

PAGE = "# forkd\n\n## How fast it is\n\nVery.\n\n## Limits\n\nNone.\n"


def works() -> dict[str, Any]:
    rate = lambda *values: [{"per_cpu": value} for value in values]  # noqa: E731
    late = lambda value: [{"p99": value}]  # noqa: E731
    return {
        "hello": {
            "forkd": rate(120, 100), "bjoern": rate(100, 100), "fastwsgi": rate(200, 200),
            "granian": rate(60, 50),
        },
        "proactor": {"forkd": rate(98), "nginx return 200": rate(100)},
        "slow": {"forkd": late(0.4), "gunicorn gthread": late(25.0), "granian": late(69.0)},
        "idle-connections": {"forkd": [{"bytes": 1391.0}]},
    }


def test_the_section_is_made_anew_and_nothing_else() -> None:
    results = {"works": {name: {"figures": figures} for name, figures in works().items()}}
    page = with_figures(PAGE, results)
    assert page.startswith("# forkd\n\n## How fast it is\n\nWith the access log")
    assert page.endswith("\n\n## Limits\n\nNone.\n")
    text = page.replace("\n", " ")
    for part in (
        "answers 1.1 times as many", "and 0.55 times as many as fastwsgi", "2 times as many as granian",
        "the proactor 0.98 times", "is 0.4 ms, where gunicorn's is 25 and granian's 69.", "takes 1.39 KB",
    ):
        assert part in text
    assert with_figures(page, results) == page


def test_what_was_not_measured_is_no_figure() -> None:
    some = works()
    del some["slow"]
    with pytest.raises(KeyError):
        with_figures(PAGE, {"works": {name: {"figures": figures} for name, figures in some.items()}})
