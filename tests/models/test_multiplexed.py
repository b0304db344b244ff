"""A session with several exchanges at a time, as HTTP/2 will be one: under every model, the second exchange
begins while the first is in the application, and the connection goes on reading.

The session is a protocol of this file's own, which its application puts in the place of WSGI's.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
from collections.abc import Iterator

import pytest

from forkd.models import registry
from tests.process.conftest import Daemon, alive, until

from .test_wakeups import descriptors

#: A line from the client, and what comes of it: `open N` and `quick N` begin an exchange, which answers in
#: two pieces, and `fail N` one that fails after the first. Those of `open` stay in the application until
#: `free N`, and those of `hold` until there is a file `free`. The session itself answers `inside`, with the
#: exchanges that are there, and `closed`, with those that are over. A client that sends no more has its last
#: answers.
APP = """
    import dataclasses, os, sys, threading, time
    from forkd.app import interfaces
    from forkd.session.seam import ANY_BYTES_PER_SECOND, Await, Multiplexed

    sys.setswitchinterval(%s)
    HERE = os.path.dirname(__file__)
    IDLE = Await("idle", 30, rate=ANY_BYTES_PER_SECOND, idle=True)
    BUSY = Await("busy", 0)
    LAST = Await("last ones", 0, read=False)  # the client sends no more
    inside, closed, free = set(), set(), {}

    def app(environ, start):
        pass

    def answer(kind, number, recorder):
        ticket = recorder.begin(f"GET /{kind}/{number} HTTP/1.1".encode()) if kind == "hold" else 0
        try:
            if kind == "open":
                inside.add(number)
                assert free.setdefault(number, threading.Event()).wait(60)
                inside.remove(number)
            if kind == "hold":
                inside.add(number)
                while not os.path.exists(f"{HERE}/free"):
                    time.sleep(0.01)
            yield b"a"
            if kind == "fail":
                raise ValueError(number)
            yield b"b"
            return b"end"
        finally:
            if ticket:
                recorder.end(ticket, 200, recorder.took(ticket))
                open(f"{HERE}/closed", "x").close()
            closed.add(number)

    class Scripted:
        opening = None
        paced = False

        def __init__(self, host):
            self.host = host

        def retire(self):
            pass

        def session(self, peer):
            here, rest, wait = {}, b"", BUSY
            try:
                while True:
                    if wait is LAST and not here:
                        return
                    got = yield wait if here else IDLE
                    if type(got) is Multiplexed:
                        yield from self.go_on(got, here)
                    elif not got:
                        if not here:
                            return
                        wait = LAST
                    else:
                        *lines, rest = (rest + got).split(b"\\n")
                        for line in lines:
                            yield from self.obey(line.decode(), peer, here)
                    if self.host.draining and not here:
                        return
            finally:
                for exchange in here:
                    exchange.close()

        def obey(self, line, peer, here):
            kind, _, number = line.partition(" ")
            if kind == "free":
                free.setdefault(number, threading.Event()).set()
            elif kind in ("inside", "closed"):
                yield " ".join([kind, *sorted(globals()[kind])]).encode() + b"\\n"
            else:
                steps = answer(kind, number, self.host.recorder)
                exchange = Multiplexed(peer, steps, f"GET /{kind} HTTP/1.1".encode())
                here[exchange] = number
                if (yield exchange) is not None:
                    yield from self.go_on(exchange, here)

        def go_on(self, exchange, here):
            while True:
                what = exchange.result if exchange.failure is None else repr(exchange.failure).encode()
                yield here[exchange].encode() + b":", what + b"\\n"
                if exchange.done:
                    del here[exchange]
                    return
                if (yield exchange) is None:
                    return

    interfaces.INTERFACES = tuple(
        dataclasses.replace(row, multiplexes=True, make=lambda app, config, host, worker: Scripted(host))
        if row.name == "wsgi" else row for row in interfaces.INTERFACES
    )
