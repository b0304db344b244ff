"""docs/performance.md, docs/performance/asgi.md and the terminal's table, from the results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scripts.benchmark.judge import Spread, Verdict, spread, verdicts
from scripts.benchmark.work import METRICS, Work

PREFACE = """\

Written by `scripts/bench --write` from measurements; please do not edit.

Each row is the median of interleaved rounds (A B C A B C …), with the least and the greatest in
brackets. A ratio is the median of the rounds' ratios, so that what the machine does for longer than a
round falls on both sides. The server's processes are pinned to one core and the load to another. CPU
time is that of all processes of the server, short-lived ones included. Before it is measured, a server
has to answer with the same status, content type, length and body as all others, and to keep or close
the connection as they do; one that does not, or that could not be installed, is listed with the reason.

forkd is counted as it is meant to be run: with the access log on (to a file) and with metrics on.
The row beside it has the log off. Peers have their own defaults, with no access log.
"""

REPEAT = """
## How to repeat this

    scripts/bench --write            # everything; this page anew
    scripts/bench --work hello echo  # some works, printed
    scripts/bench --quick            # a minute's look
    scripts/profile hello            # where forkd's time goes in one of them

It installs forkd and its peers into `.venv-bench-3.11`, by the version of the Python that runs it
(`python3.13 scripts/bench`), and nginx, wrk and the compiler from Debian. It wants two cores that nothing
else uses. The raw figures are in `build/bench/results-3.11.json`. The works are the rows of
`scripts/benchmark/works.py` and `scripts/benchmark/asgi_works.py`.
"""


def page(title: str, works: tuple[Work, ...], results: dict[str, Any], plots: str) -> str:
    """A whole page, of those works that were measured. `plots`: their directory, from the page's own."""
    measured = [work for work in works if work.name in results["works"]]
    goals = _goals(measured, results["works"])
    parts = [f"# {title}\n{PREFACE}", *_machine(results), "", "## Goals", "", *goals]
    for work in measured:
        parts += ["", *section(work, results["works"][work.name])]
        parts += ["", f"![{work.title}]({plots}{work.name}.svg)"]
    floors = f"Where a goal is not reached, [floors]({plots}floors.md) shows where the time goes.\n"
    return "\n".join(parts) + f"\n\n{floors}{REPEAT}"


def section(work: Work, result: dict[str, Any]) -> Iterator[str]:
    """One work: its table, who is missing, its goals."""
    yield f"## {work.title}"
    yield ""
    yield f"`{work.name}`: {result['rounds']} rounds of {result['seconds']:g} s, {result['when']}."
    yield ""
    yield "| | " + " | ".join(METRICS[name][0] for name in work.metrics) + " | errors |"
    yield "|---|" + "--:|" * (len(work.metrics) + 1)
    for name, rounds in result["figures"].items():
        cells = [cell(spread(rounds, metric)) for metric in work.metrics]
        errors = sum(figures.get("errors", 0) for figures in rounds)
        yield f"| {name} | " + " | ".join([*cells, f"{errors:,.0f}"]) + " |"
    for name, reason in result["missing"].items():
        yield f"| {name} | not measured: {reason.replace('|', '¦')} |" + " |" * len(work.metrics)
    yield ""
    for verdict in verdicts(work, result):
        yield f"- {verdict.text}: {outcome(verdict)}"


def cell(found: Spread | None) -> str:
    if found is None:
        return "–"
    if found.low == found.high:
        return number(found.middle)
    return f"{number(found.middle)} ({number(found.low)}–{number(found.high)})"


def number(value: float) -> str:
    """Three digits that count, or all of a large number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def outcome(verdict: Verdict) -> str:
    if verdict.found is None:
        return "not measured"
    return f"{number(verdict.found)}, {'reached' if verdict.reached else '**not reached**'}"


def _machine(results: dict[str, Any]) -> Iterator[str]:
    yield "## Machine and versions"
    yield ""
    for name, value in results["machine"].items():
        yield f"- {name}: {value}"
    for name, peer in results["peers"].items():
        yield f"- {name}: {peer['version'] or 'not installed: ' + peer['missing']}"


def _goals(works: list[Work], results: dict[str, Any]) -> Iterator[str]:
    yield "| work | goal | found |"
    yield "|---|---|---|"
    for work in works:
        for verdict in verdicts(work, results[work.name]):
            yield f"| {work.title} | {verdict.text} | {outcome(verdict)} |"
