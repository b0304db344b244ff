"""What long-lived connections cost a server, and what becomes of them when it stops or is reloaded."""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import socket
import time
from contextlib import ExitStack
from subprocess import DEVNULL, Popen

from scripts.benchmark import check, load, measure, websocket
from scripts.benchmark.load import Figures
from scripts.benchmark.process import Server

MESSAGE = bytes(range(125))
WEBSOCKETS = 2_000
RELOADED = 1_000
SPREAD_SECONDS = 10.0
#: A server that has not stopped by then is measured as this.
PATIENCE_SECONDS = 20.0
AT_REST_SECONDS = 2.0


def echo(server: Server, seconds: float) -> Figures:
    """Each of 100 WebSockets sends its next message upon the echo of the last one."""
    return load.messages(
        server, seconds, (websocket.frame(MESSAGE), 2 + len(MESSAGE)),
        connections=100, opening=websocket.HANDSHAKE,
    )  # fmt: skip


def idle_websockets(
    server: Server, seconds: float, handshake: bytes = websocket.HANDSHAKE_BROWSER
) -> Figures:
    """Memory of the process tree for each WebSocket of a browser's that waits after one message."""
    load.messages(
        server, 1, (websocket.frame(MESSAGE), 2 + len(MESSAGE)), opening=websocket.HANDSHAKE
    )  # what is allocated once is there

    def dial(source: str) -> socket.socket:
        cookie = secrets.token_hex(16).encode()
        client = websocket.dial(server, source, handshake.replace(b"{}", cookie))
        client.sendall(websocket.frame(MESSAGE))
        websocket.received(client)
        return client

    return measure.held(server, WEBSOCKETS, dial)


class _Clients:
    """Connections that wait for what the server says at its end."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self._set = stack.enter_context(selectors.DefaultSelector())
        self._pidfd = os.pidfd_open(server.master)
        stack.callback(os.close, self._pidfd)
        self.closed: list[float] = []  # when each was told of its end: by a Close, by a last chunk
        self.torn = 0  # those that were not told
        self.left = 0
        self.ended = False  # the server's first process

    def add(self, client: socket.socket, is_websocket: bool) -> None:
        self._set.register(client, selectors.EVENT_READ, (client, is_websocket))
        self.left += 1

    def watch_the_end(self) -> None:
        self._set.register(self._pidfd, selectors.EVENT_READ)

    def wait(self, seconds: float) -> None:
        """Until the clients have gone, and the server where it is watched."""
        until = time.monotonic() + seconds
        while self._set.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in self._set.select(left):
                if key.fd == self._pidfd:
                    self.ended = True
                    self._set.unregister(key.fileobj)
                else:
                    self._take(*key.data)

    def _take(self, client: socket.socket, is_websocket: bool) -> None:
        try:
            told = _close_told(client) if is_websocket else _end_told(client)
        except ConnectionError:
            told = False
        if told:
            self.closed.append(time.monotonic())
        if told is None:
            return
        self.torn += not told
        self.left -= 1
        self._set.unregister(client)
        client.close()


def _end_told(client: socket.socket) -> bool | None:
    """Of a chunked answer: whether it ended with its last chunk; None where it goes on."""
    found = client.recv(65536)
    return True if found.endswith(b"0\r\n\r\n") else None if found else False


def _close_told(client: socket.socket) -> bool | None:
    """Of a WebSocket: whether it was closed, which is answered; None where it goes on."""
    opcode, payload = websocket.received(client)
    if opcode != websocket.CLOSE:
        return None if opcode else False
    client.sendall(websocket.frame(payload[:2], websocket.CLOSE))
    client.recv(1)  # the server is the one that closes
    return True


def stop(server: Server, seconds: float) -> Figures:
    """How long a stop takes beside a stream of events and a WebSocket at rest, whose clients leave when they
    are told. An error is a client that was not told: no last chunk, no Close."""
    with ExitStack() as stack:
        clients = _Clients(server, stack)
        clients.add(stack.enter_context(websocket.dial(server)), True)
        stream = stack.enter_context(check.dial(server))
        stream.sendall(check.request("/events", "Accept: text/event-stream"))
        clients.add(stream, False)
        clients.wait(AT_REST_SECONDS)  # the first piece is read
        clients.watch_the_end()
        begun = time.monotonic()
        os.kill(server.master, signal.SIGTERM)
        clients.wait(PATIENCE_SECONDS)
        took = time.monotonic() - begun
        return {"stop": took, "errors": clients.torn + clients.left}


def reload(server: Server, seconds: float) -> Figures:
    """A reload under 1,000 WebSockets: how many are closed in the busiest second, by what it would be if they
    were closed evenly over --drain-spread. An error is one that had no Close."""
    with ExitStack() as stack:
        clients = _Clients(server, stack)
        for _ in range(RELOADED):
            clients.add(stack.enter_context(websocket.dial(server)), True)
        os.kill(server.master, signal.SIGHUP)
        clients.wait(SPREAD_SECONDS + PATIENCE_SECONDS)
        busiest = max((_within_a_second(clients.closed, at) for at in clients.closed), default=0)
        errors = clients.torn + clients.left
        return {"burst": busiest / (RELOADED / SPREAD_SECONDS), "errors": errors}


def told(server: Server, seconds: float) -> Figures:
    """A request that holds the loop for 300 ms, under the load of others: how long after it was sent it is
    named in the log. An error is one that is not."""
    with Popen(["wrk", "-t1", "-c32", "-d3", f"http://127.0.0.1:{server.port}/"], stdout=DEVNULL):
        time.sleep(1)
        with check.dial(server) as client:
            begun = time.monotonic()
            client.sendall(check.request("/300ms"))
            while "GET /300ms" not in server.log():
                if time.monotonic() - begun > PATIENCE_SECONDS:
                    return {"told": PATIENCE_SECONDS, "errors": 1}
                time.sleep(0.005)
            return {"told": time.monotonic() - begun, "errors": 0}


def _within_a_second(times: list[float], begin: float) -> int:
    return sum(begin <= at < begin + 1 for at in times)
