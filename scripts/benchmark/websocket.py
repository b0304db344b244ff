"""A client of WebSockets (RFC 6455), as far as the works need one: messages have less than 126 bytes."""

from __future__ import annotations

import socket

from scripts.benchmark import check
from scripts.benchmark.process import Server, Unavailable

_FIELDS = (
    "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
HANDSHAKE = check.request("/ws", *_FIELDS)
#: As a browser sends it; its cookie is to be put in.
_BROWSER = (
    *_FIELDS, "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: */*", "Accept-Language: en-US,en;q=0.5", "Accept-Encoding: gzip, deflate, br, zstd",
    "Origin: http://127.0.0.1", "Pragma: no-cache", "Cache-Control: no-cache", "Cookie: session={}",
)  # fmt: skip
HANDSHAKE_BROWSER = check.request("/ws", *_BROWSER)
HANDSHAKE_DEFLATE = check.request(
    "/ws", *_BROWSER, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
)
BINARY, CLOSE = 2, 8
_MASK = b"\x5a\xc3\x96\x0f"


def frame(payload: bytes, opcode: int = BINARY) -> bytes:
    masked = bytes(byte ^ _MASK[at % 4] for at, byte in enumerate(payload))
    return bytes((0x80 | opcode, 0x80 | len(payload))) + _MASK + masked


def dial(server: Server, source: str = "127.0.0.1", handshake: bytes = HANDSHAKE) -> socket.socket:
    """An open one. Raises Unavailable where the server answers anything but 101."""
    client = check.dial(server, source)
    client.sendall(handshake)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (byte := client.recv(1)):
            break
        head += byte
    if not head.startswith(b"HTTP/1.1 101 "):
        client.close()
        raise Unavailable(f"it opens no WebSocket: {head[:80]!r}")
    return client


def received(client: socket.socket) -> tuple[int, bytes]:
    """Opcode and payload of the next frame; (0, b"") at the end of the connection."""
    head = client.recv(2, socket.MSG_WAITALL)
    if len(head) < 2:
        return 0, b""
    size = head[1]
    if size == 126:  # what was deflated may be longer than the message
        size = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
    return head[0] & 15, client.recv(size, socket.MSG_WAITALL) if size else b""


def echoes(server: Server, payload: bytes) -> None:
    with dial(server) as client:
        for _ in range(2):
            client.sendall(frame(payload))
            if (found := received(client)) != (BINARY, payload):
                raise Unavailable(f"it answers differently: {found!r}")
