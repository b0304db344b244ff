"""Clients that check every answer, and count what became of every request.

Each request carries an id; an answer that carries another's is wrong. `Load` is threads of this
process; `Crowd` is processes of such threads, for when the test itself would be the bottleneck.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import socket
import threading
import time
from array import array
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from typing import Any, Self

#: (host, port), or the path of a unix socket.
Address = tuple[str, int] | str

#: What becomes of a request. `sent`: all of it was handed to the kernel. `refused`: no process took the
#: connection. `reset`: the connection ended before the answer did. `lost`: no answer in time.
#: `wrong`: not a 200, not what was expected, or another request's.
FATES = ("sent", "answered", "refused", "reset", "lost", "wrong")
_INDEX = {fate: index for index, fate in enumerate(FATES)}


def connected(address: Address, timeout: float = 20) -> socket.socket:
    """A connection that sends each piece at once."""
    unix = isinstance(address, str)
    sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
        if not unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    except OSError:
        sock.close()
        raise
    return sock


class Failed(Exception):
    def __init__(self, fate: str, text: str) -> None:
        super().__init__(f"{fate}: {text}")
        self.fate = fate


class Client:
    """One connection at a time, one request at a time."""

    _numbers = itertools.count(1)

    def __init__(
        self, address: Address, path: str, *, keep: bool, strict: bool, timeout: float
    ) -> None:
        self._address = address
        self._keep = keep
        self._strict = strict
        self._timeout = timeout
        self._sock: socket.socket | None = None
        connection = "keep-alive" if keep else "close"
        self._head = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\nX-Request-Id: "

    def ask(self, sent: Callable[[], None]) -> bytes:
        """One request, and its body. Calls `sent` once the request is out. Raises Failed."""
        try:
            closes, body = self._ask(sent)
        except BaseException:
            self.close()
            raise
        if closes or not self._keep:
            self.close()
        return body

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _ask(self, sent: Callable[[], None]) -> tuple[bool, bytes]:
        if self._sock is None:
            self._sock = self._connect()
        name = f"{os.getpid()}-{next(self._numbers)}".encode()
        data, length = b"", None
        try:
            self._sock.sendall(self._head.encode() + name + b"\r\n\r\n")
            sent()
            while b"\r\n\r\n" not in data:
                data += self._more(f"{len(data)} bytes into the head")
            head, _, body = data.partition(b"\r\n\r\n")
            status, *lines = head.split(b"\r\n")
            fields = {k.lower(): v.strip() for k, _, v in (x.partition(b":") for x in lines)}
            length = int(fields[b"content-length"])
            while len(body) < length:
                body += self._more(f"{len(body)} of {length} bytes into the body")
        except TimeoutError as error:
            raise Failed("lost", f"no answer within {self._timeout:g} s: {data[:80]!r}") from error
        except OSError as error:
            raise Failed("reset", f"{type(error).__name__}: {error}") from error
        if not status.startswith(b"HTTP/1.1 200 ") or len(body) != length:
            raise Failed("wrong", f"{status!r} {body[:80]!r}")
        if fields.get(b"x-request-id", b"" if self._strict else name) != name:
            raise Failed("wrong", f"asked as {name!r}, answered {head!r}")
        return fields.get(b"connection", b"").lower() == b"close", body

    def _connect(self) -> socket.socket:
        try:
            return connected(self._address, self._timeout)
        except OSError as error:
            raise Failed("refused", f"connect: {type(error).__name__}: {error}") from error

    def _more(self, where: str) -> bytes:
        assert self._sock is not None
        data = self._sock.recv(65536)
        if not data:
            raise Failed("reset", f"closed {where}")
        return data


class Crew:
    """Threads that are at work while the block is, and told of its end by `_ending`."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(30)


