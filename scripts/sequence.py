"""Sequence diagrams: a small text language to SVG. Used by scripts/reference for docs/models/.

The first line names the participants, separated by `|`, with the client first. Every other line is
a step: `from -> to: what`. A step from a participant to itself is work.
"""

from __future__ import annotations

from html import escape

COLUMN, ROW, TOP, MARGIN = 210, 34, 64, 110


def svg(source: str, title: str) -> str:
    """The drawing. Raises ValueError for a line that is no step."""
    header, *lines = [line for line in source.splitlines() if line.strip()]
    names = [name.strip() for name in header.split("|")]
    x = {name: MARGIN + COLUMN * index for index, name in enumerate(names)}
    width = MARGIN * 2 + COLUMN * (len(names) - 1)
    height = TOP + ROW * len(lines) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for name in names:
        parts.append(
            f'<line x1="{x[name]}" y1="44" x2="{x[name]}" y2="{height - 10}" stroke="#999" '
            'stroke-dasharray="3 4"/>'
            f'<rect x="{x[name] - 62}" y="14" width="124" height="28" rx="5" fill="#e8eef7" '
            f'stroke="#446"/><text x="{x[name]}" y="33" text-anchor="middle">{escape(name)}</text>'
        )
    for number, line in enumerate(lines, start=1):
        parts.append(_step(number, line, x))
    return "\n".join([*parts, "</svg>", ""])


def _step(number: int, line: str, x: dict[str, int]) -> str:
    ends, colon, text = line.partition(": ")
    start, arrow, end = (part.strip() for part in ends.partition("->"))
    if not colon or not arrow or start not in x or end not in x:
        raise ValueError(f"no step: {line!r}")
    y = TOP + ROW * number - 12
    label = escape(f"{number}. {text}")
    if start == end:
        last = x[start] == max(x.values())  # there is no room on its right
        at = f'x="{x[start] - 10}" text-anchor="end"' if last else f'x="{x[start] + 10}"'
        return (
            f'<rect x="{x[start] - 5}" y="{y - 12}" width="10" height="20" fill="#cfe3cf" '
            f'stroke="#464"/><text {at} y="{y + 3}">{label}</text>'
        )
    left, right = sorted((x[start], x[end]))
    return (
        f'<line x1="{x[start]}" y1="{y}" x2="{x[end]}" y2="{y}" stroke="#000" '
        f'marker-end="url(#a)"/><text x="{(left + right) // 2}" y="{y - 4}" '
        f'text-anchor="middle">{label}</text>'
    )
