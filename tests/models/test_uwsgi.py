"""A listener that speaks uwsgi beside one that speaks HTTP, for the same application: under every model, with
native code and without."""

from __future__ import annotations

import ast
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.clients import connected
from tests.process.conftest import Daemon
from tests.session.packets import packet, params

from .conftest import cells

APP = """
    def app(environ, start):
        body = environ["wsgi.input"].read()
        names = ("REMOTE_ADDR", "PATH_INFO", "SERVER_NAME", "wsgi.url_scheme", "forkd.peer", "REMOTE_USER")
        said = repr(([environ.get(name) for name in names], len(body), body[:9])).encode()
        pieces = {"/pieces": 3, "/large": 40}.get(environ["PATH_INFO"])
        start("200 OK", [] if pieces else [("Content-Length", str(len(said)))])
        return (said[:9], said[9:], b" " * 100_000 * (pieces - 2)) if pieces else [said]
"""


class Front:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        tcp, unix, http = (x["address"] for x in daemon.live()["listeners"])
        self.path = unix.removeprefix("unix:")
        self.address, self.http = ((x.rpartition(":")[0], int(x.rpartition(":")[2])) for x in (tcp, http))

    def client(self, unix: bool = False) -> socket.socket:
        return connected(self.path if unix else self.address)

    def ask(self, *pieces: bytes, unix: bool = False) -> tuple[str, bytes]:
        with self.client(unix) as sock:
            for piece in filter(None, pieces):  # the answer may be here, and the end
                sock.sendall(piece)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return head.decode(), body


@pytest.fixture(scope="module")
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    (model, io, _, threads), native = request.param
    daemon = Daemon(tmp_path_factory.mktemp("uwsgi"))
    daemon.write_app(APP)
    flags = ["-m", model, "--io", io, "--threads", str(threads), "-w", "2"]
    flags += ["-b", "127.0.0.1:0?protocol=uwsgi", "-b", f"unix:{daemon.dir}/s?protocol=uwsgi"]
    daemon.start(*flags, "-b", "127.0.0.1:0", "--native" if native else "--no-native")
    yield Front(daemon)
    daemon.finish()


WAYS = [
    pytest.param((param.values[0], native), id=f"{param.id}-{'native' if native else 'python'}")
    for param in cells("wsgi") for native in (True, False)
]  # fmt: skip
serving = pytest.mark.parametrize("front", WAYS, indirect=True)


def told(body: bytes) -> Any:
    return ast.literal_eval(body.decode().strip())


@serving
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_requests(front: Front, unix: bool) -> None:
    peer = "" if unix else "127.0.0.1"
    for path in ("/a", "/pieces", "/large"):
        for body in (b"", b"hello", b"x" * 300_000):
            given = [("HTTPS", "on"), ("REMOTE_USER", "ann")]
            pairs = params("POST" if body else "GET", path, *given, body=len(body) if body else None)
            head, found = front.ask(packet(pairs), body, unix=unix)
            assert head.startswith("HTTP/1.1 200 OK\r\n")
            assert "chunked" not in head and "\r\nConnection: close" in head
            seen = ["203.0.113.7", path, "hello.example", "https", peer, "ann"]
            assert told(found) == (seen, len(body), body[:9])
            if path == "/large":
                assert len(found) > 3_800_000
    head, found = front.ask(packet(params("HEAD", "/a")), unix=unix)
    assert (head.split("\r\n")[0], found) == ("HTTP/1.1 200 OK", b"")


@serving
def test_it_may_be_split_anywhere(front: Front) -> None:
    whole = packet(params("POST", "/a", body=5)) + b"hello"
    for at in (1, 2, 3, 4, 5, 6, 20, 100, len(whole) - 6, len(whole) - 5, len(whole) - 4, len(whole) - 1):
        with front.client() as sock:
            sock.sendall(whole[:at])
            assert front.ask(packet(params()))[0].startswith("HTTP/1.1 200")  # a request comes between
            sock.sendall(whole[at:])
            answer = b"".join(iter(lambda sock=sock: sock.recv(65536), b""))  # type: ignore[misc]
            assert told(answer.partition(b"\r\n\r\n")[2])[1:] == (5, b"hello")


@serving
def test_what_is_refused_and_the_listener_beside(front: Front) -> None:
    for data, status in (
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (packet(params())[:-1] + b"a", 200),
        (b"\0\x05\0\0" + packet(params()), 400),
        (packet(params("POST", "/", body=1 << 40)), 413),
        (packet(params(fields=[("X", "a" * 9000)])), 431),
    ):
        assert front.ask(data)[0].split(" ")[1] == str(status)
    with front.client() as gone:
        gone.sendall(packet(params())[:50])
    with front.client() as gone:
        gone.sendall(packet(params("POST", "/", body=50)) + b"a")
    with socket.create_connection(front.http, 20) as sock:
        sock.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\nRemote-User: x\r\n\r\n")
        assert b"127.0.0.1" in sock.recv(65536)
        sock.sendall(packet(params()))
        assert b" 400 Bad Request" in sock.recv(65536)
    front.daemon.settles(0, "forkd_requests_in_progress")
