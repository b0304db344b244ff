"""What the connections of a listener begin with: layers, a protocol, and the server's name and port.

A *layer* is a session that reads what a client sends before its first request, such as a proxy's header, and
then returns `Become` with the session that follows. The options say which layers a listener has, those of its
address first (`LAYERS`). The last session is the interface's own, unless the address names another protocol
for the same application (`PROTOCOLS`). A `Begin` is a value: the master makes it, and passes it on with a
listener (ipc/heritage.py), or as a text with each socket that it has accepted (master/dispatcher.py). A child
binds it to its interface; the result makes the first session of each connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from forkd.config import Config
from forkd.errors import ForkdError
from forkd.session import proxy_header
from forkd.session.seam import Await, Host, Interface, Peer, Session
from forkd.session.uwsgi import Uwsgi
from forkd.system.address import Address

#: Makes a session of a connection, a Peer, given the bytes that were received before it, if there are any.
Make = Callable[..., Session]


class Layer(Protocol):
    """One per child and listener, so that its `Await`s are made once."""

    def session(self, following: Make, peer: Peer, data: bytes = b"") -> Session:
        """Read the layer's part, of which `data` may be the beginning. Ends the connection, or returns
        `Become` with what `following` makes, given the bytes that were received after that part. Before that
        it may set the client's and the server's address of `peer`."""
        ...

    def opening(self, following: Await | None) -> Await | None:
        """What the session waits in first, if native code may read the layer's part there, and goes on in the
        Await `following`, which is what comes after the layer."""
        ...


class LayerRow(NamedTuple):
    name: str
    #: Whether the connections of a listener with this address pass it.
    wanted: Callable[[Address, Config], bool]
    make: Callable[[Config, Host], Layer]


#: In the order in which a connection passes them.
LAYERS: tuple[LayerRow, ...] = (LayerRow("proxy", proxy_header.wanted, proxy_header.ProxyHeader),)

#: By the option of an address: makes the sessions in place of an interface that serves requests. One per
#: child and listener.
PROTOCOLS: dict[str, Callable[[Any, Config, Host], Interface]] = {"uwsgi": Uwsgi}


@dataclass(frozen=True)
class BoundBegin:
    """A Begin in a child, with what that serves."""

    server: str
    port: int
    #: Makes the first session of a connection.
    session: Make
    #: What that waits in first, if native code may serve it there without a session.
    opening: Await | None
    #: What a connection begins with whose layer native code has read.
    following: BoundBegin | None = None


@dataclass(frozen=True)
class Begin:
    server: str  # SERVER_NAME and SERVER_PORT
    port: int
    layers: tuple[str, ...] = ()
    protocol: str = ""  # "": the interface's own

    @classmethod
    def of(cls, address: Address, config: Config, server: str, port: int) -> Begin:
        """Of a listener with this address, as configured. `server`, `port`: where it really listens."""
        layers = tuple(row.name for row in LAYERS if row.wanted(address, config))
        return cls(server, port, layers, address.protocol)

    @classmethod
    def parse(cls, text: str) -> Begin:
        """What `str` has made."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**{**fields, "layers": tuple(fields["layers"])})

    def __str__(self) -> str:
        return json.dumps(vars(self))

    def bind(self, interface: Interface, config: Config, host: Host) -> BoundBegin:
        """Raises ForkdError for a layer or a protocol that this version does not have: to leave out what says
        who a client is, or who may be one, would be worse than no service."""
        unknown = sorted(set(self.layers) - {row.name for row in LAYERS})
        unknown += [self.protocol] if self.protocol not in ("", *PROTOCOLS) else []
        if unknown:
            raise ForkdError(
                f"connections of {self.server}:{self.port} begin with {', '.join(unknown)}, which this "
                "version of forkd does not have"
            )
        if self.protocol:
            interface = PROTOCOLS[self.protocol](interface, config, host)
        bound = BoundBegin(self.server, self.port, interface.session, interface.opening)
        for row in reversed(LAYERS):
            if row.name in self.layers:
                layer = row.make(config, host)
                make, opening = partial(layer.session, bound.session), layer.opening(bound.opening)
                bound = BoundBegin(self.server, self.port, make, opening, bound)
        return bound
