"""`forkd models`: the concurrency models as a table for a terminal."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from forkd.models import registry
from forkd.models.row import MULTIPLEXED, ModelRow
from forkd.system.output import say

_COLUMNS = 79


def add_flags(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(args: argparse.Namespace) -> int:
    say(table(registry.MODELS))
    return 0


def table(rows: Iterable[ModelRow]) -> str:
    blocks = []
    for row in rows:
        fields = {
            "waits and accepts": row.waits,
            "reads and writes": row.moves,
            "runs the logic": row.logic,
            "hand-off": row.handoff,
            "io": ", ".join(row.ios),
            "interfaces": ", ".join(_interfaces(row)),
            "good for": row.good_for,
            "weakness": row.weakness,
        }
        lines = [row.name, *(_described(name, text) for name, text in fields.items())]
        lines += [_described("refused", text) for text in _refused(row)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _interfaces(row: ModelRow) -> Iterator[str]:
    """Those that it serves in one thread, each with the `--io` where not with all."""
    shown = {"wsgi": "wsgi", "asgi": "asgi", "asyncio": "asyncio.Protocol", "socketserver": "socketserver"}
    for name, words in shown.items():
        ios = [io for io in row.ios if registry.refusal(row, io, name, 1) is None]
        if ios:
            yield words if len(ios) == len(row.ios) else f"{words} (--io {_or(ios)})"


def _refused(row: ModelRow) -> Iterator[str]:
    """The pairs that make no sense, those with one reason together."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (io, interface), why in row.refused.items():
        if interface != MULTIPLEXED:  # no interface that can be chosen has them
            by_reason.setdefault((interface, why), []).append(io)
    for (interface, why), ios in by_reason.items():
        yield f"{interface}{'' if set(ios) == set(row.ios) else f' with --io {_or(ios)}'}: {why}"


def _or(words: Sequence[str]) -> str:
    return " or ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])


def _described(name: str, text: str) -> str:
    """Not wider than a terminal is at least; only between words, so that options stay whole."""
    return textwrap.fill(
        text, _COLUMNS, initial_indent=f"  {name:18}", subsequent_indent=" " * 20,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip
