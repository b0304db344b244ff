"""The signal mask of programs that the application starts, in a process where forkd blocks signals.

They have the mask that they would have without forkd: execve(2) leaves it as it is, and so does vfork(2), for
which there is no hook. Around the calls that start programs, these signals are let through in the calling
thread. One that comes meanwhile goes to its handler, which has to find out what it was for. Called by
system/signals.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

from forkd.system.originals import signal

#: What the standard library starts programs by: module, and name there.
_STARTERS = (
    ("os", "posix_spawn"),
    ("os", "posix_spawnp"),
    ("os", "system"),
    ("_posixsubprocess", "fork_exec"),  # multiprocessing has it from here
    ("subprocess", "_fork_exec"),  # which keeps it, from Python 3.11 on
)
_let_through: set[int] = set()


def let_through(numbers: set[int]) -> None:
    """Let the signals through whenever a program is started from now on."""
    mended = bool(_let_through)
    _let_through.update(numbers)
    if mended:
        return
    for module_name, name in _STARTERS:
        module = import_module(module_name)
        start = getattr(module, name, None)
        if start is not None:
            setattr(module, name, _letting_through(start))


def _letting_through(start: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(start)
    def call(*arguments: Any, **options: Any) -> Any:
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, _let_through)
        try:
            return start(*arguments, **options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return call

