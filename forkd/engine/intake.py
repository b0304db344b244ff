"""An intake: a source of connections for a child, which is a listener that it accepts on or a queue of
sockets that the master accepted. The acceptor waits on either in the same way.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from forkd.engine.link import Link
from forkd.native import native
from forkd.session.begin import BoundBegin
from forkd.system.cells import WORKER_QUEUE
from forkd.system.fd_passing import receive_socket
from forkd.system.originals import monotonic_ns, socket
from forkd.system.scoreboard import Row
from forkd.system.stdio import mend

if TYPE_CHECKING:
    from forkd._native import Source

#: The socket, the client's address, and what the connection begins with.
Accepted = tuple[socket.socket, Any, BoundBegin]


class Intake(Protocol):
    #: Several children wait on it at once, and one of them should be woken.
    shared: bool
    #: What is in it would be lost if this child did not take it before it leaves.
    own: bool
    #: The service ends, and what this is taken from with it.
    final: bool
    #: It says when nothing more will come. A listener that no other process serves any more says so by
    #: being empty.
    ends: bool

    def fileno(self) -> int: ...
    def take(self) -> Accepted:
        """Raises BlockingIOError when there is nothing, EOFError when nothing more will come,
        OSError as accept(2) does."""
        ...

    def wrap(self, fd: int) -> Accepted:
        """A connection that the kernel accepted for us (models/proactor.py)."""
        ...

    def close(self) -> None: ...

    def end(self) -> None:
        """End it: it is empty, and nothing will be taken from it any more."""


class ListenerIntake:
    """A listening socket."""

    own = False
    ends = False
    final = False

    def __init__(self, sock: socket.socket, begin: BoundBegin, *, shared: bool) -> None:
        self.shared = shared
        self.begin = begin
        self._sock = sock
        # As plain numbers: a socket makes an enum of each when it is asked.
        self._kind = int(sock.family), int(sock.type), sock.proto
        self.fileno = sock.fileno
        self.close = sock.close

    def take(self) -> Accepted:
        fd, client = self._sock._accept()  # type: ignore[attr-defined]
        return socket.socket(*self._kind, fd), client, self.begin

    def take_links(self, most: int) -> list[Link]:
        """Up to `most` connections, as the bare Links that native code serves (native/engine_intake.c);
        fewer: no more wait. Raises as `take`, but for that."""
        links: list[Link] = self.source.accept(most)  # type: ignore[assignment]
        return links

    @functools.cached_property
    def source(self) -> Source:
        """This listener, as native code has it."""
        assert native is not None
        begin = self.begin
        made: Source = native.Source(fd=self.fileno(), server=begin.server, port=str(begin.port), mend=mend)
        return made

    def grown(self, link: Link) -> Accepted:
        """One of those, when it has to be a connection as any other."""
        family, kind, protocol = self._kind
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol, link.fd)  # as it was accepted
        begin = self.begin
        while begin.following is not None and link.op is not begin.opening:
            begin = begin.following  # the layer was read
        return sock, (link.client, int(link.note.client_port)), begin

    def wrap(self, fd: int) -> Accepted:
        sock = socket.socket(*self._kind, fd)
        return sock, _peer(sock), self.begin

    def end(self) -> None:
        """Close it for all that have copies: a process that the application has left behind would
        hold the port."""
        if self.final:
            with contextlib.suppress(OSError):  # ENOTCONN: another process has done it
                self._sock.shutdown(socket.SHUT_RDWR)
        self.close()


class QueueIntake:
    """A queue of sockets that the master accepted (system/fd_passing.py)."""

    ends = True
    final = False

    def __init__(
        self, queue: socket.socket, row: Row, begin: Callable[[str], BoundBegin], *, shared: bool
    ) -> None:
        """`row`: where it is noted how long connections were in the queue. `begin`: what a connection begins
        with, from the text that came with it; called once for each such text."""
        self.shared = shared
        self.own = not shared
        self._queue = queue
        self._row = row
        self._begin = functools.cache(begin)
        self.fileno = queue.fileno
        self.close = self.end = queue.close

    def take(self) -> Accepted:
        sock, begin, accepted_ns = receive_socket(self._queue)
        self._row.waited(WORKER_QUEUE, monotonic_ns() - accepted_ns)
        return sock, _peer(sock), self._begin(begin)

    def wrap(self, fd: int) -> Accepted:
        raise AssertionError("nobody accepts on a queue")


def _peer(sock: socket.socket) -> Any:
    try:
        return sock.getpeername()
    except OSError:
        return None  # it has left already; reading will say so
