"""What the master passes on when it forks: to a child, and to a template, which passes it on to its children.
Facts, and none of the master's objects that know more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from forkd.config import Config
from forkd.ipc.messages import Channel
from forkd.log.sink import LineSink, Sink
from forkd.session.begin import Begin
from forkd.system.accounts import Identity
from forkd.system.cells import LOST_ACCESS, LOST_ERROR
from forkd.system.lease import Lease
from forkd.system.log_ring import ACCESS, ERROR, Rings, RingSink
from forkd.system.originals import socket
from forkd.system.scoreboard import Row
from forkd.system.shared import Units
from forkd.system.signal_sockets import SignalSockets
from forkd.system.sockets import Listener
from forkd.system.watch import Watch

#: A listening socket, with what its connections begin with.
Listening = tuple[socket.socket, Begin]


@dataclass(frozen=True)
class Sinks:
    """Where a child writes its logs."""

    _rings: Rings
    _err: int | None  # the number of the error log; None: descriptor 2 itself
    _access: int  # of the access log
    _native: bool

    def error(self, row: Row) -> LineSink:
        """For the process that writes that row of the scoreboard."""
        sink = Sink(2) if self._err is None else RingSink(self._rings, row.index, ERROR, self._err)
        sink.lost = partial(row.add, LOST_ERROR)
        return sink

    def access(self, row: Row) -> RingSink:
        sink = RingSink(self._rings, row.index, ACCESS, self._access, native=self._native)
        sink.lost = partial(row.add, LOST_ACCESS)
        return sink


@dataclass(frozen=True)
class Heritage:
    """What the master gives a child on its way."""

    config: Config
    slot: int
    number: int  # its place, from 1, which its successor takes over: FORKD_WORKER
    generation: int
    channel: Channel
    lanes: list[Row]  # its rows of the scoreboard, one per thread
    lease: Lease | None
    listeners: list[Listening]
    queue: socket.socket | None  # of sockets that the master accepts, in models where it does
    stacks: int  # memfd for faulthandler
    sockets: SignalSockets  # by which it is signalled, where it has to be that way
    logs: Sinks  # where it writes them
    identity: Identity | None
    admin: str | None  # address of the metrics, for the welcome app
    units: Units  # of storage
    watch: Watch  # over its event loop, if it has one
    master: int  # its pid
    #: Closes, in the child, what belongs to the master only.
    forget: Callable[[], None]
    app: Any = None  # as the template has loaded it, with `preload`


@dataclass(frozen=True)
class TemplateHeritage:
    """What the master gives a template on its way."""

    config: Config
    generation: int
    lanes: list[list[Row]]  # of the scoreboard, by slot
    lease: Lease | None
    begins: dict[Listener, Begin]
    master_accepts: bool  # and its children have no listeners, but a queue
    queue: socket.socket | None  # one for all children: dispatch = competition
    logs: Sinks  # for its children
    identity: Identity | None
    admin: str | None
    units: Units
    watch: Watch
    master: int  # its pid
    forget: Callable[[], None]

    def sockets_of(self, number: int) -> list[Listening]:
        return sockets_of(self.begins, number)

    def all_sockets(self) -> list[socket.socket]:
        return [sock for listener in self.begins for sock in listener.sockets]


def sockets_of(begins: Mapping[Listener, Begin], number: int) -> list[Listening]:
    """The listening sockets of the child with that number."""
    found = []
    for listener, begin in begins.items():
        several = len(listener.sockets) > 1
        found.append((listener.sockets[number if several else 0], begin))
    return found
