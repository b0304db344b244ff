"""Measurements of leader/followers, for the tests (short) and scripts/soak-leader (long)."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from .clients import Address, Load
from .conftest import Service, children_of, until, zombies_of

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


@dataclass
class Kills:
    """What a series of SIGKILLs of the leader did to the clients."""

    kills: int
    asked: int = 0
    lost: list[str] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def table(self) -> str:
        ms = 1000
        rows = {
            "kills of the leader": self.kills,
            "requests answered": self.asked,
            "requests lost": len(self.lost),
            "accept stall p50": f"{percentile(self.stalls, 0.5) * ms:.1f} ms",
            "accept stall p99": f"{percentile(self.stalls, 0.99) * ms:.1f} ms",
            "accept stall max": f"{max(self.stalls) * ms:.1f} ms",
            "probes": len(self.stalls),
            "violations": "; ".join(self.violations) or "none",
        }
        return "\n".join(f"{name:22}{value}" for name, value in rows.items())


#: Requests that may be in flight at one victim: one per client, were all of them its.
CLIENTS = 5


def kill_leaders(service: Service, kills: int, seed: int, gap: float = 0.05) -> Kills:
    """SIGKILL the leader at random instants under load. `service` runs 4 workers."""
    chance, found = random.Random(seed), Kills(kills)
    with (
        Load(service.address, keep=2, fresh=2) as load,
        Probe(service.address) as probe,
    ):
        load.more(50)
        for _ in range(kills):
            before = load.asked
            leader = service.leader()["pid"]
            time.sleep(chance.uniform(0, gap))  # the instant is what is random here
            try:
                os.kill(leader, signal.SIGKILL)
            except ProcessLookupError:
                continue
            until(lambda leader=leader: leader not in service.worker_pids(), "the leader gone")
            until(lambda before=before: load.asked > before, "service goes on")
        load.more(50)
        until(lambda: len(service.workers()) == 4, "four children at the end")
    found.asked, found.stalls = load.asked + len(probe.times), probe.times
    found.lost = load.failures + probe.failures
    master = service.live()
    if percentile(found.stalls, 0.99) >= 0.1:
        found.violations.append("accept stall p99 is not below 100 ms")
    if len(found.lost) > kills * CLIENTS:
        found.violations.append(f"{len(found.lost)} requests lost by {kills} kills")
    refused = [x for x in found.lost if "refused" in x.lower() or "timed out" in x.lower()]
    if refused:
        found.violations.append(f"lost without being in flight at a victim: {refused[:3]}")
    if zombies_of(service.pid):
        found.violations.append("zombies are left")
    if sorted(children_of(service.pid)) != sorted(w["pid"] for w in master["workers"]):
        found.violations.append("status does not list the children that there are")
    if [w["role"] for w in master["workers"]].count("leader") != 1:
        found.violations.append("there is not exactly one leader")
    if master["master"]["why"]:
        found.violations.append(f"not ready: {master['master']['why']}")
    return found


def switches(pid: int) -> int:
    """voluntary_ctxt_switches of a process and its children: how often any of them woke."""
    total = 0
    for each in [pid, *children_of(pid)]:
        for line in Path(f"/proc/{each}/status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total
