"""A listener whose connections begin with a preamble, beside one whose connections do not: under every model,
with native code and without, wherever the bytes are split."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.conftest import Daemon, alive, children_of, until

from .conftest import Cell, cells
from .preamble import SIZE, package, preamble

APP = """
    import asyncio, socketserver

    def wsgi_(environ, start):
        body = environ["wsgi.input"].read()
        body = " ".join((environ["REMOTE_ADDR"], environ["PATH_INFO"])).encode() + body
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    class socketserver_(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(self.client_address[0].encode() + b" " + line)

    class asyncio_(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport, self.data = transport, b""
            self.who = transport.get_extra_info("peername")[0].encode()

        def data_received(self, data):
            *lines, self.data = (self.data + data).split(b"\\n")
            for line in lines: self.transport.write(self.who + b" " + line + b"\\n")
"""
PLAIN, LAYERED = "127.0.0.1:0", "127.0.0.1:0?freebind=on"
WHO = "203.0.113.7"


@pytest.fixture(scope="session")
def with_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("layered"))


class Front:
    """A service with both listeners, and clients of theirs."""

    def __init__(self, daemon: Daemon, interface: str) -> None:
        self.daemon = daemon
        self.http = interface == "wsgi"

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Of the plain listener, and of the one with a preamble."""
        found = [x["address"].partition("?")[0].rpartition(":") for x in self.daemon.live()["listeners"]]
        return [(host, int(port)) for host, _, port in found]

    def request(self, number: int) -> bytes:
        if not self.http:
            return b"/%d\n" % number
        return b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number

    @contextlib.contextmanager
    def client(self, address: tuple[str, int]) -> Iterator[Client]:
        with socket.create_connection(address, 20) as sock, sock.makefile("rb") as file:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            yield Client(sock, file, self.http)

    def ask_plain(self, address: tuple[str, int]) -> int:
        """At the listener without a preamble. Returns how many bytes that sent."""
        with self.client(address) as client:
            client.sock.sendall(self.request(7))
            assert client.answer() == "127.0.0.1 /7"
        return len(self.request(7))

    def processes(self) -> dict[int, int]:
        """The workers, with how many sockets each has, and how many processes."""
        return {pid: _sockets_of(pid) + len(children_of(pid)) for pid in self.daemon.worker_pids()}


class Client:
    def __init__(self, sock: socket.socket, file: object, http: bool) -> None:
        self.sock = sock
        self._file = file
        self._http = http

    def answer(self) -> str:
        """The next one, without what frames it; "" at EOF."""
        line: bytes = self._file.readline()  # type: ignore[attr-defined]
        if not line or not self._http:
            return line.decode().rstrip("\n")
        assert line == b"HTTP/1.1 200 OK\r\n"
        size = 0
        while (line := self._file.readline()) not in (b"\r\n", b""):  # type: ignore[attr-defined]
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        return str(self._file.read(size).decode())  # type: ignore[attr-defined]

    def leave(self) -> None:
        """With a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _sockets_of(pid: int) -> int:
    """How many sockets the process has."""
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    return count


@pytest.fixture(scope="module")
def front(
    request: pytest.FixtureRequest, with_layer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    (model, io, interface, threads), native = request.param
    daemon = Daemon(tmp_path_factory.mktemp("begin"))
    daemon.environ["PYTHONPATH"] = str(with_layer)
    daemon.write_app(APP)
    daemon.expected_errors = ["a session failed; its connection", "Traceback"]
    flags = ["-m", model, "--io", io, "--threads", str(threads), "-w", "2", "-b", PLAIN, "-b", LAYERED]
    daemon.start(*flags, "--native" if native else "--no-native", app=f"app:{interface}_")
    yield Front(daemon, interface)
    daemon.finish()


def both_ways() -> list[object]:
    found: list[object] = []
    for param in cells("wsgi", "socketserver", "asyncio"):
        cell: Cell = param.values[0]
        for native in (True, False):
            found.append(pytest.param((cell, native), id=f"{param.id}-{'native' if native else 'python'}"))
    return found


serving = pytest.mark.parametrize("front", both_ways(), indirect=True)


@serving
def test_it_may_be_split_anywhere(front: Front) -> None:
    plain, layered = front.addresses
    received = front.daemon.metric("forkd_received_bytes_total")
    whole = preamble(WHO) + front.request(1)
    for at in (*range(SIZE + 2), len(whole) - 1, len(whole)):
        later = front.request(2) if at % 2 else b""  # together with what is left of the first, or after it
        with front.client(layered) as client:
            client.sock.sendall(whole[:at])
            front.daemon.settles(received + at, "forkd_received_bytes_total")
            received += front.ask_plain(plain)
            client.sock.sendall(whole[at:] + later)
            assert client.answer() == f"{WHO} /1", at
            client.sock.sendall(b"" if later else front.request(2))
            assert client.answer() == f"{WHO} /2", at
        received += len(whole + front.request(2))
    front.daemon.settles(received, "forkd_received_bytes_total")


@serving
def test_much_may_come_with_it(front: Front) -> None:
    """More than is received at a time."""
    _, layered = front.addresses
    much = b"x" * 300_000
    head = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(much)
    request = head + much if front.http else b"/1" + much + b"\n"
    for _ in range(3):
        with front.client(layered) as client:
            client.sock.sendall(preamble(WHO) + request)
            assert client.answer() == f"{WHO} /1{much.decode()}"
            client.sock.sendall(front.request(2))
            assert client.answer() == f"{WHO} /2"


@serving
def test_it_may_end_anywhere(front: Front) -> None:
    plain, layered = front.addresses
    daemon = front.daemon
    daemon.settles(0, "forkd_connections")
    front.ask_plain(plain)
    daemon.settles(0, "forkd_connections")
    before = until(lambda: front.processes() if len(front.processes()) == 2 else {}, "two workers")
    accepted = daemon.metric("forkd_connections_accepted_total")
    received = daemon.metric("forkd_received_bytes_total")
    whole = preamble(WHO)
    ends = [(whole[:at], "eof") for at in range(SIZE + 1)] + [(whole[:at], "reset") for at in (1, SIZE - 1)]
    ends += [(preamble(WHO, "-"), "refused"), (preamble(WHO, "-") + front.request(1), "refused")]
    ends += [(preamble(WHO, "!"), "fails"), (preamble(WHO, "+", "Q")[:3], "late")]
    for sent, how in ends:
        with front.client(layered) as client:
            client.sock.sendall(sent)
            received += len(sent)
            if how == "reset":
                daemon.settles(received, "forkd_received_bytes_total")
                client.leave()
                continue
            if how == "eof":
                client.sock.shutdown(socket.SHUT_WR)
            assert client.answer() == "", (sent, how)
    daemon.settles(0, "forkd_connections")
    daemon.settles(accepted + len(ends), "forkd_connections_accepted_total")
    daemon.settles(received, "forkd_received_bytes_total")
    until(lambda: front.processes() == before, "nothing is left of them")
    assert all(map(alive, before))
    front.ask_plain(plain)
    with front.client(layered) as client:
        client.sock.sendall(whole + front.request(3))
        assert client.answer() == f"{WHO} /3"


# ---- from one generation to the next ----------------------------------------------------------


@pytest.fixture
def layered(service: Daemon, with_layer: Path) -> Daemon:
    service.environ["PYTHONPATH"] = str(with_layer)
    service.write_app(APP)
    return service


def bind(service: Daemon, *binds: str) -> None:
    lines = ['app = "app:wsgi_"', 'admin = "127.0.0.1:0"', f"bind = {list(binds)}"]
    (service.dir / "forkd.toml").write_text("\n".join(lines).replace("'", '"') + "\n")


WAYS = pytest.mark.parametrize(
    "flags",
    [
        ["-m", "leader-followers"],
        ["-m", "leader-followers", "--preload"],
        ["-m", "proactor"],
        ["-m", "process-per-connection"],
        ["-m", "half-sync-half-async", "--io", "sigio", "--preload"],
        ["-m", "half-sync-half-async", "--io", "epoll", "--dispatch", "competition"],
    ],
    ids=" ".join,
)


@WAYS
def test_a_reload_gives_a_listener_another_begin(layered: Daemon, flags: list[str]) -> None:
    bind(layered, LAYERED)
    layered.start("-c", "forkd.toml", "-w", "2", *flags, app=None)
    front = Front(layered, "wsgi")
    [address] = front.addresses
    with front.client(address) as early, front.client(address) as kept:
        kept.sock.sendall(preamble(WHO) + front.request(1))
        assert kept.answer() == f"{WHO} /1"
        received = layered.metric("forkd_received_bytes_total")
        early.sock.sendall(preamble(WHO)[:5])
        layered.settles(received + 5, "forkd_received_bytes_total")
        bind(layered, f"127.0.0.1:{address[1]}")
        layered.ok("reload")
        front.ask_plain(address)
        early.sock.sendall(preamble(WHO)[5:] + front.request(2))
        assert early.answer() == f"{WHO} /2"
    bind(layered, f"127.0.0.1:{address[1]}?freebind=on")
    layered.ok("reload")
    with front.client(address) as late:
        late.sock.sendall(preamble(WHO) + front.request(3))
        assert late.answer() == f"{WHO} /3"


@pytest.mark.parametrize("model", ["leader-followers", "half-sync-half-async"])
def test_a_socket_that_is_made_anew_has_it_too(layered: Daemon, tmp_path: Path, model: str) -> None:
    path = tmp_path / "layer.sock"
    layered.start("-m", model, "-b", f"unix:{path}", app="app:wsgi_")
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(path))
            sock.sendall(preamble(WHO) + b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            with sock.makefile("rb") as file:
                assert file.read().endswith(f"{WHO} /1".encode())
        path.unlink()
        layered.ok("reload")


@WAYS
def test_an_upgrade_keeps_it(layered: Daemon, flags: list[str]) -> None:
    layered.start("-b", PLAIN, "-b", LAYERED, *flags, app="app:wsgi_")
    front = Front(layered, "wsgi")
    plain, other = front.addresses
    for _ in range(2):
        front.ask_plain(plain)
        with front.client(other) as client:
            client.sock.sendall(preamble(WHO) + front.request(1))
            assert client.answer() == f"{WHO} /1"
        layered.ok("upgrade")
        assert front.addresses == [plain, other]


def accepted(client: socket.socket) -> bool:
    """Whether a process has accepted this connection: until then its other end has no inode."""
    ends = [
        f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"
        for host, port in (client.getpeername(), client.getsockname())
    ]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(row[1:3] == ends and row[9] != "0" for row in rows)


@pytest.mark.parametrize("dispatch", ["round-robin", "least-connections", "competition"])
def test_what_the_master_takes_back_begins_as_it_was_accepted(layered: Daemon, dispatch: str) -> None:
    """The queue is of a worker that stands still; the next generation takes over what waits there."""
    bind(layered, LAYERED)
    flags = ["-w", "1", "-m", "half-sync-half-async", "--dispatch", dispatch]
    layered.start("-c", "forkd.toml", *flags, app=None)
    front = Front(layered, "wsgi")
    [address] = front.addresses
    [worker] = layered.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    try:
        with front.client(address) as client:
            client.sock.sendall(preamble(WHO) + front.request(1))
            until(lambda: accepted(client.sock), "the master has it")
            bind(layered, f"127.0.0.1:{address[1]}")
            layered.ok("reload")
            assert client.answer() == f"{WHO} /1"
            front.ask_plain(address)
    finally:
        os.kill(worker, signal.SIGCONT)
