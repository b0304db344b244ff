"""`forkd check`: would a start succeed? Imports the application, in a process that then ends."""

from __future__ import annotations

import os
from collections.abc import Callable

from forkd.app.hooks import Hooks
from forkd.config import Config
from forkd.errors import AppError, StartError, SystemCallError
from forkd.log import Log
from forkd.models import registry
from forkd.supervise.worker import make_interface
from forkd.system import process
from forkd.system.scoreboard import Scoreboard


class _Host:
    """A host that serves nobody."""

    def __init__(self, config: Config) -> None:
        self.draining = False
        self.ledger = Scoreboard(1).lanes[1][0]
        self.access = None
        self.log = Log(config.log_level, config.log_format, "check")


def check(config: Config) -> str:
    """A sentence that says what would be served. Raises ForkdError for what a start would."""
    process.identity(config.user, config.group)
    if config.chdir is not None:
        _try("chdir", config.chdir, lambda: os.chdir(str(config.chdir)))
    Hooks.load(config.hooks, Log(config.log_level, config.log_format, "check"))
    row, io = registry.get(config.model), registry.io_of(config.model, config.io)
    interface, flavour = make_interface(config, _Host(config), io, None)
    why = registry.refusal(row, io, flavour, config.threads)
    if why is not None:
        raise AppError(why)
    _, denied = registry.usable(config)
    if denied and not config.io_fallback:
        raise StartError(f"io-fallback = false, and io_uring cannot be used: {denied}")
    return (
        f"ok: {config.app or 'the built-in welcome app'} ({interface.name}) under "
        f"{config.model}/{io}, workers {config.workers}, on {', '.join(map(str, config.bind))}"
    )


def _try(call: str, target: str, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        raise SystemCallError(call, target, error) from error
