"""Who waits how long while one listener is never empty.

24 clients connect anew to the first listener, each for a request that takes the application 5 ms (nginx
none), as fast as they are served. Beside them, at an easy pace, with requests that take no time: clients
that keep their connection there, clients that connect anew to a second listener (a unix socket), and one
that downloads a MiB again and again. The latencies are those of each group by itself.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from statistics import quantiles

from scripts.benchmark import check, load
from scripts.benchmark.load import Figures
from scripts.benchmark.process import Server, Unavailable

KEPT, SECOND = 4, 4
PAUSE_SECONDS = 0.01
#: A client that is not served within this counts as starved, and is measured as this.
PATIENCE_SECONDS = 5.0
GROUPS = ("kept", "second", "stream")


class Group:
    """Clients of one kind, each a thread, and how long each of their requests took, in seconds."""

    def __init__(self, dial: Callable[[], socket.socket], sent: bytes, size: int, keep: bool) -> None:
        self._dial, self._sent, self._size, self._keep = dial, sent, size, keep
        self.times: list[float] = []
        self.errors = 0

    def run(self, end: float) -> None:
        client: socket.socket | None = None
        while (began := time.monotonic()) < end:
            try:
                client = client or self._dial()
                client.settimeout(PATIENCE_SECONDS)
                client.sendall(self._sent)
                if len(_all(client, self._size)) != self._size:
                    raise OSError("closed within an answer")
                failed = False
            except OSError:
                failed = True
            self.errors += failed
            self.times.append(time.monotonic() - began)
            if client is not None and (failed or not self._keep):
                client.close()
                client = None
            time.sleep(PAUSE_SECONDS)
        if client is not None:
            client.close()

    def figures(self, name: str) -> Figures:
        """Milliseconds."""
        cuts = quantiles(self.times, n=100) if len(self.times) > 1 else self.times * 99
        found = (cuts[49], cuts[98], max(self.times))
        return {
            f"{name}_{which}": value * 1e3 for which, value in zip(("p50", "p99", "max"), found, strict=True)
        }


def measure(server: Server, seconds: float) -> Figures:
    plain, mebi = check.request(), check.request("/1m")
    size, large = check.length(server, plain), check.length(server, mebi)
    path = str(server.directory / "second.sock")

    def second() -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE_SECONDS)
        client.connect(path)
        return client

    groups = {
        "kept": (KEPT, Group(lambda: check.dial(server), plain, size, keep=True)),
        "second": (SECOND, Group(second, plain, size, keep=False)),
        "stream": (1, Group(lambda: check.dial(server), mebi, large, keep=True)),
    }
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=group.run, args=(end,))
        for count, group in groups.values()
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    found = load.wrk(server, seconds, "/5ms", connections=24, headers=("Connection: close",))
    for thread in threads:
        thread.join()
    for name, (_, group) in groups.items():
        if not group.times:
            raise Unavailable(f"nothing was asked by {name}")
        found |= group.figures(name)
        found["errors"] += group.errors
    return found


def _all(client: socket.socket, size: int) -> bytearray:
    data = bytearray()
    while len(data) < size and (piece := client.recv(min(size - len(data), 1 << 18))):
        data += piece
    return data
