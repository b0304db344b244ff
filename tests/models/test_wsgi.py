"""HTTP and WSGI as promised, the same under every model and io."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import time

import pytest

from tests.process.conftest import Daemon, until

from .conftest import cells

APP = r"""
    import hashlib, os, pathlib, time
    HERE = pathlib.Path(__file__).parent

    class Pieces:
        def __init__(self, pieces, mark=None):
            self.pieces, self.mark = iter(pieces), mark
        def __iter__(self): return self
        def __next__(self): return next(self.pieces)
        def close(self):
            if self.mark:
                with open(HERE / self.mark, "a") as f: f.write("closed\n")

    def gated(gate):
        yield b"first"
        with open(HERE / gate) as f: f.read()   # a FIFO: until the test has seen the first
        yield b"second"

    def app(environ, start):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        text = [("Content-Type", "text/plain")]
        read = environ["wsgi.input"].read
        if path == "/echo":
            body = read(); start("200 OK", text); return [body]
        if path == "/length":
            length = environ["CONTENT_LENGTH"]; start("200 OK", text)
            return [length.encode() + b" " + read(int(length))]
        if path == "/digest":
            found = hashlib.sha256()
            while piece := read(65536):
                found.update(piece)
            start("200 OK", text); return [found.hexdigest().encode()]
        if path == "/ignore":
            start("200 OK", text); return [b"ignored"]
        if path == "/gate":
            start("200 OK", text); return gated(query)
        if path == "/pieces":
            start("200 OK", text); return Pieces([b"a", b"", b"b" * 70000, b"c"], query)
        if path == "/endless":
            start("200 OK", text); return Pieces((b"x" * 65536 for _ in range(4000)), query)
        if path == "/write":
            write = start("200 OK", text); write(b"one"); write(b"two"); return [b"three"]
        if path == "/file":
            start("200 OK", text + [("Content-Length", "300000")])
            return environ["wsgi.file_wrapper"](open(HERE / "file", "rb"))
        if path == "/again":
            start("200 OK", text)
            try: raise ValueError
            except ValueError:
                import sys
                start("503 Busy", text, sys.exc_info()); return [b"sorry"]
        if path == "/twice":
            start("200 OK", text); start("200 OK", text); return [b"no"]
        if path == "/late":
            write = start("200 OK", text); write(b"gone")
            try: raise KeyError("too late")
            except KeyError:
                import sys
                start("500 Oops", text, sys.exc_info())
            return [b"never"]
        if path == "/short":
            start("200 OK", text + [("Content-Length", "10")]); return [b"abc"]
        if path == "/long":
            start("200 OK", text + [("Content-Length", "3")]); return [b"abcdef"]
        if path == "/inject":
            bad = {"lf": "a\nX-B: 1", "cr": "a\rb", "nul": "a\0b"}[query]
            start("200 OK", text + [("X-A", bad)]); return [b"no"]
        if path == "/name":
            start("200 OK", text + [("X A:", "1")]); return [b"no"]
        if path == "/nostart": return [b"no"]
        start("200 OK", text + [("Content-Length", str(len(path)))]); return [path.encode()]
