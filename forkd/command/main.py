"""The command `forkd`: verbs, their arguments, and their exit codes.

Exit codes: 0 done; 1 failed; 2 usage or configuration error; 3 not running. Errors become a line on
stderr here and nowhere else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from forkd import __version__
from forkd.command import render as table
from forkd.command import start
from forkd.command.bench import main as bench
from forkd.command.stopping import stop_and_wait
from forkd.config import Config, spelling
from forkd.config.sources import Sources, add_flags, is_named
from forkd.errors import ForkdError, NotRunning, UsageError
from forkd.ipc import discovery
from forkd.ipc.control import ask
from forkd.ipc.handover import inherited
from forkd.ipc.pidfile import running
from forkd.master.entry import take_over
from forkd.models import registry
from forkd.system import interpreter, signals
from forkd.system import stdio as standard
from forkd.system.output import complain, say

#: What the verbs that talk to a running master need to know of the options.
_WHERE = {"name", "pidfile", "control"}
_VERSION = ("-V", "-v", "--version")
_NO_VERB = ("-h", "--help", *_VERSION)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script. Never returns."""
    interpreter.leave_start_directory()
    standard.fill()
    signals.reset()
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] not in (*VERBS, *_NO_VERB):
        complain(f"forkd: {spelling.of_verb(given, VERBS)}\nforkd: see forkd --help")
        raise SystemExit(2)
    args = argparse.Namespace()
    try:
        _, unknown = _parser().parse_known_args(given, args)
        code = _unknown(args.verb, unknown) if unknown else args.run(args)
    except ForkdError as error:
        for line in error.lines:
            complain(f"forkd: {line}")
        if isinstance(error, NotRunning) and (found := _found_file(args)):
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="forkd", description="A prefork daemon for Python network services on Linux.",
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(*_VERSION, action="version", version=f"forkd {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, (run, text, arguments) in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=f"{text}.", allow_abbrev=False)
        arguments(verb)
        verb.set_defaults(run=run, verb=verb)
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


# ---- arguments ----------------------------------------------------------------------------


def _all_flags(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)


def _where(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, only=_WHERE)


def _status_flags(parser: argparse.ArgumentParser) -> None:
    _where(parser)
    text = "print what /status.json serves, with query strings"
    parser.add_argument("--json", action="store_true", help=text)


def _json_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _scale_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "amount",
        metavar="N|+N|-N",
        help="the number of workers, or a change of it: up to --max-workers, or within MIN:MAX",
    )
    _where(parser)


def _no_flags(parser: argparse.ArgumentParser) -> None:
    pass


def _load(args: argparse.Namespace) -> tuple[Sources, Config]:
    sources = Sources.gather(args, os.environ)
    return sources, sources.load(registry.RULES)


def _found_file(args: argparse.Namespace) -> str | None:
    """The configuration file that was read without having been named."""
    if "config" not in args or is_named(args, os.environ):
        return None
    return Sources.gather(args, os.environ, locating=True).path


def _locate(args: argparse.Namespace) -> Config:
    """The configuration that locates the running daemon."""
    return Sources.gather(args, os.environ, locating=True).locate()


# ---- verbs --------------------------------------------------------------------------------


def _start(args: argparse.Namespace) -> int:
    heir = inherited(os.environ)
    return take_over(heir) if heir is not None else start.start(*_load(args))


def _stop(args: argparse.Namespace) -> int:
    config = _locate(args)
    pid = running(config.pidfile, config.control)
    _stop_and_wait(pid)
    return 0


def _stop_and_wait(pid: int) -> None:
    for who in stop_and_wait(pid):
        complain(f"forkd: {who}")


