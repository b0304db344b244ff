"""`forkd status`: the master, its workers and listeners."""

from __future__ import annotations

import argparse
import json

from forkd.command import render
from forkd.command.arguments import add_json, add_where, ask_daemon
from forkd.system.output import say


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_where(parser)
    add_json(parser, "print what /status.json serves, with query strings")


def run(args: argparse.Namespace) -> int:
    status = ask_daemon(args, "status")["status"]
    say(json.dumps(status, indent=1) if args.json else render.render(status))
    return 0
