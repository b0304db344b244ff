"""A second shortcut, whose application may answer later (suspending.c), in real daemons and all drivers."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import forkd.native
from forkd.system.uring import usable
from tests.native.suspending import BIG
from tests.process.conftest import Daemon, alive, until

pytestmark = pytest.mark.skipif(
    forkd.native.native is None, reason="forkd was installed without a compiler"
)
HERE = Path(__file__).parent
ROWS = {
    "epoll": (),
    "poll": ("--io", "poll"),
    "select": ("--io", "select"),
    "sigio": ("--io", "sigio"),
    "threads": ("--threads", "3"),
    "io_uring": ("--model", "proactor", "--io", "io_uring"),
}
#: Those where RST is seen behind bytes that are not read, and behind FIN.
PAST_BYTES = ("epoll", "poll", "sigio", "threads", "io_uring")
PAST_FIN = ("epoll", "poll", "sigio", "threads")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the first process of the run that needs it."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "suspending"
    directory.mkdir(exist_ok=True)
    path = directory / "_native.abi3.so"
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _make(path)
    return path


def _make(path: Path) -> None:
    """All of native code, and suspending.c, whose PyInit__native is another."""
    sources = sorted(Path(forkd.native.__file__).parent.glob("*.c"))
    flags = ["-shared", "-fPIC", "-g", "-O0", f"-I{sources[0].parent}"]
    flags += [f"-I{sysconfig.get_paths()['include']}"]
    if "libasan" in os.environ.get("LD_PRELOAD", ""):  # scripts/check --native
        flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    objects = []
    for source in (*sources, HERE / "suspending.c"):
        objects.append(path.parent / f"{source.stem}.o")
        renamed = ["-DPyInit__native=plain_init"] if source.name == "module.c" else []
        subprocess.run(["gcc", "-c", *flags, *renamed, str(source), "-o", str(objects[-1])], check=True)
    whole = path.with_suffix(".new")
    subprocess.run(["gcc", *flags, *map(str, objects), "-o", str(whole)], check=True)
    whole.rename(path)


class Lines(Daemon):
    library: Path

    def argv(self, verb: str, *arguments: str) -> list[str]:
        argv = super().argv(verb, *arguments)
        if verb != "start":
            return argv
        return [sys.executable, str(HERE / "suspending.py"), str(self.library), *argv[3:]]


@pytest.fixture(params=ROWS)
def lines(request: pytest.FixtureRequest, library: Path, tmp_path: Path) -> Iterator[Lines]:
    if request.param == "io_uring" and usable():
        pytest.skip(f"io_uring: {usable()}")
    daemon = Lines(tmp_path)
    daemon.library = library
    daemon.start_in_foreground("-w", "1", *ROWS[request.param])
    yield daemon
    daemon.finish()


class Client:
    def __init__(self, daemon: Daemon) -> None:
        self.socket = daemon.connect()
        self.file = self.socket.makefile("rb")

    def send(self, text: bytes) -> None:
        self.socket.sendall(text)

    def line(self) -> bytes:
        return self.file.readline()

    def ask(self, text: bytes) -> bytes:
        self.send(text + b"\n")
        return self.line()

    def close(self, reset: bool = False) -> None:
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file.close()
        self.socket.close()


def waits(daemon: Daemon, waiting: int, gone: int = 0) -> None:
    """So many calls wait for their answer, and so many clients have left before they had one."""
    found = b""

    def reached() -> bool:
        nonlocal found
        with closing(Client(daemon)) as client:
            found = client.ask(b"count")
        return found == b"%d %d\n" % (waiting, gone)

    try:
        until(reached, "calls that wait")
    except AssertionError as error:
        wanted = f"{waiting} {gone}"
        raise AssertionError(f"{found!r} and not {wanted}: {daemon.log()}") from error


def test_a_call_is_answered_later(lines: Lines) -> None:
    """The first one of a connection, which began as a bare link, and the next ones."""
    with closing(Client(lines)) as client, closing(Client(lines)) as other:
        assert client.ask(b"now") == b"now\n"
        for number in range(3):
            for each in (client, other):
                each.send(b"later %d\n" % number)
            waits(lines, 2)
            with closing(Client(lines)) as third:
                assert third.ask(b"go") == b"go\n"
            for each in (client, other):
                assert each.line() == b"late later %d\n" % number
                assert each.ask(b"now") == b"now\n"
        assert client.ask(b"early") == b"early early\n"
        assert client.ask(b"odd") == b"session odd\n"
        other.send(b"odd later\n")
        waits(lines, 1)
        assert client.ask(b"go") == b"go\n"
        assert other.line() == b"session odd later\n"
        assert other.ask(b"now") == b"now\n"


def test_a_first_call_is_a_last_one(lines: Lines) -> None:
    """Connections that are over with their first request, several at a time."""
    for number in range(300):
        with closing(Client(lines)) as client:
            assert client.ask(b"last %d" % number) == b"last %d\n" % number
            assert client.line() == b""
    clients = [Client(lines) for _ in range(9)]
    for number, client in enumerate(clients):
        client.send((b"last later %d\n", b"last early %d\n", b"last odd %d\n")[number % 3] % number)
    waits(lines, 3)
    with closing(Client(lines)) as client:
        assert client.ask(b"last go") == b"last go\n"
        assert client.ask(b"") == b""
    with closing(Client(lines)) as client:
        assert client.ask(b"go") == b"go\n"
    for number, client in enumerate(clients):
        told = (b"late last later %d\n", b"early last early %d\n", b"session last odd %d\n")[number % 3]
        assert client.line() == told % number
        assert client.line() == b""
        client.close()
    waits(lines, 0)


def test_what_comes_meanwhile_waits(lines: Lines) -> None:
    with closing(Client(lines)) as client, closing(Client(lines)) as other:
        for first in (b"", b"now\n"):  # a bare link, or one that is kept
            if first:
                client.send(first)
                assert client.line() == first
            client.send(b"later 1\n")
            waits(lines, 1)
            client.send(b"now 2\n")
            waits(lines, 1)
            client.send(b"now 3\nlat")
            waits(lines, 1)
            assert other.ask(b"go") == b"go\n"
            assert client.line() == b"late later 1\n"
            # They come as one piece, which is not usual; or in two, where an operation has received them.
            answers = [client.line().removeprefix(b"session ") for _ in range(2)]
            client.send(b"er 4\n")
            answers.append(client.line().removeprefix(b"session "))
            assert answers == [b"now 2\n", b"now 3\n", b"later 4\n"]


def test_a_slow_application_suspends(lines: Lines) -> None:
    """Under threads another one leads by the time its call returns, and later requests are entered apart."""
    clients = [Client(lines) for _ in range(6)]
    for turn in range(3):
        for client in clients:
            client.send(b"slow later %d\n" % turn)
        waits(lines, len(clients))
        with closing(Client(lines)) as other:
            assert other.ask(b"go") == b"go\n"
        for client in clients:
            assert client.line() == b"late slow later %d\n" % turn
        for client in clients:
            client.send(b"slow early\n")
        for client in clients:
            assert client.line() == b"early slow early\n"
    for client in clients:
        client.close()


def test_an_answer_that_no_socket_takes_at_once(lines: Lines) -> None:
    with closing(Client(lines)) as client, closing(Client(lines)) as other:
        for _ in range(2):
            client.send(b"big later\n")
            waits(lines, 1)
            assert other.ask(b"go") == b"go\n"
            assert other.ask(b"now") == b"now\n"
            assert client.line() == b"late " + b"x" * BIG + b"\n"
            assert client.ask(b"now") == b"now\n"


def descriptors(daemon: Daemon) -> int:
    (pid,) = daemon.worker_pids()
    return len(os.listdir(f"/proc/{pid}/fd"))


def no_session_first(lines: Lines) -> int:
    """Have the first session make a bell. Returns how many descriptors the child has then."""
    with closing(Client(lines)) as client:
        client.send(b"early\n")
        client.line()
    until(lambda: lines.workers()[0]["connections"] == 0, "all are closed")
    return descriptors(lines)


def test_clients_leave_meanwhile(lines: Lines, request: pytest.FixtureRequest) -> None:
    before, gone = no_session_first(lines), 0
    for first in (b"", b"now\n"):  # a bare link, or one that is kept
        clients = [Client(lines) for _ in range(5)]
        for client in clients:
            if first:
                client.send(first)
                assert client.line() == first
            client.send(b"later\n")
        waits(lines, 5, gone)
        for client in clients[1:]:
            client.close(reset=True)
        gone += 4
        waits(lines, 1, gone)
        with closing(Client(lines)) as other:
            assert other.ask(b"go") == b"go\n"
        assert clients[0].line() == b"late later\n"
        clients[0].close(reset=True)
        waits(lines, 0, gone)
    for behind, seen in ((b"now\n", PAST_BYTES), (b"", PAST_FIN)):
        client = Client(lines)
        client.send(b"later\n")
        waits(lines, 1, gone)
        if behind:
            client.send(behind)
        else:
            client.socket.shutdown(socket.SHUT_WR)
        waits(lines, 1, gone)
        client.close(reset=True)
        if request.node.callspec.params["lines"] in seen:
            gone += 1
            waits(lines, 0, gone)
        with closing(Client(lines)) as other:
            assert other.ask(b"go") == b"go\n"
        waits(lines, 0, gone)
    until(lambda: lines.workers()[0]["connections"] == 0, "all are closed")
    until(lambda: descriptors(lines) == before, "no descriptor is left")


@pytest.mark.parametrize("behind", [b"", b"now 2\n"])
def test_a_client_that_sends_no_more_is_answered(lines: Lines, behind: bytes) -> None:
    """FIN is the end of what it sends, and not of what it reads."""
    before = no_session_first(lines)
    for first in (b"", b"now\n"):
        clients = [Client(lines) for _ in range(3)]
        for number, client in enumerate(clients):
            if first:
                client.send(first)
                assert client.line() == first
            client.send(b"later %d\n" % number)
        waits(lines, 3)
        for client in clients:
            client.send(behind)
            client.socket.shutdown(socket.SHUT_WR)
        waits(lines, 3)
        clients.pop().close()  # it does not read, either, which nothing says before it is answered
        waits(lines, 3)
        with closing(Client(lines)) as other:
            assert other.ask(b"go") == b"go\n"
        for number, client in enumerate(clients):
            assert client.line() == b"late later %d\n" % number
            if behind:
                assert client.line().removeprefix(b"session ") == behind
            assert client.line() == b""
            client.close()
        waits(lines, 0)
    until(lambda: lines.workers()[0]["connections"] == 0, "all are closed")
    until(lambda: descriptors(lines) == before, "no descriptor is left")


@pytest.mark.parametrize("row", ROWS)
def test_a_unix_socket_says_that_its_client_has_closed_it(row: str, library: Path, tmp_path: Path) -> None:
    if row == "io_uring" and usable():
        pytest.skip(f"io_uring: {usable()}")
    daemon, path = Lines(tmp_path), tmp_path / "s"
    daemon.library = library
    daemon.start_in_foreground("-w", "1", "-b", "127.0.0.1:0", "-b", f"unix:{path}", *ROWS[row])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"later\n")
        waits(daemon, 1)
    gone = int(row in PAST_FIN)
    waits(daemon, 1 - gone, gone)
    with closing(Client(daemon)) as other:
        assert other.ask(b"go") == b"go\n"
    waits(daemon, 0, gone)
    daemon.finish()


def test_a_child_that_retires_waits_for_the_answer(lines: Lines) -> None:
    with closing(Client(lines)) as client, closing(Client(lines)) as other:
        client.send(b"later\n")
        assert other.ask(b"early") == b"early early\n"
        waits(lines, 1)
        (old,) = lines.worker_pids()
        other.send(b"unfin")  # keeps its connection
        lines.signal(signal.SIGHUP)
        until(lambda: lines.worker_pids() not in ([], [old]), "another child serves")
        waits(lines, 0)  # in that one
        other.send(b"ished\n")
        assert other.line() == b"session unfinished\n"
        assert other.ask(b"go") == b"go\n"
        assert client.line() == b"late later\n"
        until(lambda: not alive(old), "it has ended")


def test_all_are_gone_when_a_child_is_to_end_at_once(lines: Lines) -> None:
    with closing(Client(lines)) as client:
        client.send(b"later\n")
        waits(lines, 1)
        lines.signal(signal.SIGINT)
        assert client.line() == b""
    lines.gone()
