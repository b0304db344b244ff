"""README's section on speed, from the figures that docs/performance.md is made of."""

from __future__ import annotations

import textwrap
from typing import Any

from scripts.benchmark.judge import ratio, spread
from scripts.benchmark.report import number

_HEADING, _NEXT = "## How fast it is\n", "\n## "
_TEXT = """\
With the access log and metrics on, one worker answers {bjoern} times as many small requests per
CPU-second as bjoern and {fastwsgi} times as many as fastwsgi, which are C throughout, and {granian}
times as many as granian; the proactor {nginx} times as many as nginx with a constant answer. Beside
requests of 100 ms on the same 8 threads, the others' 99th percentile is {slow} ms, where gunicorn's is
{slow_gunicorn} and granian's {slow_granian}. An idle connection takes {idle} KB.
[Performance](docs/performance.md) has the tables, the machine and how to repeat them, and
[ASGI's](docs/performance/asgi.md) are beside it; [floors](docs/performance/floors.md) says where goals
were missed, and why."""


def with_figures(readme: str, results: dict[str, Any]) -> str:
    """The page with that section made anew. Raises KeyError where a work was not measured."""
    before, _, after = readme.partition(_HEADING)
    text = _TEXT.format(**_figures(results)).replace("\n", " ")
    section = textwrap.fill(text, 110, break_long_words=False, break_on_hyphens=False)
    return f"{before}{_HEADING}\n{section}\n{_NEXT}{after.partition(_NEXT)[2]}"


def _figures(results: dict[str, Any]) -> dict[str, str]:
    works = {name: work["figures"] for name, work in results["works"].items()}

    def times(work: str, peer: str) -> str:
        found = ratio(works[work], "per_cpu", "forkd", peer)
        assert found is not None, f"{work}: {peer} was not measured"
        return number(found)

    def middle(work: str, server: str, metric: str, unit: float = 1.0) -> str:
        found = spread(works[work][server], metric)
        assert found is not None, f"{work}: {server} was not measured"
        return number(found.middle / unit)

    return {
        **{peer: times("hello", peer) for peer in ("bjoern", "fastwsgi", "granian")},
        "nginx": times("proactor", "nginx return 200"),
        "slow": middle("slow", "forkd", "p99"),
        "slow_gunicorn": middle("slow", "gunicorn gthread", "p99"),
        "slow_granian": middle("slow", "granian", "p99"),
        "idle": middle("idle-connections", "forkd", "bytes", 1000),
    }
