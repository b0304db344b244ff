"""`forkd upgrade`: a newly installed forkd takes over, with the same sockets. Waits until it serves."""

from __future__ import annotations

import argparse

from forkd.command.arguments import add_where, ask_daemon
from forkd.command.reload import say_late
from forkd.system.output import say

add_flags = add_where


def run(args: argparse.Namespace) -> int:
    """Waits until the new master serves, or has failed."""
    reply = ask_daemon(args, "upgrade", seconds=None, late=say_late)
    say(f"master {reply['pid']} serves", done="the upgrade is done")
    return 0
