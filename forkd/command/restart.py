"""`forkd restart`: stop, then start with the same or the given options."""

from __future__ import annotations

import argparse
import os

from forkd.command.arguments import WHERE, add_all
from forkd.command.start import load, require, start
from forkd.command.stop import stop
from forkd.config.sources import Sources, is_named
from forkd.errors import ForkdError, NotRunning
from forkd.ipc.control import ask
from forkd.ipc.pidfile import running
from forkd.models import registry

add_flags = add_all


def run(args: argparse.Namespace) -> int:
    """With an app or options: those. Without: what the running daemon was started with."""
    sources, config = load(args)
    given = set(sources.flags) - WHERE
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
        require(config)
        stop(pid)
    except NotRunning:
        pass
    return start(sources, config)
