"""A session that becomes another: in `advance`, and in the loop of every model, with scripted sessions."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

from forkd.config import Config
from forkd.engine.connection import Connection
from forkd.engine.context import ChildContext
from forkd.engine.deadlines import NEVER
from forkd.engine.intake import ListenerIntake
from forkd.engine.steps import ABORTED, FINISHED, LINGERING, WRITING, Outcome, advance
from forkd.errors import ForkdError
from forkd.models import registry
from forkd.models.process_per_connection import ROW as PROCESSES
from forkd.session import begin as begins
from forkd.session.begin import Begin, BoundBegin, LayerRow
from forkd.session.seam import HIJACK, LINGER, Await, Become, Deadline, Exchange, Session
from forkd.system.address import Address
from forkd.system.lanes import Lanes
from forkd.system.lease import Lease, make_bells
from forkd.system.scoreboard import Scoreboard, scratch_row
from forkd.system.uring import usable
from tests.native.test_exchange import Access, Host, Log, config_of

EXCHANGE = Exchange()
FIRST, SECOND = Await("first", 10), Await("second", 10)

# ---- one step ---------------------------------------------------------------------------------


class Stage:
    """A connection with a script."""

    def __init__(self, make: Callable[..., Session]) -> None:
        self.log = Log()
        ours, self.client = socket.socketpair()
        self.client.settimeout(10)
        ours.setblocking(False)
        begin = BoundBegin("127.0.0.1", 80, make, None)
        self.conn = Connection(ours, None, begin, 10.0, None, scratch_row().recorder(False))

    def go(self, value: Any = None, **options: Any) -> Outcome:
        return advance(self.conn, self.conn.resume, value, self.log, **options)

    def throw(self, failure: BaseException) -> Outcome:
        return advance(self.conn, self.conn.session.throw, failure, self.log)

    def close(self) -> None:
        self.conn.close()
        self.client.close()


@pytest.fixture
def stage() -> Iterator[Callable[[Callable[..., Session]], Stage]]:
    made: list[Stage] = []

    def make(script: Callable[..., Session]) -> Stage:
        made.append(Stage(script))
        return made[-1]

    yield make
    for each in made:
        each.close()


def becomes(following: Callable[[bytes], Session]) -> Callable[..., Session]:
    """A session that awaits bytes, and becomes what follows with all but the first of them."""

    def first(peer: Any) -> Session:
        data = yield FIRST
        return Become(following(data[1:]))

    return first


def test_the_next_session_has_the_connection(stage: Any) -> None:
    events = []

    def second(data: bytes) -> Session:
        events.append(data)
        try:
            while True:
                events.append((yield SECOND))
        finally:
            events.append(b"closed")

    it = stage(becomes(second))
    assert it.go() is FIRST
    assert it.go(b"abc") is SECOND
    assert it.go(b"d") is SECOND
    it.conn.end(it.log)
    assert events == [b"bc", b"d", b"closed"]
    assert it.log.lines == []


def script(*ops: Any, result: Any = None) -> Callable[..., Session]:
    def session(data: bytes) -> Session:
        for op in ops:
            _ = yield op
        return result

    return session


@pytest.mark.parametrize(
    "ops, result, options, outcome, sent",
    [
        ([SECOND], None, {}, SECOND, b""),
        ([b"hello", SECOND], None, {}, SECOND, b"hello"),
        ([(b"hel", b"lo")], None, {}, FINISHED, b"hello"),
        ([b"hello"], LINGER, {}, LINGERING, b"hello"),
        ([b"hello", SECOND], None, {"send": False}, WRITING, b""),
        ([EXCHANGE, b"hello"], None, {"to_ready": True}, EXCHANGE, b""),
        ([HIJACK, b"hello"], None, {"to_ready": True}, HIJACK, b""),
        ([EXCHANGE, HIJACK, b"hello"], None, {}, FINISHED, b"hello"),
    ],
)
def test_its_first_step_is_taken_at_once(
    stage: Any, ops: list[Any], result: Any, options: dict[str, bool], outcome: Outcome, sent: bytes
) -> None:
    it = stage(becomes(script(*ops, result=result)))
    assert it.go() is FIRST
    assert it.go(b"abc", **options) is outcome
    assert (it.client.recv(100) if sent else b"") == sent


def test_one_after_the_other(stage: Any) -> None:
    def third(data: bytes) -> Session:
        yield data

    def second(data: bytes) -> Session:
        return Become(third(data[1:]))
        yield

    it = stage(becomes(second))
    assert it.go() is FIRST
    assert it.go(b"abc") is FINISHED
    assert it.client.recv(100) == b"c"


def test_it_fails_alone(stage: Any) -> None:
    """The failure is told once, and the session that was there before has no part in it."""

    def second(data: bytes) -> Session:
        raise RuntimeError("on purpose")
        yield

    it = stage(becomes(second))
    it.log.exception = lambda message: it.log.lines.append(_chain_of_the_failure())
    it.go()
    assert it.go(b"abc") is ABORTED
    assert it.log.lines == [["RuntimeError"]]


def _chain_of_the_failure() -> list[str]:
    found, error = [], sys.exc_info()[1]
    while error is not None:
        found.append(type(error).__name__)
        error = error.__context__
    return found


def test_a_deadline_in_the_first_makes_no_second(stage: Any) -> None:
    it = stage(becomes(lambda data: pytest.fail("there is one")))
    it.go()
    assert it.throw(Deadline("first")) is ABORTED
    assert it.log.lines == []


# ---- every loop -------------------------------------------------------------------------------

THREADED = ("epoll", "io_uring", "aio")
CELLS = [
    (row.name, io, threads, native, handoff)
    for row in registry.MODELS
    if row is not PROCESSES  # it serves by two of the others
    for io in row.ios
    if not row.master_accepts or io == "epoll"
    for threads in ([4] if row.pooled else [1, 4] if row.threaded and io in THREADED else [1])
    for native in (True, False)
    for handoff in (("socket", "task") if row.name == "half-sync-half-reactive" else ("socket",))
]


class Scripted:
    """An interface: a preamble of four bytes, then a line, which is answered in three ways."""

    opening = None
    paced = False

    def session(self, peer: Any, data: bytes = b"") -> Session:
        while len(data) < 4:
            came = yield FIRST
            if not came:
                return None
            data += came
        return Become(self._conversation(peer, data[4:]))

    def _conversation(self, peer: Any, data: bytes) -> Session:
        yield b"hello\n"
        while not data.endswith(b"\n"):
            data += yield SECOND
        peer.exchange.line = data
        yield peer.exchange
        yield data.upper()
        sock = yield HIJACK
        sock.unread(b"un")
        line = sock.makefile("rb").readline()
        sock.sendall(line)

    def retire(self) -> None:
        pass


def _loop(cell: Any, listener: socket.socket, log: Log) -> Any:
    model, io, threads, native, handoff = cell
    config = config_of(model=model, io=io, threads=threads, native=native, handoff=handoff)
    host: Any = Host()
    rows = Scoreboard(1, threads).lanes[1]
    lanes = Lanes(rows, native) if threads > 1 else None
    host.recorder = lanes.recorder if lanes is not None else rows[0].recorder(native)
    host.access, host.log = Access(native), log
    lease = Lease(make_bells(1))
    lease.set_members([1])
    lease.grant(1)
    interface: Any = Scripted()
    begin = Begin("127.0.0.1", 80).bind(interface, config, host)
    intakes: list[Any] = [ListenerIntake(listener, begin, shared=False)]
    context = ChildContext(
        config, io, 1, rows[0], lanes, lease, intakes, interface, host, host.log, host.access,
        lambda number: None, {}, lambda: NEVER,
    )  # fmt: skip
    return registry.get(model).make(context)


def _play(cell: Any, pieces: list[bytes], pipe: int) -> None:
    """In a process of its own: the loop in the main thread, the client in another."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    log = Log()

    def ask() -> None:
        with socket.create_connection(listener.getsockname(), 10) as client, client.makefile("rb") as file:
            for piece in pieces:
                client.sendall(piece)
            heard = [file.readline(), file.readline()]
            client.sendall(b"read\n")
            heard.append(file.read())
        os.write(pipe, json.dumps([[x.decode() for x in heard], log.lines]).encode())
        os._exit(0)

    loop = _loop(cell, listener, log)
    threading.Thread(target=ask, daemon=True).start()
    ends = monotonic() + 20
    while monotonic() < ends:
        loop.turn(1.0)


