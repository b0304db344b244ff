"""Raw requests through a front to forkd: what clients sent, what the front has counted, what came behind it.

Nothing may reach the application that the front has not counted: that would be a request which a client has
hidden in another. Clients that do nothing of the kind ask beside them, over the same connections of the front
to forkd, and each has to get its own answers.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from . import canary
from .clients import Crew
from .conftest import Daemon, until
from .fronts import Front

FLAGS = ("-w", "2", "--threads", "4", "--health", "127.0.0.1:0")
#: The canary by both interfaces: the application, and flags.
WSGI = ("app:app", *FLAGS)
ASGI = ("app:asgi", "-w", "2", "--health", "127.0.0.1:0")
#: Without a byte from the front for so long, a case is over.
_SILENCE_SECONDS = 0.4


class Visitor:
    """A client that asks for pages of its own, by GET and POST in turn, and checks that it gets them."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self._number = number
        self._turns = itertools.count(number)
        self._client = http.client.HTTPConnection(*address, timeout=20)

    def ask(self) -> tuple[str, str]:
        """The method, and why the request has failed, or ""."""
        turn = next(self._turns)
        method, path = ("GET", "POST")[turn % 2], f"/visitor/{self._number}/{turn}"
        try:
            self._client.request(method, path, b"abc" if method == "POST" else None)
            answer = self._client.getresponse()
            body = answer.read()
            if answer.status == 200 and json.loads(body)["PATH_INFO"] == path:
                return method, ""
            return method, f"{path}: {answer.status} {body[:200]!r}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            return method, f"{path}: {error!r}"

    def close(self) -> None:
        self._client.close()


class Visitors(Crew):
    """Some of them, at work one request after the other."""

    def __init__(self, address: tuple[str, int], count: int, longest: float = 0.004) -> None:
        """`longest`: seconds between an answer and the next request."""
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.failed: list[tuple[str, str]] = []  # method, and what has become of it
        self._longest = longest
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(Visitor(address, number), random.Random(number)))
            for number in range(count)
        ]

    def more(self, requests: int, seconds: float = 30.0) -> None:
        """Wait until that many more were asked."""
        goal = self.asked.total() + requests
        until(lambda: self.asked.total() >= goal, f"{requests} more requests", seconds)

    def _run(self, visitor: Visitor, chance: random.Random) -> None:
        while not self._ending.wait(chance.uniform(0, self._longest)):
            method, why = visitor.ask()
            with self._lock:
                self.asked[method] += 1
                if why:
                    self.failed.append((method, why))
        visitor.close()


class Found(NamedTuple):
    cases: int
    answered: int  # answers of any kind
    counted: int  # requests that the front has passed on, those of visitors with them
    seen: int  # requests that the application has seen
    hidden: Counter[tuple[str, str]]  # seen, and not counted
    visits: int  # requests of visitors beside
    failed: list[tuple[str, str]]  # of these


def talk(address: tuple[str, int], raw: bytes) -> int:
    """Send that, and how many answers there were."""
    got = b""
    with socket.create_connection(address, 20) as sock, contextlib.suppress(OSError):
        sock.settimeout(_SILENCE_SECONDS)
        with contextlib.suppress(OSError):
            sock.sendall(raw)
        while more := sock.recv(65536):
            got += more
    return len(re.findall(rb"HTTP/1\.[01] \d{3}", got))


def through(front: Front, service: Daemon, cases: Iterable[dict[str, Any]], threads: int = 16) -> Found:
    """The service runs the canary, and has seen nothing yet."""
    raws = [base64.b64decode(case.get("b64_host", case["b64"])) for case in cases]
    with Visitors(front.address, 2) as visitors, ThreadPoolExecutor(threads) as pool:
        answered = sum(pool.map(lambda raw: talk(front.address, raw), raws))
    # The front and the application write what they have seen of the last ones a moment later.
    with contextlib.closing(http.client.HTTPConnection(*front.address, timeout=20)) as client:
        client.request("GET", "/last")
        assert client.getresponse().status == 200
    until(lambda: ("GET", "last") in front.counted(), "the front has written its log", 20)
    counted, seen = front.counted(), canary.requests(service.dir)
    visits = visitors.asked.total()
    return Found(
        len(raws), answered, counted.total(), seen.total(), seen - counted, visits, visitors.failed
    )
