"""Both ends of a connection, as texts: what an application is told of it with each request. In a child."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forkd.native import pick


class PythonEnds:
    """The twin of native/session_ends.c. `proxy`: as `Peer.proxy` in session/seam.py."""

    __slots__ = ("client", "client_port", "port", "proxy", "server")

    def __init__(
        self, *, server: str, port: str, client: str, client_port: str, proxy: dict[str, Any] | None = None
    ) -> None:
        self.server = server
        self.port = port
        self.client = client
        self.client_port = client_port
        self.proxy = proxy


if TYPE_CHECKING:
    Ends = PythonEnds
else:
    Ends = pick("Ends", PythonEnds)
