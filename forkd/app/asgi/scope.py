"""A request head as a scope (ASGI's HTTP connection scope): what an application reads of it. In a child."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar
from urllib.parse import quote, unquote_to_bytes

from forkd.http.grammar import FORWARDED_NAMES, X_FORWARDED
from forkd.http.guard import Request
from forkd.session.fronts import facts_of
from forkd.session.seam import Peer

Scope = dict[str, Any]
T = TypeVar("T", bytes, str, tuple[bytes, bytes])

#: Of HTTP: from 2.4 on send() raises when the client has left, and Starlette no longer listens for that: its
#: streams would go on without a client until they send next.
HTTP_VERSION = {"version": "3.0", "spec_version": "2.3"}


class Names(dict[bytes, bytes]):
    """Header name -> in lower case; b"" for one that must not be seen. A memo, bounded since clients make up
    names.

    With an underscore the name of a field of proxies would become that field where an application makes keys
    of CGI of its headers, as Django does; and who has sent it was not looked at.
    """

    MAX_NAMES = 1024

    def __init__(self, chosen: Iterable[str] = ()) -> None:
        """`chosen`: names of fields that count, besides those that are always of proxies."""
        self._of_proxies = {*FORWARDED_NAMES, *(name.encode() for name in chosen)}

    def __missing__(self, name: bytes) -> bytes:
        lower = name.lower()
        if b"_" in lower:
            hyphens = lower.replace(b"_", b"-")
            if hyphens in self._of_proxies or hyphens.startswith(X_FORWARDED):
                lower = b""
        if len(self) < self.MAX_NAMES:
            self[name] = lower
        return lower


_NAMES = Names()


class Interned:
    """What the heads of connections that stay say alike, so that thousands have one copy. Emptied when
    it is full, since clients make up values."""

    MAX_VALUES = 512
    MAX_BYTES = 256  # of each

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}

    def __call__(self, value: T) -> T:
        """One that is equal."""
        size = sum(map(len, value)) if isinstance(value, tuple) else len(value)
        if size > self.MAX_BYTES:
            return value
        if len(self._values) >= self.MAX_VALUES:
            self._values.clear()
        found: T = self._values.setdefault(value, value)
        return found


class RootPath:
    """`--root-path`: the path at which the application is mounted. With `?unstripped` after it the front
    leaves it in the path of its requests; else it has taken it away, and each path is given it again."""

    def __init__(self, text: str) -> None:
        path, _, flag = text.partition("?")
        self.path = path.rstrip("/")
        self.prefix = "" if flag else self.path


def quoted(prefix: str) -> bytes:
    """As a part of `raw_path`."""
    return quote(prefix).encode()


def scope_of(
    request: Request, peer: Peer, root: RootPath, worker: int, names: Names = _NAMES
) -> Scope:
    """Everything but `state`. What proxies say has been judged already (session/fronts.py)."""
    proxy, origin = peer.proxy, request.origin
    client: tuple[str, int] | None = (peer.client, peer.client_port) if peer.client else None
    server, port, scheme = peer.server, peer.server_port, "http"
    root_path, prefix = root.path, root.prefix
    forkd: dict[str, Any] = {"worker": worker, "peer": peer.client}
    if proxy is not None:
        forkd["proxy"], forkd["peer"] = facts_of(proxy), proxy["peer"][0]
        if proxy.get("ssl", {}).get("tls"):
            scheme = "https"
    if request.id:
        forkd["request_id"] = request.id
    if origin is not None:
        if origin.client is not None:
            client = (origin.client.address, origin.client.port) if origin.client.address else None
        scheme = origin.scheme or scheme
        server, port = origin.server or server, origin.port or port
        if origin.prefix:
            root_path = prefix = origin.prefix
    raw = request.path
    if not raw:  # of * and of CONNECT, which are below no path
        raw, prefix = request.target, ""
    path = unquote_to_bytes(raw) if b"%" in raw else raw
    return {
        "type": "http",
        "asgi": HTTP_VERSION.copy(),
        "http_version": request.version,
        "method": request.method,
        "scheme": scheme,
        "path": prefix + path.decode("utf-8", "replace"),
        "raw_path": quoted(prefix) + raw,
        "query_string": request.query,
        "root_path": root_path,
        "headers": [(lower, value) for name, value in request.headers if (lower := names[name])],
        "client": client,
        "server": (server, port),
        "extensions": {"forkd": forkd},
    }