@pytest.mark.parametrize("pieces", [["pre!line\n"], ["pre!", "line\n"], ["p", "re!li", "ne\n"]], ids=len)
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "/".join(map(str, cell)))
def test_in_every_loop(cell: Any, pieces: list[str]) -> None:
    if cell[1] == "io_uring" and usable():
        pytest.skip(usable())
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(20)
            os.close(ours)
            _play(cell, [piece.encode() for piece in pieces], theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    with open(ours) as pipe:
        text = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert json.loads(text) == [["hello\n", "LINE\n", "unread\n"], []]


# ---- the value --------------------------------------------------------------------------------


class Named:
    """A layer that adds its name to what was received."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def opening(self, following: Await | None) -> Await | None:
        return None

    def session(self, following: Any, peer: Any, data: bytes = b"") -> Session:
        return Become(following(peer, data + self._name))
        yield


def row_of(name: str) -> LayerRow:
    return LayerRow(name, lambda address, _: name in address.host, lambda _, host: Named(name.encode()))


def test_its_layers_follow_from_the_address_and_come_in_order(
    monkeypatch: pytest.MonkeyPatch, stage: Any
) -> None:
    monkeypatch.setattr(begins, "LAYERS", tuple(map(row_of, "abc")))
    begin = Begin.of(Address.parse("ca:80"), Config(), "::1", 8000)
    assert begin == Begin("::1", 8000, ("a", "c"))
    assert Begin.parse(str(begin)) == begin

    class Last:
        opening = FIRST

        def session(self, peer: Any, data: bytes = b"") -> Session:
            yield data

    last: Any = Last()
    bound = begin.bind(last, Config(), Host())  # type: ignore[arg-type]
    assert (bound.server, bound.port, bound.opening) == ("::1", 8000, None)
    it = stage(bound.session)
    assert it.go() is FINISHED
    assert it.client.recv(100) == b"ac"


def test_a_layer_that_this_version_lacks_is_an_error() -> None:
    begin = Begin("127.0.0.1", 80, ("proxy", "sealed"))
    with pytest.raises(ForkdError, match="begin with sealed, which this version of forkd does not have"):
        begin.bind(Scripted(), Config(), Host())  # type: ignore[arg-type]


def test_without_layers_it_is_the_interfaces_own() -> None:
    interface: Any = Scripted()
    interface.opening = FIRST
    bound = Begin.of(Address.parse("a:80"), Config(), "127.0.0.1", 80).bind(interface, Config(), Host())  # type: ignore[arg-type]
    assert bound.session == interface.session
    assert bound.opening is FIRST
