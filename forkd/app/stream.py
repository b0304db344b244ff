"""TCP protocols of the user's own: handler classes written for the standard library, unchanged.

`asyncio.Protocol` subclasses run on a real asyncio loop, over a transport whose bytes go through
the model. `socketserver.BaseRequestHandler` subclasses block, so they get the socket itself and
their thread until they return.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import socketserver
from collections.abc import Callable, Iterable
from typing import Any

from forkd.app.session import (
    ANY_BYTE,
    SLOWEST,
    TAKE,
    Await,
    ClientGone,
    Deadline,
    Host,
    Interface,
    Peer,
    Session,
)
from forkd.config import Config

_HIGH_WATER = 65536


def make(app: Any, config: Config, host: Host) -> Interface:
    """The interface for a handler class, or for a factory of protocols."""
    if inspect.isclass(app) and issubclass(app, socketserver.BaseRequestHandler):
        return Blocking(app, config, host)
    return Evented(app, config, host)


class Blocking:
    """Sessions that run a socketserver request handler."""

    name = "stream"
    needs_loop = False

    def __init__(
        self, handler: type[socketserver.BaseRequestHandler], config: Config, host: Host
    ) -> None:
        self._handler = handler
        self._host = host
        self._idle = config.idle_timeout or None

    def session(self, peer: Peer) -> Session:
        sock: socket.socket = yield TAKE
        sock.settimeout(self._idle)
        server = socketserver.BaseServer((peer.server, peer.server_port), self._handler)
        began = self._host.ledger.begin(b"stream")
        self._host.ledger.pause()  # a conversation may be long: --timeout is for requests
        try:
            self._handler(sock, (peer.client, peer.client_port), server)
        except TimeoutError:
            # The handler may have set a timeout of its own.
            limit = sock.gettimeout()
            idle = f"idle for {limit:g} s" if limit else "timed out"
            self._host.log.info(f"{peer.client}: {idle}; closed")
        except (ConnectionResetError, BrokenPipeError, ConnectionAbortedError):
            pass  # the client left
        except Exception:
            self._host.log.exception(
                f"the handler failed; its connection from {peer.client} is closed"
            )
        finally:
            self._host.ledger.end(began, 0)


class Evented:
    """Sessions that drive an asyncio protocol. `factory` is a Protocol class or a callable."""

    name = "stream"
    needs_loop = True

    def __init__(
        self, factory: Callable[[], asyncio.BaseProtocol], config: Config, host: Host
    ) -> None:
        self._factory = factory
        self._host = host
        idle, stuck = config.idle_timeout, config.write_timeout
        self.reading = Await("stream", idle, rate=ANY_BYTE)
        self.both = Await("stream", stuck or idle, rate=SLOWEST, write=True)
        self.writing = Await("stream", stuck, rate=SLOWEST, read=False, write=True)
        self.paused = Await("stream", 0, read=False)

    def session(self, peer: Peer) -> Session:
        protocol = self._factory()
        transport = Transport(peer, protocol)
        ledger = self._host.ledger
        began = ledger.begin(b"stream")
        ledger.pause()
        reason: Exception | None = None
        try:
            protocol.connection_made(transport)
            while not transport.finished():
                data = yield transport.need(self)
                if data is None:
                    transport.flush()
                elif data:
                    transport.deliver(data)
                elif transport.eof():
                    break
        except Deadline:
            reason = TimeoutError("the peer was idle, or did not read, for too long")
            self._host.log.info(f"{peer.client}: {reason}; closed")
        except (ClientGone, ConnectionError) as gone:
            reason = gone
        except GeneratorExit:
            reason = ConnectionAbortedError("the connection was closed")
            raise
        except Exception as failure:
            reason = failure
            self._host.log.exception(
                f"the protocol failed; its connection from {peer.client} is closed"
            )
        finally:
            transport.closed = True
            try:
                protocol.connection_lost(reason)
            except Exception:
                self._host.log.exception("connection_lost failed")
            ledger.end(began, 0)


class Transport(asyncio.Transport):
    """What an asyncio protocol writes to. Lives on the loop's thread."""

    def __init__(self, peer: Peer, protocol: asyncio.BaseProtocol) -> None:
        super().__init__(
            {
                "peername": (peer.client, peer.client_port),
                "sockname": (peer.server, peer.server_port),
            }
        )
        self.closed = False
        self._peer = peer
        self._protocol = protocol
        self._backlog = bytearray()
        self._closing = False
        self._eof_sent = False
        self._reading = True
        self._at_eof = False
        self._paused = False
        self._low, self._high = _HIGH_WATER // 4, _HIGH_WATER

    # ---- called by the session ------------------------------------------------------------

    def need(self, interface: Evented) -> Await:
        """What the connection now waits for."""
        reading = self._reading and not self._at_eof and not self._closing
        if self._backlog:
            return interface.both if reading else interface.writing
        return interface.reading if reading else interface.paused

    def finished(self) -> bool:
        return self._closing and not self._backlog

    def deliver(self, data: bytes) -> None:
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            view = memoryview(data)
            while view:
                buffer = memoryview(self._protocol.get_buffer(len(view))).cast("B")
                count = min(len(buffer), len(view))
                buffer[:count] = view[:count]
                self._protocol.buffer_updated(count)
                view = view[count:]
        else:
            self._protocol.data_received(data)  # type: ignore[attr-defined]

    def eof(self) -> bool:
        """The client sends no more. True when the connection is over."""
        self._at_eof = True
        keep_open = self._protocol.eof_received()  # type: ignore[attr-defined]
        if not keep_open:
            self._closing = True
        return self.finished()

    def flush(self) -> None:
        """Send from the backlog. Raises ClientGone."""
        while self._backlog:
            # The view must be gone before the bytearray may shrink.
            with memoryview(self._backlog) as view, view[:262144] as piece:
                sent = self._peer.send(piece)
            if not sent:
                break
            del self._backlog[:sent]
        if self._paused and len(self._backlog) <= self._low:
            self._paused = False
            self._protocol.resume_writing()

    # ---- asyncio.Transport ----------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self.closed or not data:
            return  # asyncio's own transports drop it too
        data = bytes(data)
        if not self._backlog:
            try:
                data = data[self._peer.send(data) :]
            except ClientGone:
                self.abort()
                return
            if not data:
                return
        self._backlog += data
        if len(self._backlog) > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()
        self._peer.wake()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self._closing and not self.closed:
            self._closing = True
            self._peer.wake()

    def abort(self) -> None:
        if not self.closed:
            self._backlog.clear()
            self._closing = True
            self._peer.wake()

    def is_closing(self) -> bool:
        return self._closing or self.closed

    def pause_reading(self) -> None:
        self._reading = False
        self._wake()

    def resume_reading(self) -> None:
        self._reading = True
        self._wake()

    def _wake(self) -> None:
        if not self.closed:
            self._peer.wake()

    def is_reading(self) -> bool:
        return self._reading and not self.is_closing()

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return len(self._backlog)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = 4 * low if low is not None else _HIGH_WATER
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) must be >= 0")
        self._low, self._high = low, high

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
