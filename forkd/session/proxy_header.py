"""The layer that reads the header of the PROXY protocol: see session/begin.py. In a child.

On a listener that has it, each connection begins with such a header, from a peer of --forwarded-allow. Any
other connection is closed, and nothing is sent: whether there is a header must not be a guess, or a client
could send one of its own. From there on the client is the one that the proxy names; where it names none (a
probe of its own, a client without an IP address), the peer is the proxy itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forkd.config import Config
from forkd.native import pick
from forkd.session.closed import Closed
from forkd.session.proxy_protocol import Header, Malformed, NotAHeader, parse
from forkd.session.seam import ANY_BYTES_PER_SECOND, Await, Become, Deadline, Host, Peer, Session
from forkd.system.address import Address
from forkd.system.cells import PROXY_INCOMPLETE, PROXY_MALFORMED, PROXY_MISSING, PROXY_UNTRUSTED


def wanted(address: Address, config: Config) -> bool:
    return config.proxy_protocol if address.proxy is None else address.proxy


class _Untrusted(Exception):
    """The peer is none of --forwarded-allow."""


class ProxyHeader:
    def __init__(self, config: Config, host: Host) -> None:
        self._allows = config.forwarded_allow.allows
        self._closed = Closed(host, "forkd_proxy_headers_refused_total")
        seconds = config.header_timeout
        self._first = Await("PROXY header", seconds, rate=ANY_BYTES_PER_SECOND, idle=True)
        self._more = Await("rest of the PROXY header", seconds)
        self._shortcut = pick("ProxyShortcut", None, config.native)

    def opening(self, following: Await | None) -> Await | None:
        make: Any = self._shortcut
        if make is None or following is None:
            return None
        self._first.shortcut = make(allows=self._allows, opening=following)
        self._first.then = following.then or following
        return self._first

    def session(
        self, following: Callable[..., Session], peer: Peer, data: bytes | bytearray = b""
    ) -> Session:
        try:
            while (header := self._read(peer, data) if data else None) is None:
                came = yield self._more if data else self._first
                if not came:
                    if data:
                        self._closed.note(peer, PROXY_INCOMPLETE, "its end came within the PROXY header")
                    return None
                if not data:
                    data = came
                else:
                    data = bytearray(data) if type(data) is bytes else data
                    data += came
        except _Untrusted:
            self._closed.note(peer, PROXY_UNTRUSTED, "not a peer of --forwarded-allow")
            return None
        except NotAHeader:
            self._closed.note(peer, PROXY_MISSING, "no PROXY header")
            return None
        except Malformed as error:
            self._closed.note(peer, PROXY_MALFORMED, f"a malformed PROXY header: {error}")
            return None
        except Deadline:
            if data:
                self._closed.note(peer, PROXY_INCOMPLETE, "the PROXY header did not arrive in time")
            return None
        _take(peer, header)
        return Become(following(peer, bytes(data[header.size :])))

    def _read(self, peer: Peer, data: bytes | bytearray) -> Header | None:
        if not self._allows(peer.client):
            raise _Untrusted
        return parse(data)


def _take(peer: Peer, header: Header) -> None:
    peer.proxy = {**header.facts, "peer": (peer.client, peer.client_port)}
    if header.ends is not None:
        (peer.client, peer.client_port), (peer.server, peer.server_port) = header.ends
