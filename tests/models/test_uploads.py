"""Slow uploads, under every model: they hold no worker, and their deadlines end them."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.process.conftest import Daemon, until

from .conftest import CELLS, Cell, cells

APP = """
    def app(environ, start):
        body = environ["wsgi.input"].read()
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"%d bytes" % len(body)]
"""
FLAGS = ["-w", "1", "--body-timeout", "2", "--access-log", "access.log"]
_HEAD = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"

pytestmark = pytest.mark.parametrize("daemon", cells("wsgi"), indirect=True)


def _cell(request: pytest.FixtureRequest) -> Cell:
    cell: Cell = request.node.callspec.params["daemon"]
    assert cell in CELLS
    return cell


def _is_blocking(cell: Cell) -> bool:
    """One client per worker at a time is the nature of the model."""
    return cell[:2] == ("leader-followers", "blocking")


class Uploader:
    """Sends 75 bytes ten times a second until told to stop: 750 per second, above the lowest rate."""

    def __init__(self, daemon: Daemon) -> None:
        self.sock = daemon.connect(30)
        self.sock.sendall(_HEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent = 0

    def begin(self) -> None:
        assert self._line(self.sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
        self._thread.start()

    @staticmethod
    def _line(sock: socket.socket) -> bytes:
        data = b""
        while not data.endswith(b"\r\n\r\n") and (more := sock.recv(1)):
            data += more
        return data

    def _send(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self.sock.sendall(b"x" * 75)
            except OSError:
                return
            self.sent += 75

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def answer(self) -> bytes:
        return self._line(self.sock).split(b"\r\n")[0]


def test_slow_uploads_hold_no_worker(daemon: Daemon, request: pytest.FixtureRequest) -> None:
    cell = _cell(request)
    # More than there are threads, so that one that waited for its client would be missed.
    slow = [Uploader(daemon) for _ in range(1 if _is_blocking(cell) else cell[3] + 1)]
    try:
        for one in slow:
            one.begin()
        for one in slow:
            until(lambda one=one: one.sent >= 750, "a second of it")
        if not _is_blocking(cell):
            for _ in range(5):
                assert daemon.get("/") == "0 bytes"
        for one in slow:
            one.stop()
        # While both are under way nothing ends them, since they are faster than the lowest rate; now
        # that nothing comes, the deadline does.
        assert [one.answer() for one in slow] == [b"HTTP/1.1 408 Request Timeout"] * len(slow)
        assert daemon.get("/") == "0 bytes"
    finally:
        for one in slow:
            one.stop()
            one.sock.close()
