"""A TCP relay: `forkd start "forkd.app.relay:to('127.0.0.1:5432')"`.

Each client gets a connection of its own to the upstream. Bytes pass both ways, and each side reads
no faster than the other writes. With `proxy_protocol` the upstream gets a header of the PROXY protocol
first, with the client's address and what a proxy in front has said of it. The dial does not block:
connect(2) answers EINPROGRESS, the socket turns writable, SO_ERROR says how it went (asyncio's
sock_connect). An asyncio protocol like any other, running in the children.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import cast

from forkd.session.proxy_protocol import compose
from forkd.system.address import Address
from forkd.system.originals import socket


def to(
    upstream: str, connect_timeout: float = 5.0, proxy_protocol: bool = False
) -> Callable[[], Relay]:
    """A factory of protocols that relay to `upstream` (`host:port`, `[v6]:port`, `unix:/path`).

    `connect_timeout`: seconds that dialling may take. `proxy_protocol`: whether the upstream gets a header of
    the PROXY protocol, version 2, in front of each client's bytes. Raises ValueError for a bad address.
    """
    address = Address.parse(upstream)
    if address.kind == "fd" or (address.kind != "unix" and not address.port):
        raise ValueError(f"{upstream!r} is no address to connect to")

    def relay() -> Relay:
        return Relay(address, connect_timeout, proxy_protocol)

    relay.forkd_interface = "stream"  # type: ignore[attr-defined]
    return relay


class Relay(asyncio.Protocol):
    """The client's side."""

    def __init__(self, address: Address, connect_timeout: float, proxy_protocol: bool = False) -> None:
        self._address = address
        self._timeout = connect_timeout
        self._proxy_protocol = proxy_protocol
        self._upstream: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.client = transport
        transport.pause_reading()
        self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock = await asyncio.wait_for(self._connect(loop), self._timeout)
            if sock.family == socket.AF_UNIX:
                await loop.create_unix_connection(lambda: Upstream(self), sock=sock)
            else:
                await loop.create_connection(lambda: Upstream(self), sock=sock)
        except TimeoutError:
            self._give_up(f"no answer within {self._timeout:g} s")
        except socket.gaierror as error:
            self._give_up(str(error.strerror))
        except OSError as error:
            self._give_up(os.strerror(error.errno) if error.errno else str(error))
        except UnicodeError:
            self._give_up("that is no host name")

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        address = self._address
        if address.kind == "unix":
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            try:
                # At once, or not: EAGAIN means that its queue is full, and nothing is under way.
                sock.connect(address.path)
            except BaseException:
                sock.close()
                raise
            return sock
        family = socket.AF_INET6 if address.kind == "tcp6" else socket.AF_INET
        found = await loop.getaddrinfo(
            address.host, address.port, family=family, type=socket.SOCK_STREAM
        )
        sock = socket.socket(family)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, found[0][4])
        except BaseException:
            sock.close()
            raise
        return sock

    def _give_up(self, why: str) -> None:
        self.client.get_extra_info("log").error(f"upstream {self._address}: {why}; client closed")
        self.client.abort()

    def upstream_made(self, upstream: asyncio.Transport) -> None:
        if self.client.is_closing():
            upstream.abort()
            return
        self._upstream = upstream
        if self._proxy_protocol:
            upstream.write(self._header())
        self.client.resume_reading()

    def _header(self) -> bytes:
        client = self.client.get_extra_info
        source, destination, proxy = client("peername"), client("sockname"), client("proxy") or {}
        return compose((source, destination) if source[0] else None, proxy.get("tlvs", ()))

    def data_received(self, data: bytes) -> None:
        assert self._upstream is not None  # reading was paused until it was there
        self._upstream.write(data)

    def eof_received(self) -> bool:
        """A half-close is passed on; the other direction goes on until the upstream closes."""
        if self._upstream is not None and self._upstream.can_write_eof():
            self._upstream.write_eof()
            return True
        return False

    def pause_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        if self._upstream is not None:
            self._upstream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._dialling.cancel()
        if self._upstream is not None:
            self._upstream.close()


class Upstream(asyncio.Protocol):
    """The upstream's side of one relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._relay.upstream_made(cast(asyncio.Transport, transport))  # uvloop's are of no such class

    def data_received(self, data: bytes) -> None:
        self._relay.client.write(data)

    def pause_writing(self) -> None:
        self._relay.client.pause_reading()

    def resume_writing(self) -> None:
        self._relay.client.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.client.close()
