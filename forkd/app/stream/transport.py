"""The transport of an asyncio protocol: an asyncio.Transport whose bytes go through the model.

Made by the session of each asyncio stream (handlers.py). Lives on the loop's thread, in a child. As in
asyncio, what a protocol asks for takes effect after it has returned: the session is woken, and
`connection_lost` called, by the loop.
"""

from __future__ import annotations

import asyncio
from asyncio.trsock import TransportSocket
from collections.abc import Iterable

from forkd.app.stream import flow
from forkd.session.fronts import facts_of
from forkd.session.seam import ClientGone, Log, Peer
from forkd.system.forked import call, in_fork, leave

_HIGH_WATER_BYTES = 65536
_PIECE_BYTES = 262144  # bytes of the backlog that are offered to the socket at once


class Transport(asyncio.Transport):
    def __init__(
        self, peer: Peer, protocol: asyncio.BaseProtocol, log: Log, native: bool = True
    ) -> None:
        """`native`: what is plain goes past this object, through native code where it was built."""
        super().__init__(
            {
                "peername": (peer.client, peer.client_port),
                "sockname": (peer.server, peer.server_port),
                "socket": TransportSocket(peer.sock),
                "log": log,
                "proxy": None if peer.proxy is None else facts_of(peer.proxy),
            }
        )
        #: Why the connection is over, where that was not the protocol's wish.
        self.failure: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._flow = flow.make(peer, self.write, native)
        if not isinstance(self._flow, flow.Flow):
            # In front of the method `write`, which goes on from there.
            vars(self)["write"] = self._flow.write
        self.set_protocol(protocol)
        self._log = log
        self._unread = b""  # received, and the protocol has paused reading
        self._backlog = bytearray()  # written, and not yet sent
        self._reading = True
        self._at_eof = False  # the client sends no more
        self._eof_told = False  # and the protocol knows
        self._eof_asked = False  # the protocol writes no more
        self._eof_sent = False
        self._closing = False
        self._closed = False
        self._waking = False
        self._writing_paused = False
        self._low, self._high = _HIGH_WATER_BYTES // 4, _HIGH_WATER_BYTES

    # ---- called by the session ------------------------------------------------------------

    def needs(self) -> tuple[bool, bool] | None:
        """The needs of the session, which are input and room for output; None when all is said, by one
        side or by both."""
        found = self._needs()
        self._flow.plain = found == (True, False) and not (
            self._buffered or self._unread or self._eof_asked or self._closing
        )
        return found

    def _needs(self) -> tuple[bool, bool] | None:
        if self._closing or self._at_eof or self._eof_asked:
            if not self._backlog and (self._closing or (self._eof_told and self._eof_sent)):
                return None
            more = bool(self._backlog) or (self._eof_asked and not self._eof_sent)
            return self._reading and not self._at_eof and not self._closing, more
        return self._reading, bool(self._backlog)

    def rests(self) -> bool:
        """Whether nothing has moved since the last call, and nothing is under way: the last bytes were
        the server's, or there were none."""
        quiet, self._flow.quiet = self._flow.quiet, True
        return quiet and not self._flow.owed and self._needs() == (True, False)

    def connected(self) -> None:
        call(self._protocol.connection_made, self)

    def deliver(self, data: bytes) -> None:
        """Give the protocol what came, the end included, until it pauses or closes."""
        if data:
            self._flow.owed, self._flow.quiet = True, False
        if self._unread:
            data = self._unread + data
        while data and self._reading and not self._closing:
            protocol = self._protocol  # may be another one after each call
            if self._buffered:
                assert isinstance(protocol, asyncio.BufferedProtocol)
                buffer = memoryview(protocol.get_buffer(len(data))).cast("B")
                if in_fork:
                    leave()
                count = min(len(buffer), len(data))
                if not count:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                buffer[:count] = data[:count]
                protocol.buffer_updated(count)
            else:
                count = len(data)
                protocol.data_received(data)  # type: ignore[attr-defined]
            if in_fork:
                leave()
            data = data[count:]
        self._unread = data
        if self._at_eof and not self._eof_told and not data and self.is_reading():
            self._eof_told = True
            if not call(self._protocol.eof_received):  # type: ignore[attr-defined]
                self._closing = True

    def eof(self) -> None:
        """The client sends no more."""
        self._at_eof = self._flow.owed = True
        self._flow.plain = False
        self.deliver(b"")

    def woken(self) -> None:
        """The socket is writable, or the protocol has changed its mind. Raises ClientGone."""
        while self._backlog:
            # The view must be gone before the bytearray may shrink.
            with memoryview(self._backlog) as view, view[:_PIECE_BYTES] as piece:
                sent = self._peer.send(piece)
            if not sent:
                break
            self._flow.quiet = False
            del self._backlog[:sent]
        if self._eof_asked and not self._eof_sent and not self._backlog:
            self._eof_sent = self._peer.shutdown()
        if self._writing_paused and len(self._backlog) <= self._low:
            self._writing_paused = False
            call(self._protocol.resume_writing)
        self.deliver(b"")

    def lost(self, reason: Exception | None) -> None:
        """The connection is over."""
        self._closed = True
        # A native flow refers to the transport, which would be garbage that only the collector finds.
        self._flow = self._peer.note = flow.Flow()
        vars(self).pop("write", None)
        self._loop.call_soon(self._tell, reason)

    def _tell(self, reason: Exception | None) -> None:
        try:
            call(self._protocol.connection_lost, reason)
        except BaseException:  # also SystemExit: the protocol failed, no more
            self._log.exception("connection_lost failed")

    def cut(self, reason: Exception) -> None:
        """Close now; the protocol is told why."""
        self.failure = reason
        self.abort()

    # ---- asyncio.Transport ----------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._eof_asked:
            raise RuntimeError("write() after write_eof()")
        if type(data) is not bytes:
            data = memoryview(data).tobytes()  # the content, whatever the methods of a subclass say
        if self._closing or self._closed or not data:
            return  # asyncio's own transports drop it too
        self._flow.owed = self._flow.quiet = False
        if not self._backlog:
            try:
                sent = self._peer.send(data)
            except ClientGone as gone:
                self.cut(gone)
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._backlog += data
        if len(self._backlog) > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()
        self._wake()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self.is_closing() and not self._eof_asked:
            self._eof_asked = True
            self._wake()

    def close(self) -> None:
        if not self.is_closing():
            self._closing = True
            self._wake()

    def abort(self) -> None:
        if not self._closed:
            self._backlog.clear()
            self._closing = True
            self._wake()

    def is_closing(self) -> bool:
        return self._closing or self._closed

    def pause_reading(self) -> None:
        self._reading = False
        self._wake()

    def resume_reading(self) -> None:
        self._reading = True
        self._wake()

    def is_reading(self) -> bool:
        return self._reading and not self.is_closing()

    def get_write_buffer_size(self) -> int:
        return len(self._backlog)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = 4 * low if low is not None else _HIGH_WATER_BYTES
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) must be >= 0")
        self._low, self._high = low, high

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)
        if self._buffered:
            self._flow.plain = False
        else:
            self._flow.protocol = protocol

    def _wake(self) -> None:
        self._flow.plain = False  # until the session has asked for our needs
        if not self._waking and not self._closed:
            self._waking = True
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._waking = False
        if not self._closed:
            self._peer.wake()
