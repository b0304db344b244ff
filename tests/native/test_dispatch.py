"""A loop over native code against one without: whatever clients send, and an application does, the clients,
the recorder, the access log and the error log see the same (native/engine_inline.c, engine/inline.py).

Clients and applications are drawn at random, by a seed that a failure prints.
"""

from __future__ import annotations

import base64
import errno
import gc
import os
import random
import re
import socket
from collections.abc import Callable
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from forkd.app.wsgi.exchange import Wsgi
from forkd.engine.context import ChildContext
from forkd.engine.deadlines import NEVER
from forkd.engine.inline import InlineLoop
from forkd.engine.intake import ListenerIntake
from forkd.models.proactor import Proactor
from forkd.native import native
from forkd.session.begin import Begin
from forkd.session.http1 import Http1
from forkd.system.cells import (
    ACCEPTED,
    CODES,
    CONNECTIONS,
    DURATION_BLOCKS,
    DURATION_CELLS,
    FAILURES,
    IN_FLIGHT,
    OCCUPIED,
    REASONS,
    RECEIVED,
    REQUEST,
    REQUESTS,
    SENT,
    WAITS,
)
from forkd.system.lease import Lease, make_bells
from forkd.system.scoreboard import scratch_row
from forkd.system.uring import usable
from tests.http.test_corpus import CASES
from tests.native.test_exchange import (
    HEADS,
    ROUNDS,
    SEED,
    Access,
    Host,
    Log,
    behaviour,
    config_of,
    retiring,
)

pytestmark = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")
uring = pytest.mark.skipif(bool(usable()), reason=f"io_uring: {usable()}")

IO = {InlineLoop: "epoll", Proactor: "io_uring"}
SECONDS = 20  # in which whatever is waited for has happened
LOG, ACCESS_LOG = 3, 4  # in an outcome
GONE = None  # in place of bytes: the client leaves
DATE = re.compile(rb"Date: [^\r]*GMT")


def listen() -> socket.socket:
    """On a unix socket: clients have no ports, which would differ. What is sent comes in many pieces."""
    listener = socket.socket(socket.AF_UNIX)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    listener.bind("")  # a name of the kernel's choice (unix(7))
    listener.listen(64)
    listener.setblocking(False)
    return listener


