"""What native code must not get wrong when turns of several connections, threads or ends come together.

Each was found by a review.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from collections.abc import Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from forkd.app.stream.handlers import Evented
from forkd.engine import baton
from forkd.engine.link import Link
from forkd.models.proactor import Proactor
from forkd.native import native
from forkd.session.ends import Ends
from forkd.session.seam import Await
from forkd.system.cells import IN_FLIGHT, REQUESTS
from forkd.system.scoreboard import scratch_row
from forkd.system.uring import usable
from tests.native.test_dispatch import Daemon

pytestmark = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")
uring = pytest.mark.skipif(bool(usable()), reason=f"io_uring: {usable()}")
both = pytest.mark.parametrize("natively", [True, False])

GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
SECONDS = 20  # in which whatever is waited for has happened


def answers(service: Daemon, number: int) -> int:
    return service.heard[number].count(b"HTTP/1.1 200 OK")


# ---- io_uring ---------------------------------------------------------------------------------


def writing(events: list[str]) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Length", "5")])
        if environ["PATH_INFO"] == "/write":
            write(b"hello")
            return []
        return [b"hello"]

    return app


@uring
@both
def test_an_answer_is_ended_also_if_the_application_writes_to_another_connection(
    natively: bool,
) -> None:
    """What has completed by then is told later, also the end of a send that native code has begun."""
    service = Daemon(writing, 0, natively, Proactor)
    for number in (0, 1):
        service.send(number, GET % b"/")
    for count in (2, 3):
        service.send(0, GET % b"/", rest=False)
        service.send(1, GET % b"/write")
        assert answers(service, 0) == answers(service, 1) == count
    assert service.row.cells[IN_FLIGHT] == 0
    assert service.row.cells[REQUESTS] == 6
    service.outcome()


@uring
@both
def test_a_connection_receives_again_after_write(natively: bool) -> None:
    service = Daemon(writing, 0, natively, Proactor)
    for count in (1, 2, 3):
        service.send(0, GET % b"/write")
        assert answers(service, 0) == count
    service.outcome()


def kilobyte(events: list[str]) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 1000]

    return app


@uring
@both
@pytest.mark.parametrize("why", ["retire", "deadline"])
def test_a_client_that_reads_slowly_gets_its_last_answer(natively: bool, why: str) -> None:
    service = Daemon(kilobyte, 0, natively, Proactor)
    loop: Any = service.loop
    service.send(0, GET % b"/")
    (conn,) = loop.connections.by_fd.values()
    client, heard = service.clients[0], service.heard[0]
    sent = 1
    while not loop.handles.sending(conn.fd):  # the client's buffer is full
        client.send(GET % b"/")
        sent += 1
        loop.turn(0)
        loop.turn(0)
    if why == "retire":
        service.host.draining = True
        loop.retire(0.0, False)
    elif conn.op.idle:
        conn.deadline = monotonic()
        loop.connections.wheel.put(conn)
    until = monotonic() + 0.5  # two buckets of the wheel
    while monotonic() < until:
        loop.turn(0.01)
    until = monotonic() + SECONDS
    while heard.count(b"x") < 1000 * sent:
        assert monotonic() < until, f"{heard.count(b'x')} of {1000 * sent} bytes"
        try:
            heard += client.recv(1 << 16)
        except BlockingIOError:
            loop.turn(0.01)
    while service.row.cells[IN_FLIGHT]:
        assert monotonic() < until, "an answer that was sent is never counted"
        loop.turn(0.01)
    assert service.row.cells[REQUESTS] == sent
    service.outcome()


@uring
@both
def test_the_grace_of_a_retiring_process_holds_for_answers_under_way(natively: bool) -> None:
    """The word to retire, and the end of a send that was begun before it, come in one turn."""
    service = Daemon(kilobyte, 0, natively, Proactor)
    loop: Any = service.loop
    for _ in range(2):
        service.send(0, GET % b"/")
    ours, theirs = socket.socketpair()

    def retire() -> None:
        ours.recv(1)
        service.host.draining = True
        loop.retire(0.3, False)

    with ours, theirs:
        loop.watch(ours.fileno(), retire)
        service.clients[0].send(GET % b"/")
        loop.turn(0.05)  # received, and its answer begun
        theirs.send(b"x")
        until = monotonic() + SECONDS  # much less than --keep-alive
        while not loop.done:
            assert monotonic() < until, "it waits for the next request"
            loop.turn(0.1)
        loop.unwatch(ours.fileno())
    service.outcome()


# ---- threads ----------------------------------------------------------------------------------


ENDS = Ends(server="h", port="1", client="c", client_port="2")


def limits_of(body: int, template: dict[str, Any]) -> Any:
    assert native is not None
    return native.HeadLimits(
        head=4094, fields=100, body=body, template=template, fronts=None, hosts=None, ids=False
    )


class Conn(Link):
    """Enough of a connection."""


class Told:
    """A loop that remembers what it was told."""

    def __init__(self) -> None:
        self.values: list[tuple[str, Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda conn, value=None: self.values.append((name, conn, value))


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(2)]
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


def test_another_leader_never_sees_the_bytes_of_the_former_ones_client(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    """Reading a head makes objects, the collector may run, and a finalizer let another thread run."""
    assert native is not None

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    exchange = native.WsgiShortcut(
        app=app, respond=print, recorder=scratch_row().recorder(True), access=None, lines=None,
        date_at=lambda _: b"date", keep_alive=True, server=b"", most=9, limits=limits_of(1 << 30, {"a": 1}),
        early_hints=False, server_timing=False,
    )  # fmt: skip
    op, told = Await("idle", 5, idle=True, shortcut=exchange), Told()
    conns: dict[int, Any] = {}
    for ours, theirs in pairs:
        conn = Conn()
        conn.fd, conn.op, conn.client, conn.moved = ours.fileno(), op, "c", 0
        conn.note = ENDS
        conns[conn.fd] = conn
        theirs.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nof %3d" % conn.fd)
    first, second = conns.values()
    shared = native.Baton(calm=1000, looks=3)  # three looks, and no sleep
    driver = native.InlineDriver(
        loop=told, driver=None, calls={}, connections=conns, silent={}, suspended=None, baton=shared
    )

    def overtake() -> None:
        if shared.watch(0.0) == baton.STILL and shared.seize() is first:
            driver.run([(second.fd, 1)], 0.0)

    class Finalizer:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            thread = threading.Thread(target=overtake)
            thread.start()
            thread.join(SECONDS)

    threshold = gc.get_threshold()
    gc.disable()
    Finalizer()
    spare = [{} for _ in range(300)]  # empties the free list of dictionaries
    gc.set_threshold(1)
    gc.enable()
    try:
        driver.run([(first.fd, 1)], 0.0)
    finally:
        gc.set_threshold(*threshold)
        del spare
    assert [conn for _, conn, _ in told.values] == [first]
    assert told.values[0][2].endswith(b"of %3d" % first.fd)


def test_a_list_that_another_thread_changes_is_answered_as_it_was() -> None:
    """The Date is asked of Python once in a second: then other threads may run."""
    assert native is not None
    shared = [bytes(b"A" * 40)]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return shared

    def date(second: float) -> bytes:
        shared[0] = b""
        spare.extend(bytes(b"C" * 40) for _ in range(100))
        return b"date"

    spare: list[bytes] = []
    limits = limits_of(0, {})
    exchange = native.WsgiShortcut(
        app=app, respond=print, recorder=scratch_row().recorder(True), access=None, lines=None, date_at=date,
        keep_alive=True, server=b"", most=99, limits=limits, early_hints=False, server_timing=False,
    )  # fmt: skip
    request = native.read_head(GET % b"/", limits, ENDS)
    assert exchange.run(request, SimpleNamespace(client=""), None).endswith(b"\r\n\r\n" + b"A" * 40)


# ---- streams ----------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    alive: list[weakref.ref[Echo]]
    transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.alive.append(weakref.ref(self))

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"1" + data)
        self.data_received = lambda data: self.transport.write(b"2" + data)  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        del self.data_received  # which refers to us


@both
def test_a_protocol_may_change_its_methods_and_is_freed_when_it_is_over(natively: bool) -> None:
    Echo.alive = []

    async def scenario() -> bytes:
        service = Daemon(writing, 0, natively)
        interface: Any = Evented(Echo, service.config, service.host)  # type: ignore[arg-type]
        service.use(interface)
        for piece in (b"a", b"b", b"c"):
            service.send(0, piece)
        service.send(0, None)
        await asyncio.sleep(0)  # connection_lost
        service.outcome()
        return service.heard[0]

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(scenario()) == b"1a2b2c"
        assert [ref() for ref in Echo.alive] == [None]
    finally:
        gc.enable()
