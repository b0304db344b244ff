"""`forkd scale N`: another number of workers, now."""

from __future__ import annotations

import argparse
import re
from typing import Any

from forkd.command.arguments import add_where, ask_daemon
from forkd.errors import UsageError
from forkd.system.output import complain, say


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "amount",
        metavar="N|+N|-N",
        help="the number of workers, or a change of it: up to --max-workers, or within MIN:MAX",
    )
    add_where(parser)


def run(args: argparse.Namespace) -> int:
    amount: str = args.amount
    if not re.fullmatch(r"[+-]?[0-9]+", amount):
        raise UsageError(f"scale {amount}: write N, +N or -N")
    how: dict[str, Any] = {"by" if amount[0] in "+-" else "to": int(amount)}
    reply = ask_daemon(args, "scale", **how)
    say(f"{reply['workers']} workers", done="the number is changed")
    if reply.get("why"):
        complain(f"forkd: {reply['why']}")
    return 0
