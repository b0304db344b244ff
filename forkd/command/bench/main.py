"""`forkd bench [APP]`: its arguments, and its progress on the terminal."""

from __future__ import annotations

import argparse
import re
import sys
from itertools import product

from forkd.command.bench import report
from forkd.command.bench.run import Combination, Load, interface_of, measure, wrk_or_die
from forkd.errors import ForkdError, UsageError
from forkd.models import registry
from forkd.system.output import say


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("app", nargs="?", metavar="APP", help="the application; none: the built-in one")
    add("--models", metavar="A,B", help="models to measure [default: all that can serve it]")
    add("--workers", default="1", metavar="N,M", help="numbers of workers [default: 1]")
    add("--threads", metavar="N,M",
        help="numbers of threads, where a model has some [default: 1,8; 1 for ASGI]")  # fmt: skip
    add("--loops", metavar="A,B", help="event loops, for ASGI: asyncio,uvloop [default: as --loop has it]")
    add("--connections", default="32", metavar="N", help="connections of wrk [default: 32]")
    add("--seconds", default="3", metavar="S", help="seconds per measurement [default: 3]")
    add("--rounds", default="3", metavar="N", help="interleaved rounds [default: 3]")
    add("--path", default="/", help="path to request [default: /]")
    add(
        "--output", default="bench.html", metavar="FILE", help="page to write [default: bench.html]"
    )


def run(args: argparse.Namespace) -> int:
    load = Load(_number(args, "connections"), _number(args, "seconds"), _path(args))
    rounds = _number(args, "rounds")
    _combinations(args, "")  # what makes no sense is said before anything is tried
    wrk_or_die()
    combinations = _combinations(args, interface_of(args.app))
    results = measure(args.app, combinations, rounds, load, _progress)
    try:
        with open(args.output, "w", encoding="utf-8") as file:
            file.write(report.page(results, args.app, load, rounds))
    except OSError as error:
        raise ForkdError(f"{args.output}: {error.strerror}") from error
    say(f"{report.table(results)}\n\nwritten to {args.output}", done=f"the results are in {args.output}")
    if all(result.refused for result in results):
        raise ForkdError("nothing was measured: each combination was refused")
    return 0


def _combinations(args: argparse.Namespace, interface: str) -> list[Combination]:
    """Each model with each number of workers, and of threads where it has threads. Of what was not chosen
    those are left out that the interface cannot have."""
    names = args.models.split(",") if args.models else [row.name for row in registry.MODELS]
    found = []
    loops = args.loops.split(",") if args.loops else [""]
    counts = product(names, _numbers(args, "workers"), _numbers(args, "threads", "1,8"), loops)
    for name, workers, threads, loop in counts:
        row = registry.find(name)
        if row is None:
            known = ", ".join(r.name for r in registry.MODELS)
            raise UsageError(f"--models: there is no model {name!r}; there are {known}")
        combination = Combination(name, workers, threads if row.threaded else 1, loop)
        chosen = args.models if threads == 1 else args.threads
        if combination in found or (
            not chosen and registry.refusal(row, row.ios[0], interface, combination.threads)
        ):
            continue
        found.append(combination)
    return found


def _numbers(args: argparse.Namespace, name: str, default: str = "") -> list[int]:
    text: str = getattr(args, name) or default
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--{name}: {text!r} is no list of positive numbers, like 1,2,4")
    return [int(part) for part in parts]


def _number(args: argparse.Namespace, name: str) -> int:
    numbers = _numbers(args, name)
    if len(numbers) > 1:
        raise UsageError(f"--{name}: {getattr(args, name)!r} is more than one number")
    return numbers[0]


def _path(args: argparse.Namespace) -> str:
    if not re.fullmatch(r"/[!-~]*", args.path):
        raise UsageError(f"--path: {args.path!r} is no path to request, like /index?page=2")
    return str(args.path)


def _progress(done: int, total: int, what: str) -> None:
    if sys.stderr.isatty():
        filled = 30 * done // total
        bar = "#" * filled + "." * (30 - filled)
        sys.stderr.write(f"\r[{bar}] {done}/{total} {what:48.48}")
        sys.stderr.write("\n" if done == total else "")
        sys.stderr.flush()
