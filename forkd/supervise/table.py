"""Status and models as tables for a terminal. In the command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from forkd.models.registry import Row


def render(status: dict[str, Any]) -> str:
    """The answer of `forkd status`."""
    master = status["master"]
    lines = [
        f"forkd {master['version']} [{master['name']}] {master['state']}"
        + (f": {master['why']}" if master["why"] else ""),
        f"master {master['pid']}, up {_span(master['uptime'])}, generation {master['generation']}, "
        f"model {master['model']}, io {master['io']}, accept {master['accept']}",
        f"app {master['app'] or '(built-in)'}, {master['workers_wanted']} workers wanted",
    ]
    if status["admin"]:
        lines.append(f"metrics http://{status['admin']}/metrics")
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
        lines = [row.name, *(f"  {name:18}{text}" for name, text in fields.items())]
        lines += [
            f"  {'refused':18}{flavour} with --io {io}: {why}"
            for (io, flavour), why in row.refused.items()
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


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
