"""What a server has to answer before it is measured: the same as all others, byte for byte."""

from __future__ import annotations

import socket
from http.client import HTTPResponse

from scripts.benchmark.process import Server, Unavailable

SECONDS = 30
HELLO = b"Hello, world!\n"


def request(path: str = "/", *headers: str, body: bytes | None = None) -> bytes:
    """The bytes of a request."""
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def answers(
    server: Server, sent: bytes, body: bytes = HELLO, again: bool = True, kind: str = "text/plain",
    chunked: bool = False,
) -> None:  # fmt: skip
    """Raise Unavailable unless `sent` is answered with 200 and `body`, and the connection then serves a
    second one, or is closed if not `again`."""
    wanted = (200, kind, None if chunked else str(len(body)), body)
    with dial(server) as client:
        for _ in range(2 if again else 1):
            client.sendall(sent)
            response = HTTPResponse(client)
            response.begin()
            found = (
                response.status, response.headers.get_content_type(),
                response.headers["Content-Length"], response.read(),
            )  # fmt: skip
            if found != wanted:
                raise Unavailable(f"it answers differently: {_differences(found, wanted)}")
        if not again and client.recv(1):
            raise Unavailable("it sends more than the answer")


def _differences(found: tuple[object, ...], wanted: tuple[object, ...]) -> str:
    names = ("status", "content type", "content length", "body")
    return ", ".join(
        f"{name} {str(one)[:40]}, not {str(other)[:40]}"
        for name, one, other in zip(names, found, wanted, strict=True)
        if one != other
    )


def echoes(server: Server, message: bytes) -> None:
    with dial(server) as client:
        for _ in range(2):
            client.sendall(message)
            if (found := client.recv(len(message), socket.MSG_WAITALL)) != message:
                raise Unavailable(f"it answers differently: {found!r}")


def length(server: Server, sent: bytes) -> int:
    """Of the whole answer, head and body: the next one is there after so many bytes."""
    with dial(server) as client:
        client.sendall(sent)
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(65536) or _gone()
        head = data.partition(b"\r\n\r\n")[0]
        size = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        return len(head) + 4 + size


def dial(server: Server, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), SECONDS, (source, 0))


def _gone() -> bytes:
    raise Unavailable("it closed the connection before it had answered")
