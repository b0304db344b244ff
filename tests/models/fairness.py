"""One child's loop, in a process of its own, with clients that never let it rest: who was served, in order.

The clients live in the application: whenever it is called, it looks what has been answered and asks again,
and in place of each connection that is over it opens a new one at the same listener. So the accept queues
are never empty, whatever time anything takes, and the order of events depends on the loop alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any, NamedTuple, NoReturn

from forkd.app.wsgi.exchange import Wsgi
from forkd.config import Config
from forkd.engine.context import ChildContext
from forkd.engine.deadlines import NEVER
from forkd.engine.intake import ListenerIntake
from forkd.engine.share import Share
from forkd.models import registry
from forkd.session.begin import Begin
from forkd.session.http1 import Http1
from forkd.system.lanes import Lanes
from forkd.system.lease import Lease, make_bells
from forkd.system.scoreboard import Scoreboard
from tests.native.test_exchange import Access, Host, Log

KEPT = 3  # connections
FRESH = 20  # at each listener
#: New connections after which no more are opened, once the deadline has been kept; and in any case: a loop
#: that serves no other client must come to an end, too.
ENOUGH, MOST = 500, 8000
HEADER_SECONDS = 0.05
_LATE_SECONDS = 0.5  # at most: two buckets of the wheel of deadlines
_PATIENCE_SECONDS = 40

Event = tuple[str, int]


class Cell(NamedTuple):
    model: str
    io: str
    accept: str
    native: bool
    threads: int

    def __str__(self) -> str:
        native = "native" if self.native else "python"
        return f"{self.model}/{self.io}/{self.accept}/{native}/x{self.threads}"


def play(
    cell: Cell, *, seconds: float = 0.0, unbounded: bool = False, brief: bool = False
) -> list[Event]:
    """What happened. `seconds`: what the application takes for a new connection. `unbounded`: without the
    bound. `brief`: one listener, and new connections only, as after hundreds that were over at once."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(_PATIENCE_SECONDS)  # a loop that hangs ends by it
            os.close(ours)
            if unbounded:
                Share.over = lambda self, now: False  # type: ignore[method-assign]
            _Play(cell, seconds, brief).run(theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    with open(ours) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"{cell} ended with {status}"
    return [(kind, number) for kind, number in json.loads(text)]


class _Play:
    def __init__(self, cell: Cell, seconds: float, brief: bool) -> None:
        self.cell = cell
        self.brief = brief
        self.seconds = seconds
        self.events: list[Event] = []
        self.lock = threading.RLock()
        self.opened = 0
        self.filling = False
        self.fresh: dict[socket.socket, int] = {}
        self.kept: list[socket.socket] = []
        self.answered: set[int] = set()
        self.stream: socket.socket | None = None
        self.slow: socket.socket | None = None
        self.due = NEVER
        families = [socket.AF_INET] if brief else [socket.AF_INET, socket.AF_UNIX]
        self.listeners = [_listen(family) for family in families]
        self.loop = self._make()

    def _make(self) -> Any:
        cell = self.cell
        host: Any = Host()
        rows = Scoreboard(1, cell.threads).lanes[1]
        config = Config(
            native=cell.native, model=cell.model, io=cell.io, accept=cell.accept, threads=cell.threads,
            header_timeout=HEADER_SECONDS,
        )  # fmt: skip
        lanes = Lanes(rows, cell.native) if cell.threads > 1 else None
        host.recorder = lanes.recorder if lanes is not None else rows[0].recorder(cell.native)
        host.access, host.log = Access(cell.native), Log()
        lease = None
        if cell.accept == "lock":
            lease = Lease(make_bells(1))
            lease.set_members([1])
            lease.grant(1)
        shared = cell.accept == "exclusive"
        wsgi = Http1(Wsgi(self.app, config, host, multithread=cell.threads > 1), config, host)
        begin = Begin("127.0.0.1", 80).bind(wsgi, config, host)
        intakes: list[Any] = [ListenerIntake(sock, begin, shared=shared) for sock in self.listeners]
        self.bell = os.eventfd(1)  # always readable
        context = ChildContext(
            config, cell.io, 1, rows[0], lanes, lease, intakes, wsgi, host, host.log, host.access,
            lambda number: None, {self.bell: lambda: self.note("bell")}, self.after_turn,
        )  # fmt: skip
        loop: Any = registry.get(cell.model).make(context)
        serve = loop.serve

        def accepted(*connection: Any) -> None:
            self.note("accepted")
            serve(*connection)

        loop.serve = accepted  # native code has its own
        return loop

    # ---- what happens ---------------------------------------------------------------------

    def note(self, kind: str, number: int = 0) -> None:
        self.events.append((kind, number))

    def after_turn(self) -> float:
        self.note("turn")
        return NEVER

    def app(self, environ: Any, start: Any) -> Any:
        _, kind, number = environ["PATH_INFO"].split("/")
        start("200 OK", [("Content-Length", "2")] if kind != "stream" else [])
        if kind == "stream":
            return self.pieces()
        with self.lock:
            self.note(kind, int(number))
            if kind == "new" and self.seconds:
                sleep(self.seconds)
            self.pump()
        return [b"ok"]

    def pieces(self) -> Iterator[bytes]:
        while self.filling or self.opened == 0:
            with self.lock:
                self.note("stream")
                self.pump()
            yield b"x" * 1000

    # ---- the clients ----------------------------------------------------------------------

    def open(self, number: int) -> None:
        self.opened += 1
        client = _connected(self.listeners[number])
        client.sendall(b"GET /new/%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % number)
        self.fresh[client] = number

    def ask(self, number: int) -> None:
        self.note("ready", number)
        self.kept[number].sendall(b"GET /kept/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)

    def pump(self) -> None:
        """Whatever was answered is asked again."""
        if self.slow is not None and monotonic() >= self.due:
            self.due = NEVER
            self.note("due")
        for number, client in enumerate(self.kept):
            if _heard(client):
                self.answered.add(number)
                if self.filling:
                    self.ask(number)
        if self.stream is not None:
            _heard(self.stream)
        if self.slow is not None and _heard(self.slow):
            self.slow.close()
            self.slow = None
            self.note("late")
        for client in list(self.fresh):
            if _heard(client):
                client.close()
                del self.fresh[client]
        for number in range(len(self.listeners)):
            while self.filling and list(self.fresh.values()).count(number) < FRESH:
                self.open(number)
        if self.filling and self.opened > (ENOUGH if self.slow is None else MOST):
            self.filling = False
            self.note("end")

    def run(self, pipe: int) -> NoReturn:
        """By the thread that made the loop. Where threads take turns it may be one of those that wait, so
        another one looks after the play."""
        threading.Thread(target=self.control, args=(pipe,), daemon=True).start()
        while True:
            self.loop.turn(0.1)

    def control(self, pipe: int) -> None:
        if self.brief:
            while not self.loop.driver._batch.full:
                self.loop.driver._batch.served(1, 0.0, 0)
        else:
            self.settle_in()
        with self.lock:
            self.events.clear()
            self.due = monotonic() + HEADER_SECONDS + _LATE_SECONDS
            self.filling = True
            self.opened = 1
            for number in range(len(self.kept)):
                self.ask(number)
            self.pump()
        self.until(lambda: not self.filling)
        with self.lock, open(pipe, "w") as out:
            json.dump(self.events[: self.events.index(("end", 0))], out)
        os._exit(0)

    def settle_in(self) -> None:
        """Those that stay come first."""
        for number in range(KEPT):
            self.kept.append(_connected(self.listeners[number % 2]))
            self.ask(number)
        # A unix socket is writable once its client has read; TCP may wait for an acknowledgement.
        self.stream = _connected(self.listeners[1])
        self.stream.sendall(b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n")
        self.until(lambda: len(self.answered) == KEPT and ("stream", 0) in self.events)
        self.slow = _connected(self.listeners[1])
        self.slow.sendall(b"GET /never")
        self.until(lambda: len(self.loop.connections.by_fd) == KEPT + 2)

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            with self.lock:
                self.pump()
            sleep(0.001)


def _listen(family: socket.AddressFamily) -> socket.socket:
    listener = socket.socket(family)
    listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else "")
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _connected(listener: socket.socket) -> socket.socket:
    client = socket.socket(listener.family)
    client.connect(listener.getsockname())
    return client


def _heard(client: socket.socket) -> bool:
    """Whether something was answered, which is read."""
    with contextlib.suppress(BlockingIOError):
        client.recv(1 << 20, socket.MSG_DONTWAIT)
        return True
    return False
