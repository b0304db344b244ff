"""TCP protocols of the user's own: handler classes written for the standard library, unchanged.

`asyncio.Protocol` subclasses run on a real asyncio loop, over a transport whose bytes go through
the model. `socketserver.BaseRequestHandler` subclasses block, so they get the socket itself and
their thread until they return.
"""

from __future__ import annotations

import asyncio
import socketserver
from collections.abc import Callable

from forkd.app.stream import flow
from forkd.app.stream.transport import Transport
from forkd.config import Config
from forkd.session.fronts import facts_of
from forkd.session.seam import (
    ANY_BYTES_PER_SECOND,
    HIJACK,
    SLOWEST_BYTES_PER_SECOND,
    Await,
    ClientGone,
    Deadline,
    Host,
    Peer,
    Session,
)
from forkd.system.forked import in_fork, leave

#: What a conversation has for a request line in the recorder (system/in_flight.py).
STREAM = b"stream"
#: While the process retires: how often it looks for streams that are at rest, seconds.
_REST_LOOK_SECONDS = 1.0
#: Of --graceful-timeout, after which streams are cut: what is left is for `connection_lost`.
_CUT_SHARE = 0.9


class Blocking:
    """Sessions that run a socketserver request handler."""

    opening: Await | None = None
    paced = False

    def __init__(
        self, handler: type[socketserver.BaseRequestHandler], config: Config, host: Host
    ) -> None:
        self._handler = handler
        self._host = host
        self._idle = config.idle_timeout or None
        self._clients: set[str] = set()

    def retire(self) -> None:
        """Handlers are not told of it, so the log says which clients are waited for."""
        if self._clients:
            self._host.log.info(f"waits for the handlers of {', '.join(sorted(self._clients))}")

    def session(self, peer: Peer, data: bytes = b"") -> Session:
        sock = yield HIJACK
        if data:
            sock.unread(data)
        sock.settimeout(self._idle)
        server = socketserver.BaseServer((peer.server, peer.server_port), self._handler)
        proxy = None if peer.proxy is None else facts_of(peer.proxy)
        server.forkd_proxy = proxy  # type: ignore[attr-defined]
        client = _name(peer)
        self._clients.add(client)
        recorder = self._host.recorder
        ticket = recorder.begin(STREAM, peer.client, peer.fd)
        recorder.pause()  # a conversation may be long: --timeout is for requests
        try:
            self._handler(sock, (peer.client, peer.client_port), server)
            if in_fork:
                leave()
        except BaseException as error:  # also SystemExit: the handler failed, no more
            if in_fork:
                leave(error)
            if not sock.caused(error):
                self._host.log.exception(
                    f"the handler failed; its connection from {peer.client} is closed"
                )
            elif isinstance(error, TimeoutError):
                # The handler may have set a timeout of its own.
                limit = sock.gettimeout()
                idle = f"idle for {limit:g} s" if limit else "timed out"
                self._host.log.info(f"{peer.client}: {idle}; closed")
        finally:
            self._clients.discard(client)
            recorder.end(ticket, 0, recorder.took(ticket))


class Evented:
    """Sessions that drive an asyncio protocol. `factory` is a Protocol class or a callable."""

    opening: Await | None = None
    paced = True

    def __init__(
        self, factory: Callable[[], asyncio.BaseProtocol], config: Config, host: Host
    ) -> None:
        self._factory = factory
        self._host = host
        self._graceful = config.graceful_timeout
        self._native = config.native
        self._streams: dict[Transport, str] = {}
        # Idle is a stream on which no byte moves, whatever it waits for; one that has something to
        # send must move SLOWEST_BYTES_PER_SECOND.
        idle = config.idle_timeout
        stuck = config.write_timeout or idle
        rate = SLOWEST_BYTES_PER_SECOND if config.write_timeout else ANY_BYTES_PER_SECOND
        #: By what is needed, input and room for output.
        self._awaits = {
            (True, False): Await(
                "stream", idle, rate=ANY_BYTES_PER_SECOND, shortcut=flow.SHORTCUT if config.native else None
            ),
            (False, False): Await("stream", idle, rate=ANY_BYTES_PER_SECOND, read=False),
            (True, True): Await("stream", stuck, rate=rate, write=True),
            (False, True): Await("stream", stuck, rate=rate, read=False, write=True),
        }

    def session(self, peer: Peer, data: bytes = b"") -> Session:
        protocol = self._factory()
        if in_fork:
            leave()
        transport = Transport(peer, protocol, self._host.log, self._native)
        self._streams[transport] = _name(peer)
        recorder = self._host.recorder
        ticket = recorder.begin(STREAM, peer.client, peer.fd)
        recorder.pause()
        reason: Exception | None = None
        try:
            transport.connected()
            if data:
                transport.deliver(data)
            while (needs := transport.needs()) is not None:
                data = yield self._awaits[needs]
                if data is None:
                    transport.woken()
                elif data:
                    transport.deliver(data)
                else:
                    transport.eof()
            reason = transport.failure
        except Deadline:
            reason = TimeoutError("the peer was idle, or did not read, for too long")
            self._host.log.info(f"{peer.client}: {reason}; closed")
        except ClientGone as gone:
            reason = gone
        except BaseException as failure:  # also CancelledError: the protocol failed, no more
            if in_fork:
                leave(failure)
            if peer.ended and isinstance(failure, GeneratorExit):
                reason = ConnectionAbortedError("the connection was closed")
                raise
            reason = failure if isinstance(failure, Exception) else None
            self._host.log.exception(
                f"the protocol failed; its connection from {peer.client} is closed"
            )
        finally:
            del self._streams[transport]
            transport.lost(reason)
            recorder.end(ticket, 0, recorder.took(ticket))

    # ---- the end --------------------------------------------------------------------------

    def retire(self) -> None:
        """Close the streams as they come to rest, and cut the others before the process is killed."""
        self._close_rested()
        asyncio.get_running_loop().call_later(self._graceful * _CUT_SHARE, self._cut)

    def _close_rested(self) -> None:
        for transport in list(self._streams):
            if transport.rests():
                transport.close()
        asyncio.get_running_loop().call_later(_REST_LOOK_SECONDS, self._close_rested)

    def _cut(self) -> None:
        if self._streams:
            who = ", ".join(self._streams.values())
            self._host.log.warning(f"--graceful-timeout is nearly over; streams cut: {who}")
        for transport in self._streams:
            transport.cut(ConnectionAbortedError("the process ends"))


def _name(peer: Peer) -> str:
    return f"{peer.client}:{peer.client_port}" if peer.client else "a unix client"
