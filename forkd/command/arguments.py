"""The arguments that several verbs have, and the daemon that they locate. In the command.

This file and the verbs that talk to a running daemon import neither master, models nor worker: `forkd status`
is run by monitors, often.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from forkd.config import Config
from forkd.config.sources import Sources, add_flags, is_named
from forkd.ipc.control import ask
from forkd.ipc.pidfile import running

#: What those verbs need to know of the options.
WHERE = {"name", "pidfile", "control"}


def add_all(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)


def add_where(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, only=WHERE)


def add_json(parser: argparse.ArgumentParser, help: str = "print it as JSON") -> None:
    parser.add_argument("--json", action="store_true", help=help)


def locate(args: argparse.Namespace) -> Config:
    """The configuration that locates the running daemon."""
    return Sources.gather(args, os.environ, locating=True).locate()


def ask_daemon(args: argparse.Namespace, verb: str, **how: Any) -> Any:
    """The answer of the running daemon; `how` is as `ask` has it. Raises NotRunning, and what it refuses."""
    config = locate(args)
    running(config.pidfile, config.control)
    return ask(config.control, verb, **how)


def found_file(args: argparse.Namespace) -> str | None:
    """The configuration file that was read without having been named."""
    if "config" not in args or is_named(args, os.environ):
        return None
    return Sources.gather(args, os.environ, locating=True).path
