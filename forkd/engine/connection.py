"""One accepted connection: its socket, its session, and the blocking calls for application code.

Made and owned by a driver, in a child.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
from collections.abc import Callable
from typing import Any, Protocol

from forkd.engine.deadlines import NEVER, NOWHERE
from forkd.engine.hijack import HijackedSocket
from forkd.engine.link import Link
from forkd.session.begin import BoundBegin
from forkd.session.seam import (
    Await,
    ClientGone,
    Exchange,
    FileFailed,
    Log,
    Multiplexed,
    Patience,
    Recorder,
    SendFile,
    Session,
)
from forkd.system.cells import RECEIVED, SENT
from forkd.system.forked import in_fork
from forkd.system.originals import get_ident, monotonic, select, socket
from forkd.system.sigpipe import NO_SIGPIPE, without_sigpipe
from forkd.system.sockets import data_age

#: Bytes that are received by one call.
CHUNK_BYTES = 65536
#: Chunks that the other connections wait for at most while one client sends faster than it is received from.
_TURN_CHUNKS = 16

_NOTHING_YET = Await("start", 0, read=False)

#: As a plain number: the flags of the socket module are made anew for each `|`.
_NOW_FLAGS = int(socket.MSG_DONTWAIT)
_LOOK_FLAGS = int(socket.MSG_PEEK) | _NOW_FLAGS
#: What sendfile(2) says of the file, and not of the socket.
_FILE_ERRNOS = frozenset((errno.EIO, errno.EINVAL, errno.ESTALE, errno.EOVERFLOW))
#: A head goes in one packet with what follows it.
_MORE_FLAGS = int(socket.MSG_MORE) | NO_SIGPIPE


class Owner(Protocol):
    """The loop that has a connection."""

    def woken(self, conn: Any) -> None:
        """A session's needs have changed: `Peer.wake`."""

    def run_apart(self, exchange: Multiplexed) -> bool:
        """A session has yielded this. Whether its step runs elsewhere. Called in the session's thread."""
        ...


class FilePiece:
    """The part of a file that is left to send."""

    __slots__ = ("count", "fd", "offset")

    def __init__(self, fd: int, offset: int, count: int) -> None:
        self.fd = fd
        self.offset = offset
        self.count = count


class _Filling:
    """recv(2) into memory that a session has provided, one piece behind the other."""

    def __init__(self, sock: socket.socket, buffer: memoryview) -> None:
        self._recv_into = sock.recv_into
        self._buffer = buffer

    def recv(self, size: int, flags: int = 0) -> memoryview:
        """Up to `_TURN_CHUNKS` times `size` bytes while there are more of them: the client's window opens
        with each call, so that it goes on sending meanwhile; and what is received together stays in the
        processor's caches until it is read."""
        buffer, count = self._buffer, 0
        most = min(len(buffer), size * _TURN_CHUNKS)
        while count < most:
            try:
                got = self._recv_into(buffer[count:], min(size, most - count), flags)
            except BlockingIOError:
                if not count:
                    raise
                break
            count += got
            if got < size:
                break
            flags = _NOW_FLAGS
        self._buffer = buffer[count:]
        return buffer[:count]


