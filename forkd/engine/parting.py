"""A 504 for the clients of a process that is killed for being late.

Before the kill, the connections of requests of which nothing was answered yet are taken out of the process
by pidfd_getfd(2). When it is dead, and no other process can send there any more, those that are still in that
state get a 504 and a close. Used by the master for its children, and by a worker for the processes that it
has forked for clients.

Where the kernel refuses that (a process that runs as another user, and no CAP_SYS_PTRACE; a kernel before
5.6; a seccomp filter), clients see a connection that is closed, as after a crash.

What is taken is what the process said was its client's socket: it is used only if it is a connected stream
socket, and nothing here waits for it. What the client has sent and was not read is read first, since a
close with unread bytes resets the connection, and may destroy the answer on its way (RFC 9112, 9.6).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from forkd.system import process
from forkd.system.in_flight import Request
from forkd.system.originals import monotonic_ns, os, socket
from forkd.system.scoreboard import Row
from forkd.system.sigpipe import NO_SIGPIPE

_MAX_SOCKETS = 4096  # of clients that are answered for one process
_DRAIN_BYTES = 1 << 16
_MAX_DRAIN_RECEIVES = 16
_NOW_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Parting:
    """The connections of one process."""

    def __init__(self, answer: Callable[[bytes, str], bytes]) -> None:
        """`answer(line, id)`: what the client of the request with that line and that name gets."""
        self._answer = answer
        self._taken: dict[tuple[int, int], socket.socket] = {}  # by place and time of the request

    def take(self, pidfd: int, rows: Sequence[Row], pool: bool) -> None:
        """Take the connections of the process that writes these lanes, and is killed next. `pool`: the
        pool of the slot is its own."""
        entries, now = rows[0].entries, monotonic_ns()
        room = min(_MAX_SOCKETS, process.descriptor_limit() // 4)
        for place in (*(row.place for row in rows), *(entries.of_pool() if pool else ())):
            request, fd = entries.request(place, now), entries.socket(place)
            if request is None or fd < 0:
                continue
            if len(self._taken) >= room:
                return
            try:
                taken = process.take_descriptor(pidfd, fd)
            except OSError:
                return  # not to be had, nor are the others
            sock = _connected(taken)
            if sock is not None:
                self._taken[request.place, request.began] = sock

    def tell(self, left: list[Request]) -> dict[int, int]:
        """The process is dead, and has left these. Returns the bytes of body sent, by place."""
        told: dict[int, int] = {}
        for request in left:
            sock = self._taken.get((request.place, request.began))
            if sock is not None and request.untouched:
                data = self._answer(request.line, request.id)
                with contextlib.suppress(OSError):  # it has left, or never reads
                    if sock.send(data, _NOW_FLAGS | NO_SIGPIPE) == len(data):
                        told[request.place] = len(data.partition(b"\r\n\r\n")[2])
                _drain(sock)
        self.close()
        return told

    def close(self) -> None:
        for sock in self._taken.values():
            sock.close()
        self._taken.clear()


def _connected(fd: int) -> socket.socket | None:
    """The socket, if that is what may be a client's; else it is closed."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None
    try:
        sock.getpeername()
        kinds = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
        if sock.family in kinds and sock.type == socket.SOCK_STREAM:
            return sock
    except OSError:
        pass  # it listens, or its client has left
    sock.close()
    return None


def _drain(sock: socket.socket) -> None:
    """No more follows; read what has come."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        for _ in range(_MAX_DRAIN_RECEIVES):
            if not sock.recv(_DRAIN_BYTES, _NOW_FLAGS):
                break
