"""Status and models as tables for a terminal. In the command."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from forkd.address import page_at
from forkd.models.registry import Row, native_or_not

_COLUMNS = 79


def render(status: dict[str, Any]) -> str:
    """The answer of `forkd status`."""
    master = status["master"]
    lines = [
        f"forkd {master['version']} [{master['name']}] {master['state']}"
        + (f": {master['why']}" if master["why"] else ""),
        f"master {master['pid']}, up {_span(master['uptime'])}, generation {master['generation']}, "
        f"model {master['model']}, io {master['io']}, accept {master['accept']}, "
        + native_or_not(master.get("native_why", "")),
        f"app {master['app'] or '(built-in)'}, {master['workers_wanted']} workers wanted"
        # A master of an older version, which is still to be upgraded, does not say it.
        + (f", at most {master['workers_limit']}" if "workers_limit" in master else ""),
    ]
    if master.get("config"):
        lines.append(f"configuration {master['config']}")
    if status["admin"]:
        lines.append(f"metrics {page_at(status['admin'], '/metrics')}")
    if status.get("health"):  # an older master has none
        lines.append(f"health {page_at(status['health'], '/readyz')}")
    for listener in status["listeners"]:
        lines.append(
            f"listening on {listener['address']}, {listener['accept_queue']} of "
            f"{listener['backlog']} waiting"
            if not listener["broken"]
            else f"NOT listening on {listener['broken']}"
        )
    if status["logger"]["why"]:
        lines.append(f"logger {status['logger']['pid']}: {status['logger']['why']}")
    lines.append("")
    lines += grid(
        ("SLOT", "PID", "STATE", "ROLE", "REQUESTS", "CONNS", "RSS", "BUSY", "REQUEST"),
        (
            (
                w["slot"], w["pid"], w["state"], w["role"], w["requests"], w["connections"],
                f"{w['rss_bytes'] >> 20}M", _span(w["busy_for"]) if w["busy_for"] else "-",
                (w["request"] or "-").encode("unicode_escape").decode(),
            )
            for w in status["workers"]
        ),
    )  # fmt: skip
    return "\n".join(lines)


def models(rows: Iterable[Row]) -> str:
    """The answer of `forkd models`."""
    blocks = []
    for row in rows:
        fields = {
            "waits and accepts": row.waits,
            "reads and writes": row.moves,
            "runs the logic": row.logic,
            "hand-off": row.handoff,
            "io": ", ".join(row.ios),
            "interfaces": "wsgi, stream (asyncio.Protocol, socketserver)",
            "good for": row.good_for,
            "weakness": row.weakness,
        }
        lines = [row.name, *(_field(name, text) for name, text in fields.items())]
        lines += [_field("refused", text) for text in _refused(row)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _refused(row: Row) -> Iterator[str]:
    """The pairs that make no sense, those with one reason together."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (io, flavour), why in row.refused.items():
        by_reason.setdefault((flavour, why), []).append(io)
    for (flavour, why), ios in by_reason.items():
        yield f"{flavour}{'' if set(ios) == set(row.ios) else f' with --io {_or(ios)}'}: {why}"


def _or(words: Sequence[str]) -> str:
    return " or ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])


def _field(name: str, text: str) -> str:
    """Not wider than a terminal is at least; only between words, so that options stay whole."""
    return textwrap.fill(
        text, _COLUMNS, initial_indent=f"  {name:18}", subsequent_indent=" " * 20,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def grid(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    cells = [list(header), *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return [
        "  ".join(value.ljust(w) for value, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
