"""What `forkd bench` prints and writes: a table, and a page with plots. In the command."""

from __future__ import annotations

import platform
import time
from html import escape

from forkd import __version__
from forkd.command.bench.run import Load, Result
from forkd.system.output import grid

_HEADER = ("MODEL", "WORKERS", "THREADS", "REQ/S", "REQ/CPU-S", "P50 MS", "P99 MS", "ERRORS")


def rows(results: list[Result]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for result in results:
        combination = result.combination
        model = f"{combination.model}, {combination.loop}" if combination.loop else combination.model
        head = (model, str(combination.workers), str(combination.threads))
        if result.refused:
            found.append((*head, "refused"))
            continue
        rate, per_cpu, p50, p99 = result.figures()
        found.append(
            (
                *head,
                f"{rate:,.0f}",
                f"{per_cpu:,.0f}",
                f"{p50:.2f}",
                f"{p99:.2f}",
                str(result.errors),
            )
        )
    return found


def table(results: list[Result]) -> str:
    """The figures as a table for the terminal, with the reasons for what is not in it below."""
    padded = [row + ("",) * (len(_HEADER) - len(row)) for row in rows(results)]
    return "\n".join([*grid(_HEADER, padded), *_reasons(results)])


def _reasons(results: list[Result]) -> list[str]:
    return [f"{result.combination}: refused: {result.refused}" for result in results if result.refused]


def page(results: list[Result], app: str | None, load: Load, rounds: int) -> str:
    """bench.html: the table and two bar plots, in one file."""
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows(results)
    )
    head = "".join(f"<th>{name.lower()}</th>" for name in _HEADER)
    measured = [result for result in results if not result.refused]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>forkd bench</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:60rem}}
td,th{{padding:.2em .8em;text-align:right;border-bottom:1px solid #8884}}
td:first-child,th:first-child{{text-align:left}}</style>
<h1>forkd bench: {escape(app or "the built-in welcome app")}</h1>
<p>forkd {__version__}, Python {platform.python_version()}, {escape(platform.platform())},
{time.strftime("%Y-%m-%d %H:%M")}. wrk, one thread, {load.connections} connections,
{load.seconds:g} s, path {escape(load.path)}; medians of {rounds} interleaved rounds, with the
lowest and the highest as a line.</p>
<table><tr>{head}</tr>{cells}</table>
<p>{"<br>".join(map(escape, _reasons(results)))}</p>
<h2>Requests per second</h2>
{_bars(measured, [result.per_second for result in measured])}
<h2>Requests per CPU-second of the daemon</h2>
{_bars(measured, [result.per_cpu_second for result in measured])}
</html>
"""


def _bars(results: list[Result], values: list[list[float]]) -> str:
    most = max((max(v) for v in values), default=0.0) or 1.0
    height, left, width = 26, 290, 460
    parts = [f'<svg viewBox="0 0 860 {height * len(values) + 8}" font-size="12">']
    for index, (result, found) in enumerate(zip(results, values, strict=True)):
        y = index * height
        middle = sorted(found)[len(found) // 2]
        low, high = (left + width * v / most for v in (min(found), max(found)))
        parts.append(
            f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(str(result.combination))}'
            f'</text><rect x="{left}" y="{y + 4}" width="{width * middle / most:.1f}" height="18" '
            f'fill="#7a9cc6"/><line x1="{low:.1f}" x2="{high:.1f}" y1="{y + 13}" y2="{y + 13}" '
            f'stroke="#223"/><text x="{high + 6:.1f}" y="{y + 17}">{middle:,.0f}</text>'
        )
    return "\n".join([*parts, "</svg>"])
