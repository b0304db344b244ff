"""A GeneratorExit that an application raises is its failure, and not the close of its session: under every
model it ends one request, or one stream, and no worker; nor does SystemExit."""

from __future__ import annotations

import re
import socket

import pytest

from tests.process.conftest import Daemon, until

from .conftest import cells

APP = """
    import asyncio, socketserver

    KINDS = {"exit": GeneratorExit, "system": SystemExit, "mine": type("Mine", (GeneratorExit,), {})}

    class Pieces:
        def __init__(self, where, kind): self.where, self.kind, self.count = where, kind, 0
        def __iter__(self): return self
        def __next__(self):
            self.count += 1
            if self.where == "first" or (self.where == "second" and self.count == 2): raise self.kind
            if self.count > 2: raise StopIteration
            return b"piece"
        def __len__(self):
            if self.where == "length": raise self.kind
            raise TypeError
        def close(self):
            if self.where == "close": raise self.kind

    def wsgi_(environ, start):
        where, _, kind = environ["PATH_INFO"][1:].partition("/")
        if where == "call": raise KINDS[kind]
        start("200 OK", [("Content-Type", "text/plain")])
        if where == "started": raise KINDS[kind]
        return Pieces(where, KINDS[kind]) if kind else [b"ok"]

    class socketserver_(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                if line != b"ok\\n": raise KINDS[line.decode().partition("/")[2].strip()]
                self.wfile.write(line)

    class asyncio_(asyncio.Protocol):
        wanted = ""
        def connection_made(self, transport): self.transport = transport
        def data_received(self, data):
            for line in data.decode().splitlines():
                if line == "ok":
                    self.transport.write(b"ok\\n")
                    continue
                where, _, kind = line.partition("/")
                if where == "lost":
                    self.wanted = kind
                    self.transport.close()
                else:
                    raise KINDS[kind]
        def connection_lost(self, why):
            if self.wanted: raise KINDS[self.wanted]
"""
KINDS = "exit", "system", "mine"
#: Where; the status that the client sees, and the access log shows.
WSGI = {"call": 500, "started": 500, "first": 500, "length": 500, "second": 200, "close": 200}


@pytest.fixture
def serving(request: pytest.FixtureRequest, service: Daemon) -> Daemon:
    model, io, interface, threads = request.param
    service.write_app(APP)
    service.expected_errors = ["failed", "Traceback"]
    log = ["--access-log", "access.log"] if interface == "wsgi" else []
    flags = ["-m", model, "--io", io, "--threads", str(threads), "-w", "1", *log]
    service.start(*flags, app=f"app:{interface}_")
    return service


def dial(service: Daemon) -> socket.socket:
    host, _, port = service.live()["listeners"][0]["address"].rpartition(":")
    return socket.create_connection((host, int(port)), 10)


@pytest.mark.parametrize("serving", cells("wsgi"), indirect=True)
def test_a_request_fails_alone(serving: Daemon) -> None:
    workers = serving.worker_pids()
    master = serving.live()["master"]
    alone = (master["model"], master["io"]) == ("leader-followers", "blocking")
    other = None if alone else dial(serving)
    if other is not None:
        other.sendall(b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n")
        assert other.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")
    wanted = set()
    for where, status in WSGI.items():
        for kind in KINDS:
            with dial(serving) as sock, sock.makefile("rb") as answer:
                sock.sendall(f"GET /{where}/{kind} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert answer.readline().split()[1] == b"%d" % status, (where, kind)
                answer.read()  # to its end: the connection is closed
            wanted.add((f"GET /{where}/{kind} HTTP/1.1", str(status)))
    if other is not None:
        other.sendall(b"GET /again HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert other.makefile("rb").read().startswith(b"HTTP/1.1 200 OK\r\n")
        other.close()
    log = serving.dir / "access.log"

    def lines() -> list[tuple[str, str]]:
        found = re.findall(r'"(GET /\S+ HTTP/1\.1)" (\d+) ', log.read_text())
        return [line for line in found if line[0] not in ("GET /ok HTTP/1.1", "GET /again HTTP/1.1")]

    until(lambda: len(lines()) >= len(wanted), "a line for each request")
    assert len(lines()) == len(wanted) and set(lines()) == wanted
    assert serving.worker_pids() == workers


@pytest.mark.parametrize("serving", cells("asyncio", "socketserver"), indirect=True)
def test_a_stream_fails_alone(serving: Daemon) -> None:
    workers = serving.worker_pids()
    other = None if "serves app:socketserver_" in serving.log() else dial(serving)  # it may have the worker
    for where in ("data", "lost"):
        for kind in KINDS:
            for begins in (b"", b"ok\n"):
                with dial(serving) as sock, sock.makefile("rb") as answer:
                    if begins:
                        sock.sendall(begins)
                        assert answer.readline() == begins
                    sock.sendall(f"{where}/{kind}\n".encode())
                    assert answer.read() == b""
    if other is not None:
        other.sendall(b"ok\n")
        assert other.recv(100) == b"ok\n"
        other.close()
    until(lambda: serving.metric("forkd_connections") == 0, "no connection")
    assert serving.worker_pids() == workers
