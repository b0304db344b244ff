"""Hooks: functions of the operator's module, called at fixed points in the life of a daemon.

Never in the master, which runs no application code (so there is no pre_fork): those of a worker run
in the worker, those of the daemon in a process that is forked for the one call (master/hook_runner.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from forkd.app import loader
from forkd.errors import AppError
from forkd.log.lines import Log
from forkd.system.forked import call


class HookRow(NamedTuple):
    name: str
    process: str  # where it runs: "worker", or "own", a process of its own
    when: str


HOOKS: tuple[HookRow, ...] = (
    HookRow(
        "on_starting", "own",
        "When the daemon starts, before the first worker is forked. The workers wait for it.",
    ),
    HookRow(
        "on_reload", "own",
        "At a reload, when its configuration is found right, before the new workers are forked. They "
        "wait for it; the old ones serve. In an upgrade too, on behalf of the new master.",
    ),
    HookRow("on_exit", "own", "When the last worker of a daemon that was told to stop has gone."),
    HookRow(
        "post_fork", "worker",
        "First thing in a new worker, as its user, before the application is loaded; with `preload`, "
        "after the fork of the loaded application.",
    ),
    HookRow("worker_ready", "worker", "The application is loaded. The worker counts as ready after it."),
    HookRow(
        "worker_retiring", "worker",
        "The worker accepts no more; requests in flight are finished after it.",
    ),
    HookRow(
        "worker_exit", "worker",
        "Last thing in a worker that ends by itself, before the functions of atexit. Not in one that "
        "is killed, or that calls os._exit.",
    ),
)  # fmt: skip
_NAMES = [row.name for row in HOOKS]
_PREFIXES = ("on_", "post_", "pre_", "worker_")


@dataclass(frozen=True)
class Place:
    """The argument of a hook: the process that it runs in, and the daemon or worker that it is for."""

    process: str  # "worker" or "own"
    pid: int
    master: int  # pid
    name: str  # of the daemon
    generation: int
    slot: int | None = None  # of the worker
    number: int | None = None  # of the worker, and of its successor: FORKD_WORKER


class Hooks:
    """The functions of one module, in the process that calls them. Without a module, none."""

    def __init__(self, found: Mapping[str, Callable[[Place], object]], log: Log) -> None:
        self._found = found
        self._log = log

    @classmethod
    def load(cls, module: str | None, log: Log) -> Hooks:
        """Import the module. Raises AppError when it cannot be, or has something that looks like a
        hook and is none."""
        if module is None:
            return cls({}, log)
        made = loader.import_module(module, f"hooks {module!r}")
        for name, value in vars(made).items():
            own = getattr(value, "__module__", None) == made.__name__
            if name in _NAMES and not callable(value):
                raise AppError(f"hooks {module!r}: {name} is not callable")
            if own and callable(value) and name.startswith(_PREFIXES) and name not in _NAMES:
                near = difflib.get_close_matches(name, _NAMES, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise AppError(
                    f"hooks {module!r}: there is no hook {name}; {hint}"
                    f"The hooks are {', '.join(_NAMES)}; begin the name of a helper with _"
                )
        return cls({name: getattr(made, name) for name in _NAMES if hasattr(made, name)}, log)

    def call(self, name: str, place: Place) -> bool:
        """Call the hook, if there is one. Returns False where it raised, which is logged and has no other
        effect."""
        hook = self._found.get(name)
        try:
            if hook is not None:
                call(hook, place)
        except BaseException:  # sys.exit() of a hook, too, ends the hook alone
            self._log.exception(f"hook {name} failed")
            return False
        return True