"""
FLAGS = [
    "--header-timeout", "1", "--body-timeout", "1", "--write-timeout", "2", "--keep-alive", "30",
    "--limit-request-line", "300", "--limit-request-fields", "20", "--limit-request-head", "4k",
    "--limit-request-body", "8M", "--body-buffer", "1M", "--access-log", "access.log",
]  # fmt: skip
ERRORS = ["application failed", "Traceback", "Content-Length", "Exception"]

pytestmark = pytest.mark.parametrize("daemon", cells("wsgi"), indirect=True)


class Wire:
    """A client that sends raw bytes and reads whole answers."""

    def __init__(self, daemon: Daemon, timeout: float = 10.0) -> None:
        self.sock = daemon.connect(timeout)
        self.data = b""
        self.received = 0  # bytes

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exception: object) -> None:
        self.sock.close()

    def _receive(self) -> bytes:
        data = self.sock.recv(65536)
        self.received += len(data)
        return data

    def send(self, data: bytes) -> Wire:
        self.sock.sendall(data)
        return self

    def get(self, path: str, more: str = "", method: str = "GET", version: str = "1.1") -> Wire:
        return self.send(f"{method} {path} HTTP/{version}\r\nHost: a\r\n{more}\r\n".encode())

    def until(self, mark: bytes) -> bytes:
        while mark not in self.data:
            more = self._receive()
            if not more:
                raise EOFError(self.data[:300])
            self.data += more
        head, _, self.data = self.data.partition(mark)
        return head

    def exactly(self, count: int) -> bytes:
        while len(self.data) < count:
            more = self._receive()
            if not more:
                raise EOFError(self.data[:300])
            self.data += more
        found, self.data = self.data[:count], self.data[count:]
        return found

    def answer(self, head_only: bool = False) -> tuple[int, str, bytes]:
        head = self.until(b"\r\n\r\n").decode("latin-1")
        status, lower = int(head.split()[1]), head.lower()
        if head_only or status in (100, 204, 304):
            return status, lower, b""
        if "transfer-encoding: chunked" in lower:
            body = b""
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                assert self.exactly(2) == b"\r\n"
            assert self.exactly(2) == b"\r\n"
            return status, lower, body
        length = re.search(r"content-length: (\d+)", lower)
        return status, lower, self.exactly(int(length[1])) if length else self.rest()

    def rest(self) -> bytes:
        try:
            while more := self._receive():
                self.data += more
        except ConnectionResetError:
            pass
        found, self.data = self.data, b""
        return found

    def closed(self) -> bool:
        return self.rest() == b""


@pytest.fixture
def wire(daemon: Daemon):  # type: ignore[no-untyped-def]
    with Wire(daemon) as made:
        yield made


@pytest.mark.waits
def test_keep_alive(wire: Wire) -> None:
    for path in ("/a", "/b", "/c"):
        status, _, body = wire.get(path).answer()
        assert (status, body) == (200, path.encode())


def test_pipelined_answers_come_in_order(wire: Wire) -> None:
    wire.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(50)))
    assert [wire.answer()[2] for _ in range(50)] == [b"/%d" % n for n in range(50)]


def test_pipelined_bodies(wire: Wire) -> None:
    one = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    two = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n"
    wire.send(one + two + one)
    assert [wire.answer()[2] for _ in range(3)] == [b"abc", b"de", b"abc"]


@pytest.mark.parametrize("value", [" \t chunked \t", "\tchunked\t"])
def test_white_space_around_a_transfer_coding(wire: Wire, value: str) -> None:
    """It is no part of the value (RFC 9110 5.5)."""
    wire.get("/length", f"Transfer-Encoding:{value}\r\n", "POST").send(b"2\r\nde\r\n0\r\n\r\n")
    assert wire.answer()[2] == b"2 de"
    assert wire.get("/next").answer()[2] == b"/next"


def test_byte_by_byte(wire: Wire) -> None:
    for byte in b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok":
        wire.send(bytes([byte]))
    assert wire.answer()[2] == b"ok"


def test_head_has_no_body(wire: Wire) -> None:
    status, head, _ = wire.get("/abc", method="HEAD").answer(head_only=True)
    assert status == 200
    assert "content-length: 4" in head
    assert wire.get("/next").answer()[2] == b"/next"


def test_chunked_answer(wire: Wire) -> None:
    _, head, body = wire.get("/pieces").answer()
    assert "transfer-encoding: chunked" in head
    assert body == b"a" + b"b" * 70000 + b"c"
    assert wire.get("/next").answer()[2] == b"/next"


@pytest.mark.parametrize("path, answer", [("/length", b"2 ok"), ("/ignore", b"ignored")])
def test_an_expected_body_is_asked_for_and_collected(wire: Wire, path: str, answer: bytes) -> None:
    """Before the application is called, whether it reads or not; so the connection stays."""
    for _ in range(2):
        wire.get(path, "Expect: 100-continue\r\nContent-Length: 2\r\n", "POST")
        assert wire.answer()[0] == 100
        status, head, body = wire.send(b"ok").answer()
        assert (status, body) == (200, answer)
        assert "connection: close" not in head
    assert wire.get("/next").answer()[2] == b"/next"


@pytest.mark.parametrize(
    "version, fields, body, status",
    [
        ("1.1", "Content-Length: 2\r\n", b"ok", 200),  # it does not wait
        ("1.1", "Content-Length: 0\r\n", b"", 200),  # there is nothing to wait for
        ("1.0", "Content-Length: 2\r\n", b"ok", 200),  # it cannot know 100 (RFC 9110, 10.1.1)
        ("1.1", "Content-Length: 99999999\r\n", b"", 413),  # above --limit-request-body
    ],
)
def test_no_100_where_nobody_waits_for_it(
    wire: Wire, version: str, fields: str, body: bytes, status: int
) -> None:
    head = f"POST /echo HTTP/{version}\r\nHost: a\r\nExpect: 100-continue\r\n{fields}\r\n"
    answer = wire.send(head.encode() + body).answer()
    assert answer[0] == status
    assert status != 200 or answer[2] == body


def test_http_1_0(wire: Wire, daemon: Daemon) -> None:
    status, head, body = wire.get("/a", "Connection: keep-alive\r\n", version="1.0").answer()
    assert (status, body) == (200, b"/a")
    assert "connection: keep-alive" in head
    assert wire.get("/b", version="1.0").answer()[2] == b"/b"
    assert wire.closed()
    with Wire(daemon) as other:  # no chunks for a client that does not know them
        _, head, body = other.get("/pieces", version="1.0").answer()
        assert "transfer-encoding" not in head
        assert body == b"a" + b"b" * 70000 + b"c"


def test_connection_close(wire: Wire) -> None:
    _, head, _ = wire.get("/a", "Connection: close\r\n").answer()
    assert "connection: close" in head
    assert wire.closed()


@pytest.mark.parametrize("size", [100_000, 900_000, 4 << 20])  # the last of them goes to disk
@pytest.mark.parametrize("chunked", [False, True])
def test_uploads(wire: Wire, chunked: bool, size: int) -> None:
    body = os.urandom(size)
    last = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    if chunked:
        wire.get("/digest", "Transfer-Encoding: chunked\r\n", "POST")
        for at in range(0, len(body), 1 << 18):
            piece = body[at : at + (1 << 18)]
            wire.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
        wire.send(b"0\r\n\r\n" + last)
    else:
        wire.get("/digest", f"Content-Length: {len(body)}\r\n", "POST").send(body + last)
    assert wire.answer()[2] == hashlib.sha256(body).hexdigest().encode()
    assert wire.answer()[2] == b"/next"


def test_an_upload_that_breaks_off_harms_nobody(wire: Wire, daemon: Daemon) -> None:
    with Wire(daemon) as other:
        other.get("/digest", "Content-Length: 900000\r\n", "POST").send(b"x" * 500_000)
        other.sock.shutdown(socket.SHUT_WR)
        assert other.closed()
    assert wire.get("/next").answer()[2] == b"/next"


def test_the_first_piece_is_sent_before_the_second_is_made(wire: Wire, daemon: Daemon) -> None:
    gate = daemon.dir / "gate"
    if not gate.exists():
        os.mkfifo(gate)
    wire.get("/gate?gate")
    wire.until(b"first")
    with open(gate, "w") as opened:
        opened.write("go")
    wire.until(b"second")


def test_a_slow_reader_costs_little_memory(wire: Wire, daemon: Daemon) -> None:
    """256 MB are asked for and not read: the child holds no more than a few."""
    (daemon.dir / "slow").unlink(missing_ok=True)
    before = {w["pid"]: w["rss_bytes"] for w in daemon.workers()}
    wire.get("/endless?slow")
    wire.exactly(1000)
    assert daemon.live()["workers"]
    grown = [w["rss_bytes"] - before.get(w["pid"], 1 << 40) for w in daemon.workers()]
    assert max(grown) < 32 << 20
    wire.sock.close()
    slow = daemon.dir / "slow"
    until(lambda: slow.exists() and slow.read_text(), "close() when the client has left")
    assert slow.read_text() == "closed\n"


@pytest.mark.waits
def test_the_head_has_a_deadline(wire: Wire) -> None:
    wire.send(b"GET / HTTP/1.1\r\nHost")
    assert wire.answer()[0] == 408
    assert wire.closed()


@pytest.mark.waits
def test_a_body_has_a_deadline(wire: Wire) -> None:
    wire.get("/echo", "Content-Length: 5\r\n", "POST").send(b"ab")
    assert wire.answer()[0] == 408
    assert wire.closed()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("GET /" + "x" * 400 + " HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        ("GET / HTTP/1.1\r\nHost: a\r\n" + "A: b\r\n" * 30 + "\r\n", 431),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: " + "b" * 5000 + "\r\n\r\n", 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: rot13, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
    ],
    ids=["line", "fields", "head", "body", "no host", "two hosts", "2.0", "unknown coding", "both"],
)  # fmt: skip
def test_what_is_refused(wire: Wire, request_: str, status: int) -> None:
    assert wire.send(request_.encode()).answer()[0] == status
    assert wire.closed()


@pytest.mark.parametrize(
    "path", ["/inject?lf", "/inject?cr", "/inject?nul", "/name", "/nostart", "/twice"]
)
def test_a_wrong_answer_becomes_500(wire: Wire, path: str) -> None:
    status, head, body = wire.get(path).answer()
    assert status == 500
    assert "x-b" not in head and body != b"no"


def test_a_broken_body_never_looks_like_a_whole_one(wire: Wire, daemon: Daemon) -> None:
    before = daemon.metric("forkd_requests_total", code="200")
    wire.get("/echo", "Content-Length: 10\r\n", "POST").send(b"abc")
    wire.sock.shutdown(socket.SHUT_WR)
    assert not wire.rest().startswith(b"HTTP/1.1 200")
    assert daemon.metric("forkd_requests_total", code="200") == before


def test_access_lines_have_no_control_bytes(wire: Wire, daemon: Daemon) -> None:
    access = daemon.dir / "access.log"
    wire.get("/log", 'User-Agent: a\tb"c\x1b[31m\\\r\nReferer: \x7f\r\n')
    wire.rest() if wire.answer()[0] == 400 else None
    wire.sock.close()
    with Wire(daemon) as other:
        other.get("/marker", "User-Agent: a\tb\r\n").answer()
    until(lambda: "/marker" in access.read_text(), "its line")
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", access.read_bytes())


@pytest.mark.parametrize("leave", [False, True])
def test_close_is_called_once(wire: Wire, daemon: Daemon, leave: bool) -> None:
    mark = daemon.dir / f"mark-{leave}"
    wire.get(f"/{'endless' if leave else 'pieces'}?{mark.name}")
    if leave:
        wire.exactly(100)
        wire.sock.close()
    else:
        wire.answer()
    until(lambda: mark.exists() and mark.read_text(), "close()")
    with Wire(daemon) as other:
        other.get("/").answer()
    assert mark.read_text() == "closed\n"


def test_write_comes_before_the_iterable(wire: Wire) -> None:
    assert wire.get("/write").answer()[2] == b"onetwothree"


def test_file_wrapper(wire: Wire, daemon: Daemon) -> None:
    (daemon.dir / "file").write_bytes(b"0123456789" * 30000)
    assert wire.get("/file").answer()[2] == b"0123456789" * 30000
    assert wire.get("/next").answer()[2] == b"/next"


@pytest.mark.waits
def test_an_expected_body_that_trickles_is_late(wire: Wire) -> None:
    """Each byte comes within --body-timeout, all of them far below 500 bytes per second."""
    wire.get("/echo", "Content-Length: 100\r\nExpect: 100-continue\r\n", method="POST")
    assert wire.answer()[0] == 100
    ended = threading.Event()

    def trickle() -> None:
        while not ended.wait(0.3):
            try:
                wire.send(b"x")
            except OSError:
                return

    sender = threading.Thread(target=trickle)
    sender.start()
    try:
        assert wire.answer()[0] == 408
    finally:
        ended.set()
        sender.join()


def test_an_expected_chunked_body_is_asked_for_and_collected(wire: Wire) -> None:
    wire.get("/length", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n", method="POST")
    assert wire.answer()[0] == 100
    wire.send(b"2\r\nde\r\n1\r\nf\r\n0\r\n\r\n")
    assert wire.answer()[2] == b"3 def"
    assert wire.get("/next").answer()[2] == b"/next"


def test_exc_info(wire: Wire, daemon: Daemon) -> None:
    status, _, body = wire.get("/again").answer()
    assert (status, body) == (503, b"sorry")
    with Wire(daemon) as other:  # the head is on the wire: all that is left is to break off
        data = other.get("/late").rest()
        assert data.startswith(b"HTTP/1.1 200")
        assert b"never" not in data
        assert not data.endswith(b"0\r\n\r\n")


def test_a_wrong_content_length(wire: Wire, daemon: Daemon) -> None:
    data = wire.get("/short").rest()
    assert data.endswith(b"\r\n\r\nabc")  # and closed, so that the client sees it
    with Wire(daemon) as other:
        _, head, body = other.get("/long").answer()
        assert body == b"abc"
        if "connection: close" not in head:  # then nothing of the rest is on the wire
            assert other.get("/next").answer()[2] == b"/next"


def test_many_clients_at_once(daemon: Daemon) -> None:
    failures: list[str] = []

    def client(number: int) -> None:
        try:
            for turn in range(10):
                with Wire(daemon) as wire:
                    body = wire.get(f"/{number}-{turn}", "Connection: close\r\n").answer()[2]
                    assert body == f"/{number}-{turn}".encode()
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert time.monotonic() - began < 30
