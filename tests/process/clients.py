"""Clients that check every answer, and remember what went wrong."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable

Address = tuple[str, int]


class Load:
    """Threads that ask and check, until told to stop. Keep-alive, or a connection per request."""

    def __init__(
        self, address: Address, *, keep: int = 0, fresh: int = 0, path: str = "/",
        expect: Callable[[bytes], bool] = bool,
    ) -> None:  # fmt: skip
        self.address = address
        self.path = path
        self.expect = expect
        self.asked = 0
        self.failures: list[str] = []
        self.bodies: set[bytes] = set()
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._keep) for _ in range(keep)]
        self._threads += [threading.Thread(target=self._fresh) for _ in range(fresh)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(30)

    def more(self, requests: int, seconds: float = 10.0) -> None:
        """Wait until that many more were answered."""
        goal, deadline = self.asked + requests, time.monotonic() + seconds
        while self.asked < goal:
            assert time.monotonic() < deadline, f"{self.asked} of {goal}: {self.failures[-3:]}"
            time.sleep(0.005)

    def _keep(self) -> None:
        client = None
        while not self._ending.is_set():
            try:
                if client is None:
                    client = http.client.HTTPConnection(*self.address, timeout=10)
                closes = self._ask(client)
            except (OSError, http.client.HTTPException) as error:
                self._failed(error)
                closes = True
            if closes and client is not None:
                client.close()
                client = None
        if client is not None:
            client.close()

    def _fresh(self) -> None:
        while not self._ending.is_set():
            client = http.client.HTTPConnection(*self.address, timeout=10)
            try:
                self._ask(client, {"Connection": "close"})
            except (OSError, http.client.HTTPException) as error:
                self._failed(error)
            client.close()

    def _ask(
        self, client: http.client.HTTPConnection, headers: dict[str, str] | None = None
    ) -> bool:
        client.request("GET", self.path, headers=headers or {})
        answer = client.getresponse()
        body = answer.read()
        if answer.status != 200 or not self.expect(body):
            raise http.client.HTTPException(f"{answer.status} {body[:80]!r}")
        with self._lock:
            self.asked += 1
            self.bodies.add(body)
        return answer.will_close

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self.failures.append(f"{type(error).__name__}: {error}")
        time.sleep(0.01)  # a service that is gone is not asked in a tight loop
