"""An application whose clients live in it: whenever it is called, it looks what was answered, and asks again.

So the accept queue is never empty, and the order of what is served depends on the loop alone. The answer of
/play is that order: turns of the loop, new connections, requests of kept ones, messages of WebSockets, pieces
of streams of events.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

KEPT, SOCKETS, STREAMS = 3, 3, 2
FRESH = 20  # new connections that wait
ENOUGH = 400  # of them, and the play is over
HANDSHAKE = (
    b"GET /socket/%d HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MESSAGE = b"\x82\x81\x00\x00\x00\x00x"  # one byte, masked with nothing

Message = dict[str, Any]


class Play:
    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.events: list[tuple[str, int]] = []
        self.opened = 0
        self.filling = False
        self.over = asyncio.Event()
        self.fresh: list[socket.socket] = []
        self.clients = {
            kind: [self.connect() for _ in range(count)]
            for kind, count in (("kept", KEPT), ("socket", SOCKETS), ("stream", STREAMS))
        }

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address)
        client.setblocking(False)
        return client

    def note(self, kind: str, number: int = 0) -> None:
        self.events.append((kind, number))

    def ask(self, kind: str, number: int) -> None:
        client = self.clients[kind][number]
        self.note(f"{kind} ready", number)
        if kind == "kept":
            client.sendall(b"GET /kept/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        elif kind == "socket":
            client.sendall(MESSAGE)

    async def run(self) -> list[tuple[str, int]]:
        for number, client in enumerate(self.clients["kept"]):
            client.sendall(b"GET /kept/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        for number, client in enumerate(self.clients["socket"]):
            client.sendall(HANDSHAKE % number)
        for number, client in enumerate(self.clients["stream"]):
            client.sendall(b"GET /stream/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        waiting = {client for clients in self.clients.values() for client in clients}
        while waiting:
            waiting = {client for client in waiting if not heard(client)}
            await asyncio.sleep(0.01)
        self.events.clear()
        self.filling = True
        for kind in ("kept", "socket"):
            for number in range(len(self.clients[kind])):
                self.ask(kind, number)
        self.turn()
        self.pump()
        await self.over.wait()
        for client in (*self.fresh, *(c for clients in self.clients.values() for c in clients)):
            client.close()
        return self.events

    def turn(self) -> None:
        self.note("turn")
        if self.filling:
            asyncio.get_running_loop().call_soon(self.turn)

    def pump(self) -> None:
        """Whatever was answered is asked again."""
        if not self.filling:
            return
        for kind in ("kept", "socket"):
            for number, client in enumerate(self.clients[kind]):
                if heard(client):
                    self.ask(kind, number)
        for client in self.clients["stream"]:
            heard(client)
        for client in [client for client in self.fresh if heard(client)]:
            client.close()
            self.fresh.remove(client)
        while len(self.fresh) < FRESH:
            client = self.connect()
            client.sendall(b"GET /new/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % self.opened)
            self.fresh.append(client)
            self.opened += 1
        if self.opened > ENOUGH:
            self.filling = False
            self.over.set()


play: Play | None = None


def heard(client: socket.socket) -> bool:
    """Whether something was answered, which is read."""
    with suppress(BlockingIOError):
        client.recv(1 << 20)
        return True
    return False


async def app(scope: Message, receive: Any, send: Any) -> None:
    global play
    _, kind, *number = scope["path"].split("/")
    if kind == "play":
        play = Play(scope["server"])
        body = json.dumps(await play.run()).encode()
    elif kind == "socket":
        return await talk(receive, send, int(number[0]))
    elif kind == "stream":
        return await stream(send, int(number[0]))
    else:
        assert play is not None
        play.note(kind, int(number[0]))
        play.pump()
        body = b"ok"
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def talk(receive: Any, send: Any, number: int) -> None:
    assert play is not None
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        play.note("socket", number)
        play.pump()
        await send({"type": "websocket.send", "bytes": message["bytes"]})


async def stream(send: Any, number: int) -> None:
    assert play is not None
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while not play.over.is_set():
        play.note("stream", number)
        play.pump()
        await send({"type": "http.response.body", "body": b"data: x\n\n" * 20, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})
