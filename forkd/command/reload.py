"""`forkd reload`: new workers in place of all, with new code and configuration. Waits until they serve."""

from __future__ import annotations

import argparse

from forkd.command.arguments import add_where, ask_daemon
from forkd.system.output import complain, say

add_flags = add_where


def run(args: argparse.Namespace) -> int:
    """Waits however long the application takes to import."""
    reply = ask_daemon(args, "reload", seconds=None, late=say_late)
    say(f"generation {reply['generation']} serves", done="the reload is done")
    if reply["restart"]:
        complain(f"changed, but need a restart: {', '.join(reply['restart'])}")
    for line in reply.get("unused", []):
        complain(f"warning: {line}")
    return 0


def say_late() -> None:
    """A reload or an upgrade takes long. It goes on without this command."""
    text = "the new workers are not ready yet; waiting (forkd status tells more)"
    complain(f"forkd: {text}")