class Connection(Link):
    """Implements `Peer` of session/seam.py."""

    direct = True

    __slots__ = (
        "_filling",
        "client_port",
        "ended",
        "exchange",
        "hijacked",
        "mask",
        "out",
        "owner",
        "proxy",
        "push_seconds",
        "resume",
        "server",
        "server_port",
        "session",
        "sock",
    )

    def __init__(
        self,
        sock: socket.socket,
        client: Any,
        begin: BoundBegin,
        push_seconds: float,
        owner: Owner,
        recorder: Recorder,
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        #: What receives while a session has memory of its own for that.
        self._filling: _Filling | None = None
        # A unix peer has no address worth telling: accept(2) returns an empty name.
        self.client, self.client_port = client[:2] if isinstance(client, tuple) else ("", 0)
        self.server = begin.server
        self.server_port = begin.port
        self.proxy: dict[str, Any] | None = None
        self.push_seconds = push_seconds
        self.owner = owner
        self.recorder = recorder
        self.exchange = Exchange()
        self.moved = 0
        self.mask: int | None = None  # in the handle set: for what; None when it is not in it
        self.hijacked = 0  # the thread in which the session has the socket itself
        self.ended = False
        self.forks = in_fork.forks
        self.op = _NOTHING_YET
        self.out: list[memoryview | FilePiece] = []
        self.deadline = NEVER
        self.bucket = NOWHERE
        self.session: Session = begin.session(self)
        self.resume = self.session.send

    def become(self, session: Session) -> Callable[[Any], Any]:
        """Go on with this session, whose predecessor has returned it. Returns what resumes it."""
        self.session = session
        self.resume = session.send
        return self.resume

    # ---- its bytes: nothing else receives or sends any (tests/engine/test_bytes_move.py) ------------

    def receive(self, size: int, flags: int = 0) -> bytes | memoryview:
        """What has come, at most `size` bytes of it, or more into memory of the session's; b"" at EOF. Raises
        BlockingIOError when nothing has, and OSError when the client has left."""
        filling = self._filling  # a bound method for each connection would be memory for nothing
        data = self.sock.recv(size, flags) if filling is None else filling.recv(size, flags)
        self.moved += len(data)
        self.recorder.add(RECEIVED, len(data))
        return data

    def transmit(
        self, item: bytes | memoryview | tuple[bytes | memoryview, ...] | FilePiece, more: bool = False
    ) -> int:
        """Send what can be sent now. Returns how many bytes; 0, too, when the socket is full. `more`: what
        follows may go in the same packet. Raises OSError: the client has left, or the file broke off."""
        flags = _MORE_FLAGS if more else NO_SIGPIPE
        try:
            if isinstance(item, (bytes, memoryview)):
                sent = self.sock.send(item, flags)
            elif isinstance(item, tuple):
                sent = self.sock.sendmsg(item, (), flags)
            else:
                sent = without_sigpipe(os.sendfile, self.fd, item.fd, item.offset, item.count)
                if not sent and item.count:
                    raise ConnectionAbortedError("the file became shorter while it was sent")
        except BlockingIOError:
            return 0
        self.moved += sent
        self.recorder.add(SENT, sent)
        return sent

    def has_input(self) -> bool:
        """Whether the client has sent something that was not read."""
        try:
            return bool(self.sock.recv(1, _LOOK_FLAGS))
        except BlockingIOError:
            return False

    # ---- what waits to be sent ------------------------------------------------------------

    def queue(self, op: tuple[bytes | memoryview, ...] | SendFile) -> None:
        """Put what a session yielded into `out`."""
        if type(op) is tuple:
            self.out.extend(memoryview(buffer) for buffer in op)
        elif type(op) is SendFile:
            self.out.append(memoryview(op.head))
            self.out.append(FilePiece(op.fd, op.offset, op.count))
        else:
            raise TypeError(f"a session yielded {op!r}")

    def put(self, op: tuple[bytes | memoryview, ...] | SendFile) -> bool:
        """Queue it, and send what can be sent now, as flush does."""
        if type(op) is not tuple or self.out:
            self.queue(op)
            return self.flush()
        sent = self.transmit(op)
        for buffer in op:
            if sent < len(buffer):
                self.out.append(memoryview(buffer)[sent:])
            sent = max(0, sent - len(buffer))
        return not self.out

    def hijack(self) -> HijackedSocket:
        """Give the socket away to the session, blocking, until it returns."""
        self.hijacked = get_ident()
        self.sock = taken = HijackedSocket(self.sock, self.recorder)
        taken.settimeout(None)
        return taken

    def close(self) -> None:
        if self.forks != in_fork.forks:
            # A process that was forked meanwhile may hold a copy, and the client would wait for the end.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        self.sock.close()

    def has_come(self) -> bool:
        """As `has_input`, just before the connection is given up: wherever it may be by now."""
        return self.has_input()

    def end(self, log: Log) -> None:
        """End the session where it stands; its `finally` clauses run."""
        self.ended = True
        try:
            try:
                self.session.close()
            finally:
                if self.call is not None:
                    self.call.gone()
        except BaseException:  # also what an application's close() raises
            log.exception("a session failed while it was being closed")

    def flush(self) -> bool:
        """Send what is queued; True when nothing is left. Raises OSError when the client has left."""
        out = self.out
        while out:
            item = out[0]
            size = item.count if isinstance(item, FilePiece) else len(item)
            sent = self.transmit(item, more=len(out) > 1) if size else 0
            if sent == size:
                del out[0]
            elif not sent:
                return False
            elif isinstance(item, FilePiece):
                item.offset += sent
                item.count -= sent
            else:
                out[0] = item[sent:]
        return True

    # ---- session.Peer ---------------------------------------------------------------------

    def push(self, data: bytes) -> None:
        self.out.append(memoryview(data))
        self.push_out()

    def push_out(self) -> None:
        """Send what is queued, blocking. Raises ClientGone."""
        patience = Patience(self.push_seconds)
        try:
            while True:
                began, moved = monotonic(), self.moved
                if self.flush():
                    return
                if not self._poll(select.POLLOUT, patience.left):
                    raise ClientGone("the client stopped reading")
                patience.waited(began, self.moved - moved)
        except OSError as error:
            self.out.clear()
            raise ClientGone("the client left while it was being answered") from error

    def _poll(self, mask: int, seconds: float) -> bool:
        poller = select.poll()
        poller.register(self.fd, mask)
        return bool(poller.poll(None if seconds == NEVER else seconds * 1000))

    def send(self, data: bytes | memoryview, more: bool = False) -> int:
        try:
            return self.transmit(data, more)
        except OSError as error:
            raise ClientGone("the client has left") from error

    def send_file(self, fd: int, offset: int, count: int) -> int:
        try:
            return self.transmit(FilePiece(fd, offset, count))
        except ConnectionAbortedError as error:
            raise FileFailed(str(error)) from None
        except OSError as error:
            if error.errno in _FILE_ERRNOS:
                raise FileFailed(str(error)) from None
            raise ClientGone("the client has left") from error

    def fill(self, buffer: memoryview | None) -> int:
        if buffer is None:
            self._filling = None
            return 0
        self._filling = _Filling(self.sock, buffer)
        try:
            return len(self.receive(CHUNK_BYTES, _NOW_FLAGS))
        except OSError:  # the next receive will see it, or the end
            return 0

    def shutdown(self) -> bool:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise ClientGone("the client has left") from error
        return True

    def waited(self) -> float:
        age = data_age(self.sock)
        if age is None:  # a unix socket does not say how long it has waited until now
            lent = self.exchange.lent
            age = monotonic() - lent if lent else 0.0
        return age

    def run_apart(self, exchange: Multiplexed) -> bool:
        return self.owner.run_apart(exchange)

    def wake(self) -> None:
        if inspect.getgeneratorstate(self.session) != inspect.GEN_RUNNING:
            self.owner.woken(self)
