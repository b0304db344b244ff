"""What an application has made at import that only lives where it was made, and at that time: event loops,
their tasks, and connections, by name for a warning.

In a template, whose children would have copies, and in a child whose loop begins later.
"""

from __future__ import annotations

import gc
import stat
import sys
import warnings
from collections.abc import Iterator
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


def current_loop() -> Any:
    """The main thread's event loop, where the application has made one; else None."""
    asyncio: Any = sys.modules.get("asyncio")
    made = {id(loop) for loop in _found("AbstractEventLoop") if not loop.is_closed()}
    if not made:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            return None
    if id(loop) in made:
        return None if loop.is_running() else loop  # in another thread
    loop.close()  # there was none, and asyncio has made it
    asyncio.set_event_loop(None)
    return None


def loops_and_tasks(served: Any = None, given: Any = None) -> list[str]:
    """But for `served`, a loop that will run, and its tasks; and `given`, a loop of the server's.
    Where one is served, one that runs in a thread of the application's goes on, too; no child's copy does."""

    def goes_on(loop: Any) -> bool:
        return loop is served or (served is not None and loop.is_running())

    open_loops = (each for each in _found("AbstractEventLoop") if not each.is_closed())
    loops = [each for each in open_loops if each is not given and not goes_on(each)]
    tasks = [
        getattr(each.get_coro(), "__qualname__", each.get_name())
        for each in _found("Task")
        if not each.done() and not goes_on(each.get_loop())
    ]
    found = [_counted("an event loop", "event loops", len(loops))] if loops else []
    if tasks:
        names = ", ".join(sorted(tasks)[:_MAX_NAMES])
        found.append(f"{_counted('a task', 'tasks', len(tasks))} ({names})")
    return found


def _found(name: str) -> Iterator[Any]:
    """Each object of that class of asyncio's, whatever it says of itself."""
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is not None:
        wanted = getattr(asyncio, name)
        yield from (each for each in gc.get_objects() if issubclass(type(each), wanted))


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
