"""The driver of an inline loop: it dispatches the events of a turn, receives, and accepts.

A part of the loop, picked by a table. Python's is here, and calls the loop for everything; native code's is
in native_driver.py. In a child.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from forkd.engine.baton import Baton
from forkd.engine.connection import Connection
from forkd.engine.loop import ChildLoop
from forkd.engine.native_driver import NativeDriver
from forkd.engine.steps import Outcome
from forkd.native import serves
from forkd.system.handles import Events, HandleSet, NativeEpollSet, make_handle_set


class Driver(Protocol):
    def run(self, events: Events) -> None:
        """Dispatch what was ready at one wait: calls, connections, listeners, in this order."""

    def take(self, fd: int) -> bool:
        """Accept at a listener, and work. Returns whether more clients may be waiting there."""
        ...

    def receive(self, conn: Connection) -> None:
        """What has arrived at a connection goes to its session; nothing may have."""

    def answer(self, conn: Connection, call: Any) -> Outcome | None:
        """Call the application for a request that `Resumes.claims` has taken, and send the answer. Returns
        what the connection waits in then; None: its session has to go on with the call, or that is suspended:
        `conn.call`. In any thread."""

    def watch_requests(self, wary: bool, patience: float) -> None:
        """From now on: offer each request to `claims` before its application is called, if `wary`; and report
        to `judge` one that has taken more than `patience` seconds."""

    def retire(self) -> None:
        """The child is to end: every connection gets a Connection."""

    def descriptors(self) -> set[int]:
        """Of connections that have none."""
        ...

    def abandon(self) -> None:
        """Close those now."""


class PythonDriver:
    def __init__(
        self, loop: ChildLoop, receive: Callable[[Connection], None], baton: Baton | None
    ) -> None:
        # Bound once: a wrapper would cost a call for each.
        self.run = loop.dispatch
        self.take = loop.take
        self.receive = receive

    def answer(self, conn: Connection, call: Any) -> Outcome | None:
        return None

    def watch_requests(self, wary: bool, patience: float) -> None:
        """The loop's own steps look at each request themselves."""

    def retire(self) -> None:
        pass

    def descriptors(self) -> set[int]:
        return set()

    def abandon(self) -> None:
        pass


class DriverRow(NamedTuple):
    """A handle set, and the driver for what it returns."""

    handle_set: Callable[[], HandleSet]
    make: Callable[[ChildLoop, Callable[[Connection], None], Baton | None], Driver]


_IOS = ("epoll", "poll", "select", "sigio")

#: By `--io`, and whether native code serves.
_DRIVERS: dict[tuple[str, bool], DriverRow] = {
    **{(io, False): DriverRow(partial(make_handle_set, io), PythonDriver) for io in _IOS},
    **{(io, True): DriverRow(partial(make_handle_set, io), NativeDriver) for io in _IOS},
    ("epoll", True): DriverRow(NativeEpollSet, NativeDriver),
}


def driver_row(io: str, native: bool) -> DriverRow:
    """The parts of an inline loop for a value of `--io`; `native`: by native code, where there is some."""
    return _DRIVERS[io, serves(native)]
