"""Asynchronous operations: the protocol by which a proactor starts them and gets their completions.

The Asynchronous Operation Processor of the Proactor pattern (POSA2). It looks like a handle set, so
that its caller need not know: to add a connection for READ is to start a receive, to add a listener
is to start an accept. The difference is what comes back: not that a handle is ready, but that an
operation is done, with its result. There are two, uring.py and aio.py; each belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Protocol

from forkd.native import Resumes
from forkd.system.handles import HandleSet
from forkd.system.originals import socket


class Kind(Enum):
    ACCEPTED = "accepted"  # result: a descriptor
    RECEIVED = "received"  # result: bytes, b"" at EOF
    SENT = "sent"  # result: how many bytes


#: What completed, on which handle, and its result; an OSError when it failed.
Completed = tuple[Kind, int, int | bytes | OSError]


class Operations(HandleSet, Protocol):
    """`wait` returns plain handles that are ready, as any handle set does; then `completed` returns
    operations. A connection's bytes are returned only while it is in the set for READ; what arrives at
    other times is held until then."""

    def adopt(self, fd: int) -> None:
        """`fd` is a connection from now on: READ in its mask means to receive."""

    def send(self, fd: int, data: bytes) -> None:
        """Start to send all of `data`; one at a time. Each SENT reports a part of it."""

    def sending(self, fd: int) -> bool:
        """Whether a send is under way."""
        ...

    def answering(self, fd: int) -> bool:
        """Whether that is an answer of which its session does not know: see `serve`."""
        ...

    def holds(self, fd: int) -> bool:
        """Whether something was received that `completed` has not returned yet."""
        ...

    def put_back(self, fd: int, data: bytes) -> None:
        """`data` (b"": EOF) was received too early: it is held, and the connection is in the set for nothing.
        That a receive fails meanwhile is returned, where one is under way."""

    def has_come(self, fd: int) -> bool:
        """As `holds`, and with what has completed by now, which is returned next time. Not within
        `completed`."""
        ...

    def sends_itself(self, fd: int) -> None:
        """The caller sends on the socket of a connection, without blocking, until it is added again, or
        the next send is started. Called while something received is being handled, when no send is under way.
        What is received meanwhile is held, and returned later."""

    def receives_itself(self, fd: int) -> bytes:
        """The caller receives from a connection itself from now on, until it is released. Called before
        anything is received, or while something that was is being handled: by the thread that the connection
        was lent to, if there is one. Returns what was received and `completed` has not returned."""
        ...

    def release(self, sock: socket.socket) -> None:
        """Cancel what is under way on a connection, then close it."""

    def completed(self) -> Iterator[Completed]: ...
    def serve(self, loop: Resumes, connections: dict[int, Any]) -> None:
        """Serve those of `connections` that rest without telling of it, where that can be done, and call
        `loop` for the rest of it."""
