"""Measurements of leader/followers."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from .clients import Address
from .conftest import children_of

GET = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: %s\r\n\r\n"


def percentile(times: list[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def ask(sock: socket.socket, path: bytes = b"/", keep: bool = False) -> None:
    sock.sendall(GET % (path, b"keep-alive" if keep else b"close"))
    data = sock.recv(65536)
    while data and b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    if not data.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(f"answer {data[:60]!r}")


class Probe(threading.Thread):
    """A client that asks for no work, on fresh connections or on one, and keeps the times."""

    def __init__(self, address: Address, *, keep: bool = False, pause: float = 0.001) -> None:
        super().__init__()
        self.times: list[float] = []
        self.failures: list[str] = []
        self._address = address
        self._keep = keep
        self._pause = pause
        self._ending = threading.Event()

    def run(self) -> None:
        sock: socket.socket | None = None
        while not self._ending.wait(self._pause):
            began = time.perf_counter()
            try:
                if sock is None:
                    sock = socket.create_connection(self._address, 10)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ask(sock, keep=self._keep)
                self.times.append(time.perf_counter() - began)
            except OSError as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                if sock is not None:
                    sock.close()
                sock = None
            if not self._keep and sock is not None:
                sock.close()
                sock = None
        if sock is not None:
            sock.close()

    def __enter__(self) -> Probe:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        self.join(30)


def switches(pid: int) -> int:
    """voluntary_ctxt_switches of a process and its children: how often any of them woke."""
    return sum(wakings(each) for each in [pid, *children_of(pid)])


def wakings(pid: int) -> int:
    """voluntary_ctxt_switches of a process; 0 when it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError(f"the kernel does not say how often {pid} woke")