class Load(Crew):
    """Threads that ask and check, until told to stop. Keep-alive, or a connection per request."""

    def __init__(
        self, address: Address, *, keep: int = 0, fresh: int = 0, path: str = "/",
        expect: Callable[[bytes], bool] = bool, strict: bool = False, timeout: float = 10.0,
        counts: Any = None,
    ) -> None:  # fmt: skip
        """`strict`: the application echoes X-Request-Id. `counts`: where to count, by fate."""
        self.expect = expect
        self.counts = [0] * len(FATES) if counts is None else counts
        self.failures: list[str] = []
        self.bodies: set[bytes] = set()
        self.times = array("d")  # how long each answer took, seconds
        super().__init__()
        self._lock = threading.Lock()
        clients = [
            Client(address, path, keep=index < keep, strict=strict, timeout=timeout)
            for index in range(keep + fresh)
        ]
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in clients]

    @property
    def asked(self) -> int:
        """Requests that were answered as they should be."""
        return int(self.counts[_INDEX["answered"]])

    def more(self, requests: int, seconds: float = 10.0) -> None:
        """Wait until that many more were answered."""
        _more(self, requests, seconds)

    def _run(self, client: Client) -> None:
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                body = client.ask(self._sent)
                if not self.expect(body):
                    raise Failed("wrong", f"{body[:80]!r}")
            except Failed as failed:
                self._count(failed.fate)
                self.failures.append(str(failed))
                time.sleep(0.01)  # a service that is gone is not asked in a tight loop
            else:
                self.times.append(time.monotonic() - began)
                self.bodies.add(body)
                self._count("answered")
        client.close()

    def _sent(self) -> None:
        self._count("sent")

    def _count(self, fate: str) -> None:
        with self._lock:
            self.counts[_INDEX[fate]] += 1


class Crowd:
    """`Load`s in processes of their own. What they saw is complete when it has ended."""

    def __init__(
        self, address: Address, *, keep: int = 0, fresh: int = 0, path: str = "/",
        processes: int = 1, timeout: float = 10.0,
    ) -> None:  # fmt: skip
        self.failures: list[str] = []
        self.times = array("d")
        # Not forked: this process may have threads. One row of counters each, so one writer each.
        spawn = multiprocessing.get_context("spawn")
        self._rows = [RawArray("Q", len(FATES)) for _ in range(processes)]
        self._pipes, self._processes = [], []
        for number, row in enumerate(self._rows):
            share = {
                kind: len(range(number, count, processes))
                for kind, count in (("keep", keep), ("fresh", fresh))
            }
            ours, theirs = spawn.Pipe()
            options = {**share, "path": path, "timeout": timeout, "strict": True}
            process = spawn.Process(target=_crowd, args=(address, options, row, theirs))
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Crowd:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *exception: object) -> None:
        # One may have gone: what breaks the tests off may signal it, too.
        for pipe in self._pipes:
            with contextlib.suppress(ConnectionError):
                pipe.send(None)
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            with contextlib.suppress(EOFError, ConnectionError):
                failures, times = pipe.recv()
                self.failures += failures
                self.times += times
            process.join(30)

    def count(self, fate: str) -> int:
        return sum(row[_INDEX[fate]] for row in self._rows)

    @property
    def asked(self) -> int:
        return self.count("answered")

    @property
    def failed(self) -> int:
        return sum(self.count(fate) for fate in ("refused", "reset", "lost", "wrong"))

    def more(self, requests: int, seconds: float = 10.0) -> None:
        """Wait until that many more were answered."""
        _more(self, requests, seconds)


def _crowd(address: Address, options: dict[str, Any], counts: Any, pipe: Connection) -> None:
    with Load(address, counts=counts, **options) as load:
        pipe.recv()
    pipe.send((load.failures, load.times))


def _more(load: Load | Crowd, requests: int, seconds: float) -> None:
    goal, deadline = load.asked + requests, time.monotonic() + seconds
    while load.asked < goal:
        assert time.monotonic() < deadline, f"{load.asked} of {goal}: {load.failures[-3:]}"
        time.sleep(0.005)
