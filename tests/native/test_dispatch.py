"""A loop over native code against one without: whatever clients send, and an application does, the clients,
the ledger, the access log and the error log see the same (native/dispatch.c, models/inline.py).

Clients and applications are drawn at random, by a seed that a failure prints.
"""

from __future__ import annotations

import base64
import random
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from forkd.app.wsgi import Wsgi
from forkd.config import Config
from forkd.models.deadlines import NEVER
from forkd.models.inline import InlineLoop
from forkd.models.unit import Unit
from forkd.native import native
from forkd.system.scoreboard import BUCKETS, CODES, IN_FLIGHT, REQUEST, REQUESTS, scratch_row
from tests.http.test_corpus import CASES
from tests.native.test_exchange import HEADS, ROUNDS, SEED, Access, Host, Log, behaviour

pytestmark = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")

GONE = None  # in place of bytes: the client leaves
DATE = re.compile(rb"Date: [^\r]*GMT")


class Service:
    """One child's loop, with the clients that it was given."""

    def __init__(self, make: Callable[[list[str]], Any], drains: int, native: bool) -> None:
        self.events: list[str] = []
        self.row, self.host, self.log = scratch_row(), Host(), Log()
        self.access = Access(native)
        host: Any = self.host
        host.ledger, host.access, host.log = self.row.ledger(native), self.access, self.log
        app = make(self.events)

        def draining(environ: Any, start_response: Any) -> Any:
            nonlocal drains
            drains -= 1
            if drains == 0:
                host.draining = True
                wsgi.retire()
            return app(environ, start_response)

        config = Config(native=native)
        wsgi = Wsgi(draining, config, host, multithread=False)
        self.loop = InlineLoop(
            Unit(
                config, "epoll", 1, self.row, None, None, [],
                wsgi, host, self.log, self.access, {},
                lambda: NEVER,
            )
        )  # fmt: skip
        self.clients: list[socket.socket] = []
        self.heard: list[bytes] = []

    def connect(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        if not self.clients:  # one takes a large answer in many pieces
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.clients.append(theirs)
        self.heard.append(b"")
        self.loop.serve(ours, ("10.0.0.1", 40000 + len(self.clients)), ("127.0.0.1", 80))

    def send(self, number: int, data: bytes | None) -> None:
        client = self.clients[number]
        if data is None:
            client.close()
        elif client.fileno() >= 0:
            while data:
                try:
                    data = data[client.send(data) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    break
                self.rest()
        self.rest()

    def rest(self) -> None:
        """Until nothing more happens."""
        quiet = 0
        while quiet < 3:
            quiet += 1
            self.loop.turn(0)
            for number, client in enumerate(self.clients):
                try:
                    data = client.recv(1 << 20) if client.fileno() >= 0 else b""
                except (BlockingIOError, ConnectionResetError):
                    continue
                if data:
                    self.heard[number] += data
                    quiet = 0

    def outcome(self) -> list[Any]:
        ended = [conn.op.name for conn in self.loop.keeper.connections.values()]
        self.loop.abandon()
        self.loop.handles.close()
        cells = self.row.cells
        assert cells[REQUEST] == cells[IN_FLIGHT] == 0
        assert sum(cells[BUCKETS:CODES]) <= cells[REQUESTS]
        codes = {code: cells[CODES + code] for code in range(600) if cells[CODES + code]}
        for client in self.clients:
            client.close()
        heard = [DATE.sub(b"", data) for data in self.heard]
        return [
            heard,
            ended,
            self.events,
            self.log.lines,
            self.access.told(),
            cells[REQUESTS],
            codes,
        ]


def run(
    make: Callable[[list[str]], Any],
    script: list[tuple[int, bytes | None]],
    drains: int,
    native: bool,
) -> list[Any]:
    service = Service(make, drains, native)
    for number, data in script:
        while len(service.clients) <= number:
            service.connect()
        service.send(number, data)
    return service.outcome()


def script_of(rng: random.Random) -> list[tuple[int, bytes | None]]:
    """What up to three clients send, in pieces, and whether they leave."""
    clients = rng.choice((1, 1, 2, 3))
    script: list[tuple[int, bytes | None]] = []
    for _ in range(rng.choice((1, 2, 4, 6))):
        number = rng.randrange(clients)
        head = rng.choice(HEADS[: rng.choice((2, 6, len(HEADS)))])
        if rng.random() < 0.2:
            head += rng.choice(HEADS)
        at = rng.randrange(len(head)) if rng.random() < 0.2 else len(head)
        script += [(number, piece) for piece in (head[:at], head[at:]) if piece]
        if rng.random() < 0.05:
            script.append((number, GONE))
    return script


def test_whatever_clients_and_applications_do_comes_out_alike() -> None:
    print(f"FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    for _ in range(ROUNDS // 2):
        make, script, drains = behaviour(rng), script_of(rng), rng.choice((0, 0, 1, 3))
        assert run(make, script, drains, True) == run(make, script, drains, False)


def usual(events: list[str]) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        events.append(repr(sorted((k, str(v)) for k, v in environ.items() if "wsgi." not in k)))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    return app


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_corpus_comes_out_alike(case: dict[str, Any]) -> None:
    first: list[tuple[int, bytes | None]] = [(0, HEADS[0])]  # then the connection rests
    for script in (
        [(0, base64.b64decode(case["b64"]))],
        [*first, (0, base64.b64decode(case["b64"]))],
    ):
        assert run(usual, script, 0, True) == run(usual, script, 0, False)