def _restart(args: argparse.Namespace) -> int:
    """With an app or options: those. Without: what the running daemon was started with."""
    sources, config = _load(args)
    given = set(sources.flags) - _WHERE
    try:
        pid = running(config.pidfile, config.control)
        if not given and not is_named(args, os.environ):
            running_with = ask(config.control, "sources")
            if running_with["activated"]:
                raise ForkdError(
                    "this daemon has its sockets from a service manager; restart it there "
                    "(systemctl restart)"
                )
            sources = Sources(**running_with["sources"])
            config = sources.load(registry.RULES)
        # Before anything is stopped: a broken file, or a directory that is gone, ends no running service.
        start.require(config)
        _stop_and_wait(pid)
    except NotRunning:
        pass
    return start.start(sources, config)


def _reload(args: argparse.Namespace) -> int:
    """Waits until the reload has ended, however long the application takes to import."""
    config = _locate(args)
    running(config.pidfile, config.control)
    reply = ask(config.control, "reload", seconds=None, late=_say_late)
    say(f"generation {reply['generation']} serves", done="the reload is done")
    if reply["restart"]:
        complain(f"changed, but need a restart: {', '.join(reply['restart'])}")
    for line in reply.get("unused", []):
        complain(f"warning: {line}")
    return 0


def _upgrade(args: argparse.Namespace) -> int:
    """Waits until the new master serves, or has failed."""
    config = _locate(args)
    running(config.pidfile, config.control)
    reply = ask(config.control, "upgrade", seconds=None, late=_say_late)
    say(f"master {reply['pid']} serves", done="the upgrade is done")
    return 0


def _say_late() -> None:
    """A reload or an upgrade takes long. It goes on without this command."""
    text = "the new workers are not ready yet; waiting (forkd status tells more)"
    complain(f"forkd: {text}")


def _status(args: argparse.Namespace) -> int:
    config = _locate(args)
    running(config.pidfile, config.control)
    status = ask(config.control, "status")["status"]
    say(json.dumps(status, indent=1) if args.json else table.render(status))
    return 0


def _list(args: argparse.Namespace) -> int:
    """The daemons of this user; of all users for root."""
    found = discovery.find(os.environ)
    if args.json:
        say(json.dumps(found, indent=1))
    elif found:
        say(table.daemons(found))
    else:
        say("no daemon runs" + ("" if os.geteuid() == 0 else " that is this user's"))
    return 0


def _scale(args: argparse.Namespace) -> int:
    amount: str = args.amount
    if not re.fullmatch(r"[+-]?[0-9]+", amount):
        raise UsageError(f"scale {amount}: write N, +N or -N")
    config = _locate(args)
    running(config.pidfile, config.control)
    how: dict[str, Any] = {"by" if amount[0] in "+-" else "to": int(amount)}
    reply = ask(config.control, "scale", **how)
    say(f"{reply['workers']} workers", done="the number is changed")
    if reply.get("why"):
        complain(f"forkd: {reply['why']}")
    return 0


def _check(args: argparse.Namespace) -> int:
    """Try what a start would; change nothing."""
    from forkd.command.check import check

    say(check(*_load(args)))
    return 0


def _models(args: argparse.Namespace) -> int:
    say(table.models(registry.MODELS))
    return 0


Verb = tuple[Callable[[argparse.Namespace], int], str, Callable[[argparse.ArgumentParser], None]]

VERBS: dict[str, Verb] = {
    "start": (_start, "start the daemon; returns when the service answers", _all_flags),
    "stop": (_stop, "finish the work in flight and stop the daemon", _where),
    "restart": (_restart, "stop, then start with the same or the given options", _all_flags),
    "reload": (_reload, "replace all workers by new ones, with new code and configuration", _where),
    "upgrade": (_upgrade, "have a newly installed forkd take over, with the same sockets", _where),
    "status": (_status, "show the master, its workers and listeners", _status_flags),
    "list": (_list, "list the daemons of this user, or of all users for root", _json_flag),
    "scale": (_scale, "change the number of workers", _scale_flags),
    "check": (_check, "say whether a start would succeed; change nothing", _all_flags),
    "bench": (
        bench.run,
        "measure an application under a choice of models, with wrk",
        bench.add_flags,
    ),
    "models": (_models, "list the concurrency models", _no_flags),
}
