"""What an application has made at import that only lives where it was made, and at that time: event loops,
their tasks, and connections, by name for a warning.

In a template, whose children would have copies, and in a child whose loop begins later.
"""

from __future__ import annotations

import gc
import stat
import sys
from typing import Any

from forkd.errors import AppError
from forkd.system.originals import os, socket

_MAX_NAMES = 3


def needs_loop(error: AppError) -> bool:
    """Whether the application could not be loaded since no event loop runs."""
    cause = error.__cause__
    return isinstance(cause, RuntimeError) and any(
        f"no {which} event loop" in str(cause) for which in ("running", "current")
    )


def loops_and_tasks() -> list[str]:
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is None:
        return []
    loops: list[Any] = []
    tasks: list[str] = []
    for each in gc.get_objects():
        kind = type(each)  # whatever the object says of itself
        if issubclass(kind, asyncio.AbstractEventLoop) and not each.is_closed():
            loops.append(each)
        elif issubclass(kind, asyncio.Task) and not each.done():
            tasks.append(getattr(each.get_coro(), "__qualname__", each.get_name()))
    found = [_counted("an event loop", "event loops", len(loops))] if loops else []
    if tasks:
        names = ", ".join(sorted(tasks)[:_MAX_NAMES])
        found.append(f"{_counted('a task', 'tasks', len(tasks))} ({names})")
    return found


def connections(before: set[int]) -> list[str]:
    """To other hosts and processes. `before`: the descriptors that were there already."""
    peers = []
    for fd in descriptors() - before:
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as sock:
                peer = sock.getpeername()
        except OSError:
            continue  # it listens, or is closed
        if isinstance(peer, tuple):
            peers.append(f"{peer[0]}:{peer[1]}")
        elif peer:  # a pair's own ends have no name
            peers.append(peer if isinstance(peer, str) else repr(peer))
    if not peers:
        return []
    names = ", ".join(sorted(peers)[:_MAX_NAMES])
    return [f"{_counted('a connection', 'connections', len(peers))} ({names})"]


def descriptors() -> set[int]:
    try:
        listed = os.listdir("/proc/self/fd")  # with the one by which it is listed, which is closed by now
    except OSError:
        return set()  # without /proc
    return {int(name) for name in listed if os.path.lexists(f"/proc/self/fd/{name}")}


def _counted(one: str, many: str, count: int) -> str:
    return one if count == 1 else f"{count} {many}"
