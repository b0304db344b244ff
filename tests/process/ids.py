"""Requests with a number each, which the application notes on entry: what became of every one of them.

A load that goes on over kills of workers, and the books afterwards: each number that the application has
noted has one line in the access log, and the counts are as many as the lines. Used by test_unanswered.py, and
by the matrix of faults for its long form.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from .conftest import Daemon, until

#: Notes the number of a request before it does anything else. Every third answer has several pieces, and
#: every ninth comes from a thread's wait.
APP = """
    import os, time

    NOTED = os.open("noted", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def app(environ, start):
        number = environ["PATH_INFO"].rpartition("/")[2]
        os.write(NOTED, number.encode() + b"\\n")
        start("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"].startswith("/pieces"):
            return pieces()
        if environ["PATH_INFO"].startswith("/wait"):
            time.sleep(0.002)
        return [b"ok"]

    def pieces():
        for _ in range(3):
            yield b"o"
"""
_NUMBER = re.compile(r"/(?:fast|pieces|wait)/(\d+) ")


class Load:
    """Clients in threads, each with a connection that it keeps until it ends."""

    def __init__(self, service: Daemon, clients: int = 8) -> None:
        self._address = service.address
        self._numbers = itertools.count(1)
        self._over = threading.Event()
        self.answered = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        sock: socket.socket | None = None
        while not self._over.is_set():
            number = next(self._numbers)
            path = "pieces" if number % 3 == 0 else "wait" if number % 9 == 1 else "fast"
            try:
                if sock is None:
                    sock = socket.create_connection(self._address, 10)
                sock.sendall(f"GET /{path}/{number} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                data = b""
                while not (data.endswith(b"0\r\n\r\n") or data.endswith(b"\r\n\r\nok")):
                    piece = sock.recv(4096)
                    if not piece:
                        raise ConnectionError
                    data += piece
                self.answered += 1
            except OSError:
                if sock is not None:
                    sock.close()
                sock = None
        if sock is not None:
            sock.close()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def kill_at_random(pids: Callable[[], list[int]], times: int, chance: random.Random) -> int:
    """SIGKILL for one of them, at random instants. Returns how many there were."""
    done = 0
    while done < times:
        time.sleep(chance.random() * 0.03)
        found = pids()
        if found:
            try:
                os.kill(chance.choice(found), signal.SIGKILL)
                done += 1
            except ProcessLookupError:
                pass
    return done


def requests_of(path: Path) -> list[tuple[str, int]]:
    """(number, status) of each line."""
    found = []
    for line in path.read_text().splitlines():
        if line.startswith("{"):
            record = json.loads(line)
            request, status = record["request"] + " ", record["status"]
        else:
            request, status = line.split('"')[1] + " ", int(line.split('"')[2].split()[0])
        number = _NUMBER.search(request)
        assert number is not None, line
        found.append((number[1], status))
    return found


def audit(service: Daemon, access: Path) -> Counter[int]:
    """The books: raises where a request is missing, or there twice. Returns the lines by status."""
    noted = (service.dir / "noted").read_text().split()
    assert len(noted) == len(set(noted))

    def is_whole() -> bool:
        lines = requests_of(access)
        counted = service.metric("forkd_requests_total")
        return len(lines) >= counted > 0 and {number for number, _ in lines} >= set(noted)

    with contextlib.suppress(AssertionError):  # what follows says more
        until(is_whole, "all lines", 20)
    lines = requests_of(access)
    times = Counter(number for number, _ in lines)
    assert [number for number, count in times.items() if count != 1] == []
    assert set(noted) - set(times) == set()
    codes = Counter(status for _, status in lines)
    for code, count in codes.items():
        service.settles(count, "forkd_requests_total", code=str(code))
    service.settles(len(lines), "forkd_requests_total")
    return codes