"""

#: But for aio, which is refused.
WAYS = [
    ["-m", row.name, "--io", io, *handoff]
    for row in registry.MODELS
    for io in row.ios
    if io != "aio"
    for handoff in (
        [["--handoff", "socket"], ["--handoff", "task"]] if row.name == "half-sync-half-reactive" else [[]]
    )
]
#: Those with threads for the application.
THREADED = [
    way for way in WAYS
    if (registry.get(way[1]).threaded or registry.get(way[1]).pooled) and way[3] != "blocking"
]  # fmt: skip

pytestmark = pytest.mark.parametrize("native", ["--native", "--no-native"])


class Client:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines = sock.makefile("r")

    def say(self, *lines: str) -> None:
        self._sock.sendall("".join(f"{line}\n" for line in lines).encode())

    def hear(self, count: int = 1) -> list[str]:
        return [self._lines.readline().rstrip("\n") for _ in range(count)]

    def ask(self, what: str) -> set[str]:
        self.say(what)
        first, *others = self.hear()[0].split(" ")
        assert first == what
        return set(others)

    def end(self) -> None:
        """Send no more."""
        self._sock.shutdown(socket.SHUT_WR)

    def leave(self, reset: bool = True) -> None:
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._lines.close()
        self._sock.close()


@contextlib.contextmanager
def client(service: Daemon) -> Iterator[Client]:
    found = Client(service.connect())
    try:
        yield found
    finally:
        found.leave(reset=False)


def start(service: Daemon, way: list[str], native: str, *flags: str, interval: float = 0.005) -> None:
    service.write_app(APP % interval)
    service.start(*way, native, "-w", "1", *flags)


@pytest.mark.parametrize("way", THREADED, ids=" ".join)
def test_the_second_begins_while_the_first_is_in_the_application(
    service: Daemon, way: list[str], native: str
) -> None:
    start(service, way, native, "--threads", "4")
    with client(service) as one:
        one.say("open 1")
        until(lambda: one.ask("inside") == {"1"}, "the first in the application, and an answer meanwhile")
        one.say("open 2")
        until(lambda: one.ask("inside") == {"1", "2"}, "the second, too")
        one.say("free 2")
        assert one.hear(3) == ["2:a", "2:b", "2:end"]
        assert one.ask("inside") == {"1"}
        one.say("quick 3", "fail 4")
        found = one.hear(5)
        assert [line for line in found if line[0] == "3"] == ["3:a", "3:b", "3:end"]
        assert [line for line in found if line[0] == "4"] == ["4:a", "4:ValueError('4')"]
        one.say("free 1")
        assert one.hear(3) == ["1:a", "1:b", "1:end"]
        assert one.ask("closed") == {"1", "2", "3", "4"}


@pytest.mark.parametrize("way", THREADED, ids=" ".join)
def test_a_client_leaves_while_its_exchanges_are_in_the_application(
    service: Daemon, way: list[str], native: str
) -> None:
    start(service, way, native, "--threads", "4")
    with client(service) as other:
        assert other.ask("inside") == set()
        before = descriptors(service)
        one = Client(service.connect())
        one.say("open 1", "open 2")
        until(lambda: other.ask("inside") == {"1", "2"}, "both in the application")
        one.leave()
        until(lambda: service.metric("forkd_connections") == 1, "its connection closed")
        assert other.ask("closed") == set()
        other.say("free 1", "free 2")
        until(lambda: other.ask("closed") == {"1", "2"}, "both closed, once they had no thread")
        other.say("quick 3")
        assert other.hear(3) == ["3:a", "3:b", "3:end"]
        until(lambda: descriptors(service) == before, "no descriptor leaked")


@pytest.mark.parametrize("way", THREADED, ids=" ".join)
def test_a_client_that_sends_no_more_is_answered(service: Daemon, way: list[str], native: str) -> None:
    start(service, way, native, "--threads", "4")
    with client(service) as one, client(service) as other:
        one.say("open 1", "open 2")
        one.end()
        until(lambda: other.ask("inside") == {"1", "2"}, "both in the application")
        assert other.ask("inside") == {"1", "2"}
        other.say("free 1")
        assert one.hear(3) == ["1:a", "1:b", "1:end"]
        other.say("free 2")
        assert one.hear(4) == ["2:a", "2:b", "2:end", ""]
        if way[3] in ("epoll", "poll"):
            two = Client(service.connect())
            two.say("open 3")
            two.end()
            until(lambda: other.ask("inside") == {"3"}, "it is in the application")
            two.leave()
            until(lambda: service.metric("forkd_connections") == 1, "its connection closed")
            other.say("free 3")
            until(lambda: "3" in other.ask("closed"), "closed, once it had no thread")


def hold(service: Daemon) -> None:
    """An exchange is in the application, and its client has left."""
    with client(service) as other:
        one = Client(service.connect())
        one.say("hold 1")
        until(lambda: other.ask("inside") == {"1"}, "it is in the application")
        one.leave()
        until(lambda: service.metric("forkd_connections") == 1, "its connection closed")
    until(lambda: service.metric("forkd_connections") == 0, "the other closed, too")


@pytest.mark.parametrize("way", THREADED, ids=" ".join)
def test_a_worker_that_ends_waits_for_what_a_client_has_left_behind(
    service: Daemon, way: list[str], native: str
) -> None:
    start(service, way, native, "--threads", "2")
    hold(service)
    (old,) = service.worker_pids()
    service.ok("reload")
    until(lambda: service.worker_pids() not in ([], [old]), "another worker serves")
    with client(service) as one:
        one.say("quick 2")
        assert one.hear(3) == ["2:a", "2:b", "2:end"]
    assert alive(old) and not (service.dir / "closed").exists()
    (service.dir / "free").touch()
    until(lambda: not alive(old), "it has ended")
    assert (service.dir / "closed").exists()


@pytest.mark.parametrize("way", [WAYS[0], ["-m", "reactor", "--io", "epoll"]], ids=" ".join)
def test_what_it_has_waited_for_in_vain_is_named(service: Daemon, way: list[str], native: str) -> None:
    service.expected_errors = ["graceful-timeout"]
    start(service, way, native, "--threads", "2", "--graceful-timeout", "0.2")
    hold(service)
    (old,) = service.worker_pids()
    service.signal(signal.SIGHUP)
    until(lambda: not alive(old), "it was killed")
    until(lambda: "GET /hold/1 HTTP/1.1" in service.log(), "the report names it")


def test_aio_is_refused(service: Daemon, native: str) -> None:
    service.expected_errors = ["gone: boot"]
    service.write_app(APP % 0.005)
    done = service.run("start", *service.flags("-m", "proactor", "--io", "aio", native))
    assert done.returncode != 0
    assert "one after the other" in done.stderr and "use --io io_uring" in done.stderr
    assert not re.search("Traceback", done.stderr)


@pytest.mark.parametrize("way", THREADED, ids=" ".join)
def test_no_wake_up_is_lost(service: Daemon, way: list[str], native: str) -> None:
    """The interpreter switches threads all the time: as in test_wakeups.py."""
    start(service, way, native, "--threads", "4", interval=1e-6)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client(service)) for _ in range(3)]
        for turn in range(20):
            numbers = [f"{turn}.{n}" for n in range(10)]
            for each in clients:
                each.say(*(f"quick {number}" for number in numbers))
            for each in clients:
                found = each.hear(30)
                for number in numbers:
                    mine = [line for line in found if line.startswith(f"{number}:")]
                    assert mine == [f"{number}:a", f"{number}:b", f"{number}:end"]
    until(lambda: service.metric("forkd_connections") == 0, "each connection closed")


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_one_thread_runs_them_one_after_the_other(service: Daemon, way: list[str], native: str) -> None:
    """Also where there is no other: by the thread that has the connection."""
    row = registry.get(way[1])
    start(service, way, native, *(["--threads", "1"] if row.threaded or row.pooled else []))
    with client(service) as one:
        one.say(*(f"quick {n}" for n in range(100)))
        one.say("fail x")
        found = one.hear(302)
        for n in range(100):
            assert [line for line in found if line.startswith(f"{n}:")] == [f"{n}:a", f"{n}:b", f"{n}:end"]
        assert [line for line in found if re.match("x", line)] == ["x:a", "x:ValueError('x')"]
        assert len(one.ask("closed")) == 101
