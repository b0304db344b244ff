"""The command `forkd`: its verbs, and their exit codes.

Exit codes: 0 done; 1 failed; 2 usage or configuration error; 3 not running. Errors become a line on
stderr here and nowhere else.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from forkd import __version__
from forkd.command.arguments import found_file
from forkd.config import spelling
from forkd.config.sources import settled
from forkd.errors import ForkdError, NotRunning
from forkd.system import interpreter, signals, stdio
from forkd.system.output import complain, say


class Verb(NamedTuple):
    text: str
    module: str  # in this folder; it has `add_flags` and `run`, and is imported for this verb alone


VERBS = {
    "start": Verb("start the daemon; returns when the service answers", "start"),
    "stop": Verb("finish the work in flight and stop the daemon", "stop"),
    "restart": Verb("stop, then start with the same or the given options", "restart"),
    "reload": Verb("replace all workers by new ones, with new code and configuration", "reload"),
    "upgrade": Verb("have a newly installed forkd take over, with the same sockets", "upgrade"),
    "status": Verb("show the master, its workers and listeners", "status"),
    "list": Verb("list the daemons of this user, or of all users for root", "list"),
    "scale": Verb("change the number of workers", "scale"),
    "storage": Verb("read, change, save and check a storage unit", "storage"),
    "check": Verb("say whether a start would succeed; change nothing", "check"),
    "bench": Verb("measure an application under a choice of models, with wrk", "bench.main"),
    "models": Verb("list the concurrency models", "models"),
}
_VERSION = ("-V", "-v", "--version")
_NO_VERB = ("-h", "--help", *_VERSION)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script. Never returns."""
    interpreter.leave_start_directory()
    stdio.fill()
    signals.reset()
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] not in (*VERBS, *_NO_VERB):
        complain(f"forkd: {spelling.of_verb(given, VERBS)}\nforkd: see forkd --help")
        raise SystemExit(2)
    args = argparse.Namespace()
    try:
        _, unknown = _parser(given[0] if given else "").parse_known_args(settled(given), args)
        code = _unknown(args.verb, unknown) if unknown else args.run(args)
    except ForkdError as error:
        for line in error.lines:
            complain(f"forkd: {line}")
        if isinstance(error, NotRunning) and (found := found_file(args)):
            complain(f"forkd: where it is was read from {found}, found here; -c names another")
        code = error.exit_code
    except BrokenPipeError:
        code = 0  # `forkd status | head`: nothing is wrong
    except KeyboardInterrupt:
        code = 130
    raise SystemExit(code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Without the usage, which is a screenful."""
        complain(f"forkd: {message}\nforkd: see {self.prog} --help")
        raise SystemExit(2)

    def _print_message(self, message: str, file: object = None) -> None:
        """Print the text of --help and --version."""
        say(message.rstrip("\n"))


def _parser(wanted: str) -> argparse.ArgumentParser:
    """With the arguments of this verb, if it is one."""
    parser = _Parser(
        prog="forkd", description="A prefork daemon for Python network services on Linux.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(*_VERSION, action="version", version=f"forkd {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, row in VERBS.items():
        verb = verbs.add_parser(name, help=row.text, description=f"{row.text}.", allow_abbrev=False)
        if name == wanted:
            with interpreter.without_collections():
                module = importlib.import_module(f"forkd.command.{row.module}")
            module.add_flags(verb)
            verb.set_defaults(run=module.run, verb=verb)
    return parser


def _unknown(verb: argparse.ArgumentParser, unknown: list[str]) -> int:
    """Arguments that the verb does not have, with what they are here, or the nearest. Returns 2."""
    known = [flag for action in verb._actions for flag in action.option_strings]
    # What follows an unknown flag may be its value, and so no second mistake.
    flags = [word for word in unknown if word.startswith("-") and word != "-"]
    for word in flags or unknown:
        flag = word.partition("=")[0]
        hint = spelling.of_flag(flag) or spelling.nearest(flag, known)
        complain(f"forkd: unknown argument {word!r}" + (f"; {hint}" if hint else ""))
    complain(f"forkd: see {verb.prog} --help")
    return 2
