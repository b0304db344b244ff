"""`forkd upgrade`: a newly installed forkd takes over, with the same sockets. Waits until it serves."""

from __future__ import annotations

import argparse

from forkd.command.arguments import add_where, locate
from forkd.command.reload import say_late
from forkd.ipc.control import ask
from forkd.ipc.pidfile import running
from forkd.system.output import say

add_flags = add_where


def run(args: argparse.Namespace) -> int:
    """Waits until the new master serves, or has failed."""
    config = locate(args)
    running(config.pidfile, config.control)
    reply = ask(config.control, "upgrade", seconds=None, late=say_late)
    say(f"master {reply['pid']} serves", done="the upgrade is done")
    return 0