class Daemon:
    """One child's loop, with the clients that it was given."""

    def __init__(
        self, make: Callable[[list[str]], Any], drains: int, native: bool, model: Any = InlineLoop
    ) -> None:
        self.events: list[str] = []
        self.row, self.host, self.log = scratch_row(), Host(), Log()
        self.access = Access(native)
        host: Any = self.host
        host.recorder, host.access, host.log = self.row.recorder(native), self.access, self.log

        def retire() -> None:
            host.draining = True
            wsgi.retire()

        self.config = config_of(native=native)
        app = retiring(make(self.events), drains, retire)
        wsgi = Http1(Wsgi(app, self.config, host, multithread=False), self.config, host)
        self.model = model
        self.bells = make_bells(1)
        lease = Lease(self.bells)
        lease.set_members([1])
        lease.grant(1)
        self.lease = lease
        self.listener = listen()
        self.use(wsgi)
        self.clients: list[socket.socket] = []
        self.heard: list[bytes] = []

    def use(self, interface: Any) -> None:
        """Serve with this interface from now on."""
        host: Any = self.host
        begin = Begin("127.0.0.1", 80).bind(interface, self.config, host)
        self.loop = self.model(
            ChildContext(
                self.config, IO[self.model], 1, self.row, None, self.lease,
                [ListenerIntake(self.listener, begin, shared=False)],
                interface, host, self.log, self.access, lambda number: None, {}, lambda: NEVER,
            )
        )  # fmt: skip

    def expect_brief(self) -> None:
        """As after hundreds of connections that were over at once."""
        while not self.loop.driver._batch.full:
            self.loop.driver._batch.served(1, 0.0, 0)

    def later(self) -> None:
        """What has been silent until now no longer is."""
        for _ in range(2):
            self.loop.driver._look_at = 0.0
            self.loop.turn(0)

    def connect(self) -> None:
        client = socket.socket(self.listener.family)
        client.connect(self.listener.getsockname())
        client.setblocking(False)
        self.clients.append(client)
        self.heard.append(b"")

    def send(self, number: int, data: bytes | None, rest: bool = True) -> None:
        """The first bytes of a client arrive together with it, those of every other one behind it."""
        while len(self.clients) <= number:
            self.connect()
            if number % 2:
                self.rest()
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
                if rest or data:
                    self.rest()
        if rest:
            self.rest()

    def rest(self) -> None:
        """Until nothing more happens, and nothing is under way: the kernel may take its time over a send."""
        quiet, deadline = 0, monotonic() + SECONDS
        while quiet < 3 or self._sending():
            assert monotonic() < deadline, "a send has no end"
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

    def _sending(self) -> bool:
        loop = self.loop
        return isinstance(loop, Proactor) and any(
            map(loop.handles.sending, loop.connections.by_fd)
        )

    def outcome(self) -> list[Any]:
        if isinstance(self.loop, InlineLoop):
            self.later()
        accepted = self.row.cells[ACCEPTED], self.row.cells[CONNECTIONS]
        ended = sorted(conn.op.name for conn in self.loop.connections.by_fd.values())
        self.loop.abandon()
        self.loop.turn(0)  # a ring closes what it was told to when it is entered
        self.loop.handles.close()
        self.listener.close()
        # Bells live as long as their process, and this one has many services.
        pool = [self.loop._queue.bell] if isinstance(self.loop, Proactor) else []
        for bell in [*self.bells, *pool]:
            os.close(bell)
        cells = self.row.cells
        assert cells[REQUEST] == cells[IN_FLIGHT] == 0
        measured = [sum(cells[block + 1 : block + DURATION_CELLS]) for block in DURATION_BLOCKS]
        assert sum(measured) <= cells[REQUESTS]
        assert cells[SENT] >= sum(map(len, self.heard))
        codes = {code: cells[CODES + code] for code in range(600) if cells[CODES + code]}
        for client in self.clients:
            client.close()
        heard = [DATE.sub(b"", data) for data in self.heard]
        lines = self.access.told()  # of several clients by turns, which take what time they take
        return [
            heard,
            ended,
            sorted(self.events),
            self.log.lines,
            lines if len(self.clients) == 1 else sorted(lines),
            cells[REQUESTS],
            codes,
            (cells[RECEIVED], cells[SENT]),
            accepted,
        ]


def run(
    make: Callable[[list[str]], Any],
    script: list[tuple[int, bytes | None]],
    drains: int,
    native: bool,
    model: Any = InlineLoop,
    brief: bool = False,
) -> list[Any]:
    service = Daemon(make, drains, native, model)
    if brief:
        service.expect_brief()
    for at, (number, data) in enumerate(script):
        # Where nothing depends on whose turn it is, several come together.
        service.send(number, data, rest=drains > 0 or number == 0 or at + 1 == len(script))
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
        brief = rng.random() < 0.5
        first = run(make, script, drains, True, brief=brief)
        assert first == run(make, script, drains, False)


