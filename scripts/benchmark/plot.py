"""Bar plots as SVG: medians, with the least and the greatest of the rounds as a line."""

from __future__ import annotations

from html import escape

from scripts.benchmark.judge import Spread

ROW, LEFT, WIDTH, RIGHT = 26, 210, 460, 130


def bars(title: str, unit: str, found: dict[str, Spread]) -> str:
    """One bar for each name; those of forkd in a colour of their own."""
    most = max((one.high for one in found.values()), default=0.0) or 1.0
    height = 44 + ROW * len(found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{LEFT + WIDTH + RIGHT}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="20" font-size="14">{escape(title)}: {escape(unit)}</text>',
    ]
    for index, (name, one) in enumerate(found.items()):
        y = 34 + ROW * index
        middle, low, high = (WIDTH * value / most for value in (one.middle, one.low, one.high))
        colour = "#3b6ea5" if name.startswith("forkd") else "#b5bcc6"
        value = f"{one.middle:,.0f}" if one.middle >= 100 else f"{one.middle:.3g}"
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{LEFT}" y="{y}" width="{middle:.1f}" height="18" fill="{colour}"/>'
            f'<line x1="{LEFT + low:.1f}" x2="{LEFT + high:.1f}" y1="{y + 9}" y2="{y + 9}" '
            f'stroke="#222"/><text x="{LEFT + high + 6:.1f}" y="{y + 14}">{value}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
