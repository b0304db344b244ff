"""An application that sets SIGPIPE to its default, as libraries do: a client that leaves ends no worker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.conftest import Daemon, until

from .conftest import cells

#: Each answers once the file "left" is there: its client has gone by then.
APP = """
    import asyncio, os, signal, socket, socketserver, time

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    def client_has_left():
        open("begun", "w").close()
        while not os.path.exists("left"):
            time.sleep(0.002)

    def wsgi_(environ, start):
        path = environ["PATH_INFO"]
        if path == "/ok":
            start("200 OK", [])
            return [b"ok"]
        client_has_left()
        if path == "/fail": raise ValueError("on purpose")
        write = start("200 OK", [("Content-Type", "text/plain")])
        if path == "/write":
            for _ in range(2):
                try:
                    write(b"piece")
                except ConnectionError:
                    pass
            return []
        if path == "/file": return environ["wsgi.file_wrapper"](open("large", "rb"))
        return {"/small": [b"small"], "/large": [b"l" * (4 << 20)], "/pieces": iter([b"p" * 70000] * 3)}[path]

    class socketserver_(socketserver.StreamRequestHandler):
        def handle(self):
            line = self.rfile.readline()
            client_has_left()
            for call in (
                lambda: self.request.sendall(b"x"), lambda: self.request.send(b"x", socket.MSG_DONTWAIT),
                lambda: self.request.sendmsg([b"x"]), lambda: self.wfile.write(b"x"),
                lambda: self.request.sendmsg([b"x"], (), socket.MSG_DONTWAIT),
                lambda: self.request.sendfile(open("large", "rb")),
            ):
                try:
                    call()
                except ConnectionError:
                    continue
                raise AssertionError("it was sent")

    class asyncio_(asyncio.Protocol):
        def connection_made(self, transport): self.transport = transport
        def data_received(self, data):
            client_has_left()
            self.transport.write(b"one")
            self.transport.writelines([b"t" * 300_000, b"wo"])
"""


@pytest.fixture
def serving(request: pytest.FixtureRequest, service: Daemon) -> Daemon:
    model, io, interface, threads = request.param
    service.write_app(APP)
    (service.dir / "large").write_bytes(bytes(4 << 20))
    bound = ["-b", f"unix:{service.dir}/site.sock"]  # over it, who has left is known at once
    flags = ["-m", model, "--io", io, "--threads", str(threads), "-w", "1"]
    service.start(*bound, *flags, app=f"app:{interface}_")
    return service


def dial(service: Daemon) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(service.dir / "site.sock"))
    return sock


def leave(service: Daemon, request: bytes) -> None:
    """Ask, and leave before the answer is made."""
    left = service.dir / "left"
    for mark in (left, service.dir / "begun"):
        mark.unlink(missing_ok=True)
    with dial(service) as sock:
        sock.sendall(request)
        until((service.dir / "begun").exists, "the application has it")
    left.touch()
    until(lambda: service.metric("forkd_connections") == 0, "the connection is over")


@pytest.mark.parametrize("serving", cells("wsgi"), indirect=True)
def test_a_client_that_leaves_ends_no_worker(serving: Daemon) -> None:
    serving.expected_errors = ["application failed", "on purpose", "Traceback"]
    workers = serving.worker_pids()
    for path in ("small", "large", "pieces", "write", "file", "fail"):
        leave(serving, f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert serving.worker_pids() == workers, path
    with dial(serving) as sock:
        sock.sendall(b"GET /ok HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert sock.makefile("rb").read().endswith(b"\r\n\r\nok")
    assert "SIGPIPE" not in serving.log() and "ended:" not in serving.log()


@pytest.mark.parametrize("serving", cells("asyncio", "socketserver"), indirect=True)
def test_a_client_of_a_stream_that_leaves_ends_no_worker(serving: Daemon) -> None:
    workers = serving.worker_pids()
    leave(serving, b"line\n")
    assert serving.worker_pids() == workers
    assert "SIGPIPE" not in serving.log() and "ended:" not in serving.log()


def run(code: str, tmp_path: Path) -> str:
    """What a program prints, in which SIGPIPE is at its default."""
    begin = "import os, signal, socket, sys\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + code], text=True, capture_output=True, timeout=30, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("make", ["os.pipe()", "[s.detach() for s in socket.socketpair()]"])
def test_a_log_whose_reader_has_left(tmp_path: Path, make: str) -> None:
    said = run(
        f"""
from forkd.log.sink import Sink
read, write = {make}
os.close(read)
sink = Sink(write)
sink.failed = lambda error: print(type(error).__name__)
sink.write(b"line\\n")
print(signal.getsignal(signal.SIGPIPE).name, signal.pthread_sigmask(signal.SIG_BLOCK, []))
print(signal.sigpending())
""",
        tmp_path,
    )
    assert said == "BrokenPipeError\nSIG_DFL set()\nset()\n"


def test_a_master_that_has_left(tmp_path: Path) -> None:
    said = run(
        """
from forkd.ipc.messages import Channel, Deaf
ours, theirs = Channel.pair()
theirs.close()
print(ours.send(Deaf(1)), ours.gone)
""",
        tmp_path,
    )
    assert said == "False True\n"