@uring
def test_so_it_does_over_io_uring() -> None:
    print(f"FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    for _ in range(ROUNDS // 4):
        make, script, drains = behaviour(rng), script_of(rng), rng.choice((0, 0, 1, 3))
        first = run(make, script, drains, True, Proactor)
        second = run(make, script, drains, False, Proactor)
        if not drains and len({number for number, _ in script}) > 1:
            # Several come together, and whose request completes first is the kernel's to choose, each time
            # anew: what each client hears has its order, but not what both logs say of different clients.
            for outcome in (first, second):
                for log in (LOG, ACCESS_LOG):
                    outcome[log].sort()
        assert first == second


@pytest.mark.parametrize("model", [InlineLoop, pytest.param(Proactor, marks=uring)])
@pytest.mark.parametrize("natively", [True, False])
def test_no_descriptor_is_left(model: Any, natively: bool) -> None:
    rng = random.Random(SEED)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        run(behaviour(rng), script_of(rng), rng.choice((0, 0, 1, 3)), natively, model)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


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


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
@pytest.mark.parametrize("end", [b"", b"Connection: close\r\n"])
def test_the_ends_of_a_connection_are_told_alike(
    family: socket.AddressFamily, host: str, end: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_tcp() -> socket.socket:
        listener = socket.create_server((host, 0), family=family)
        listener.setblocking(False)
        return listener

    monkeypatch.setitem(globals(), "listen", on_tcp)
    for natively in (True, False):
        service = Daemon(usual, 0, natively)
        for number in range(2):
            service.send(number, b"GET / HTTP/1.1\r\nHost: a\r\n" + end + b"\r\n")
        for client, event in zip(service.clients, service.events, strict=True):
            for name, value in zip(("ADDR", "PORT"), client.getsockname(), strict=False):
                assert f"('REMOTE_{name}', '{value}')" in event
            assert "('SERVER_NAME', '127.0.0.1')" in event
            assert "('SERVER_PORT', '80')" in event
        service.outcome()


LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def brief(clients: int = 0) -> Daemon:
    service = Daemon(usual, 0, True)
    service.expect_brief()
    # However long this process had no processor: a slow request ends what these tests are about.
    served = service.loop.driver.served
    service.loop.driver.served = lambda count, seconds: served(count, 0.0)
    service.send(0, LAST)  # from here on native code accepts
    assert service.loop.driver._native.one_shot is not None
    for _ in range(clients):
        service.connect()
        service.rest()
    return service


def test_an_early_connection_is_none_of_ours_until_it_is_more_than_brief() -> None:
    service = brief(clients=3)
    assert len(service.loop.driver._silent) == 3
    assert service.row.cells[CONNECTIONS] == 0
    assert service.row.cells[ACCEPTED] == 4
    service.send(1, LAST)
    service.send(2, LAST[:9])
    assert len(service.loop.driver._silent) == 1
    assert service.row.cells[CONNECTIONS] == 1
    service.send(2, LAST[9:])
    service.later()
    assert not service.loop.driver._silent
    assert service.row.cells[CONNECTIONS] == 1
    service.send(3, HEADS[0])
    service.send(3, LAST)
    assert [heard.count(b"200 OK") for heard in service.heard] == [1, 1, 1, 2]
    assert service.outcome()[-1] == (4, 0)


def test_that_native_code_accepts_does_not_keep_the_loop_from_asking_how_long_they_waited() -> None:
    service = brief()
    asked: list[int] = []
    look_at = service.loop.accept_wait.look_at
    service.loop.accept_wait = SimpleNamespace(due=NEVER, look_at=lambda fd, now: asked.append(fd))
    service.send(1, LAST)
    assert asked == []  # native code has had it
    service.loop.accept_wait.due = 0.0
    service.send(2, LAST)
    assert len(asked) == 1
    look_at(service.clients[2].fileno(), 5.0)  # a unix socket: it has no clock
    assert sum(service.row.cells[WAITS:OCCUPIED]) == 0
    service.loop.accept_wait.due = NEVER
    service.send(3, LAST)
    assert len(asked) == 1
    assert service.loop.driver._native.one_shot is not None
    assert [heard.count(b"200 OK") for heard in service.heard] == [1, 1, 1, 1]
    assert service.outcome()[-1] == (4, 0)


def test_early_connections_are_served_by_a_child_that_retires() -> None:
    service = brief(clients=2)
    service.loop.retire(5.0, False)
    assert not service.loop.driver._silent
    assert service.row.cells[CONNECTIONS] == 2
    for number in (1, 2):
        service.send(number, LAST)
    assert all(b"200 OK" in heard for heard in service.heard)
    assert service.loop.done
    service.outcome()


def test_early_connections_are_closed_when_all_is_abandoned() -> None:
    service = brief(clients=2)
    service.loop.abandon()
    assert [client.recv(1) for client in service.clients[1:]] == [b"", b""]
    service.outcome()


def test_many_at_a_time_are_all_served_and_the_next_leader_is_told() -> None:
    service = brief()
    for number in range(1, 31):
        service.connect()
        service.clients[number].send(LAST if number % 3 else HEADS[0])
    service.rest()
    assert all(heard.count(b"200 OK") == 1 for heard in service.heard)
    assert service.row.cells[ACCEPTED] == 31
    assert service.row.cells[CONNECTIONS] == 10
    service.outcome()


def test_early_connections_do_not_pass_the_limit() -> None:
    service = brief()
    service.loop.acceptor._most = 20
    for number in range(1, 31):
        service.connect()
        service.clients[number].send(HEADS[0])
    service.rest()
    assert service.row.cells[CONNECTIONS] in (19, 20)  # one that was idle may have made room
    service.outcome()


@pytest.mark.parametrize("natively", [True, False])
def test_a_listener_that_epoll_has_no_room_for_is_tried_again(natively: bool) -> None:
    service = Daemon(usual, 0, natively)
    handles, acceptor = service.loop.handles, service.loop.acceptor
    add = handles.add

    def no_room(fd: int, mask: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    handles.add = no_room
    service.connect()
    service.clients[0].send(LAST)
    service.loop.turn(0)  # it leads, and would wait for the listener
    assert acceptor.no_room()
    assert acceptor.pause_ends != NEVER
    assert service.row.cells[ACCEPTED] == 0
    handles.add = add
    acceptor.pause_ends = 0.0  # which has come
    service.rest()
    assert service.heard[0].count(b"200 OK") == 1
    assert service.row.cells[ACCEPTED] == 1
    service.outcome()


@pytest.mark.parametrize("room", [True, False])
def test_an_early_connection_that_epoll_has_no_room_for(room: bool) -> None:
    """It is one as any other at once; and refused, if it cannot be waited for either."""
    service = Daemon(usual, 0, True)
    add = service.loop.handles.add

    def no_room(fd: int, mask: int) -> None:
        if fd not in service.loop.acceptor.intakes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(fd, mask)

    with open(os.devnull) as no_epoll:
        service.loop.driver._epoll = no_epoll.fileno()  # epoll_ctl(2): EINVAL
        service.expect_brief()
        service.send(0, LAST)
        assert service.loop.driver._native.one_shot is not None
        service.loop.handles.add = add if room else no_room
        for number in (1, 2):
            service.connect()
            service.rest()
            assert not service.loop.driver._silent
            assert service.row.cells[CONNECTIONS] == (number if room else 0)
        service.loop.handles.add = add
        service.send(3, HEADS[0])
    assert [b"200 OK" in heard for heard in service.heard] == [True, False, False, True]
    assert service.row.cells[FAILURES + REASONS.index("other")] == (0 if room else 2)
    service.outcome()


def test_links_that_nobody_serves_are_closed() -> None:
    assert native is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        source = native.Source(fd=listener.fileno(), server="a", port="80", mend=print)
        assert len(source.accept(2)) == 2
        assert len(source.accept(9)) == 1
        assert source.accept(9) == []
        for client in clients:
            assert client.recv(1) == b""
            client.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        native.Source(fd=-1, server="a", port="80", mend=print).accept(1)


def test_wrong_arguments_are_errors() -> None:
    assert native is not None
    with pytest.raises(TypeError):
        native.InlineDriver(
            loop=None, driver=None, calls={}, connections={}, silent={}, suspended=None, baton=object()
        )
    driver = native.InlineDriver(
        loop=None, driver=None, calls={}, connections={}, silent={}, suspended=None, baton=None
    )
    for wrong in [(), (1, 2.0), ([1], 2.0), ([(1,)], 2.0), ([], None)]:
        with pytest.raises(TypeError):
            driver.run(*wrong)
    for wrong in [(), (1, 2), ([None], None, None, -1), ([], None, None, "a")]:
        with pytest.raises(TypeError):
            driver.begin(*wrong)
    with pytest.raises(TypeError):
        driver.receive(1, 2.0)
    with pytest.raises(TypeError):
        native.Source(fd=0, server="a", port="80", mend=print).accept()
    with pytest.raises(TypeError):
        native.epoll_wait()
