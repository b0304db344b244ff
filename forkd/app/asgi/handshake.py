"""WebSocket's opening handshake (RFC 6455, 4.2): which request is one, and the head that answers it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from forkd.app.asgi.response import exact
from forkd.app.asgi.scope import Interned, Scope
from forkd.http.deflate import Agreed, agree
from forkd.http.frames import VERSION, accept_of
from forkd.http.guard import Request
from forkd.http.limits import Refusal, Refused
from forkd.http.response import check_headers, date
from forkd.system.originals import time

_SPEC = {"version": "3.0", "spec_version": "2.5"}
#: What the head of an accepted handshake has from forkd.
_OWN = frozenset((
    b"upgrade", b"connection", b"content-length", b"transfer-encoding", b"sec-websocket-accept",
    b"sec-websocket-extensions", b"sec-websocket-version", b"sec-websocket-protocol",
))  # fmt: skip


class Handshake(NamedTuple):
    accept: bytes
    subprotocols: list[str]
    agreed: Agreed | None  # None: no message is compressed


def wants_websocket(request: Request) -> bool:
    return (
        request.method == "GET" and request.version == "1.1"
        and b"websocket" in _tokens(request, b"upgrade") and b"upgrade" in _tokens(request, b"connection")
    )  # fmt: skip


def origins_of(text: str | None) -> frozenset[bytes] | None:
    """`--ws-origins` as browsers send them, which is without the port that the scheme has; None: any."""
    if text is None:
        return None
    origins = (each.strip().lower() for each in text.split(","))
    return frozenset(
        each.removesuffix(":443" if each.startswith("https:") else ":80").encode() for each in origins
    )


def read_handshake(request: Request, origins: frozenset[bytes] | None, deflate: bool) -> Handshake:
    """`deflate`: --ws-deflate. Raises Refused."""
    if _values(request, b"sec-websocket-version") != [VERSION]:
        raise Refused(426, "WebSocket has version 13 here", Refusal.MALFORMED)
    if origins is not None and any(x.lower() not in origins for x in _values(request, b"origin")):
        # A page of any site may open a WebSocket, with the cookies of this one (RFC 6455 10.2).
        raise Refused(403, "no WebSocket for pages of that origin", Refusal.MALFORMED)
    keys = _values(request, b"sec-websocket-key")
    accept = accept_of(keys[0]) if len(keys) == 1 else None
    if accept is None:
        raise Refused(400, "Sec-WebSocket-Key is not 16 bytes in base64, once", Refusal.MALFORMED)
    if request.length or request.chunked:
        raise Refused(400, "a handshake with a body", Refusal.MALFORMED)
    offered = b",".join(_values(request, b"sec-websocket-protocol")).split(b",")
    subprotocols = [name.strip().decode("latin-1") for name in offered if name.strip()]
    extensions = b",".join(_values(request, b"sec-websocket-extensions"))
    return Handshake(accept, subprotocols, agree(extensions) if deflate else None)


def to_websocket(scope: Scope, subprotocols: list[str], interned: Interned) -> None:
    """Make the scope of an HTTP request that of its WebSocket."""
    del scope["method"]
    scope["type"], scope["asgi"] = "websocket", _SPEC.copy()
    scope["scheme"] = "wss" if scope["scheme"] == "https" else "ws"
    scope["subprotocols"] = subprotocols.copy()
    scope["headers"] = list(map(interned, scope["headers"]))
    scope["path"], scope["raw_path"] = interned(scope["path"]), interned(scope["raw_path"])


def accepted(
    handshake: Handshake, subprotocol: str | None, headers: Iterable[tuple[bytes, bytes]], server: bytes
) -> bytes:
    """The head that accepts it. Raises ValueError where the application may not say that."""
    if subprotocol is not None and subprotocol not in handshake.subprotocols:
        raise ValueError(f"subprotocol {subprotocol!r} was not offered: {handshake.subprotocols}")
    fields = [(exact(name), exact(value)) for name, value in headers]
    for name, _ in fields:
        if name.lower() in _OWN:
            raise ValueError(f"header {name!r} is forkd's to set")
    checked = check_headers("200 OK", [(n.decode("latin-1"), v.decode("latin-1")) for n, v in fields])
    lines = checked.block.partition(b"\r\n")[2]
    if not checked.dated:
        lines += b"Date: " + date(time.time()) + b"\r\n"
    if not checked.named:
        lines += server
    if subprotocol is not None:
        lines += b"Sec-WebSocket-Protocol: " + subprotocol.encode("latin-1") + b"\r\n"
    if handshake.agreed is not None:
        lines += b"Sec-WebSocket-Extensions: " + handshake.agreed.response + b"\r\n"
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + handshake.accept + b"\r\n" + lines + b"\r\n"
    )


def _values(request: Request, wanted: bytes) -> list[bytes]:
    return [value for name, value in request.headers if name.lower() == wanted]


def _tokens(request: Request, name: bytes) -> list[bytes]:
    return [token.strip().lower() for value in _values(request, name) for token in value.split(b",")]
