"""Rows of the fault matrix: clients that mean no good, beside one that does.

slowhttptest, of Debian, is the abuser of the slow rows. The good client asks a hundred times a second,
over a connection that it keeps and over fresh ones in turn, so that it measures the service and not
itself.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .clients import Client, Failed
from .conftest import Daemon, processes_of, until
from .trial import GONE, Trial, descriptors, family

WORKERS = 2
CROWD = 5000
#: A p99 below this is the machine's noise rather than the service's, seconds.
NOISE = 0.02

#: Answers that are made for each request, in pieces, so that what is held for a slow reader is seen.
APP = """
    import os

    def app(environ, start):
        if environ["PATH_INFO"] == "/big":
            start("200 OK", [("Content-Length", str(64 << 14))])
            return (os.urandom(1 << 14) for _ in range(64))
        body = environ["wsgi.input"].read() or b"ok"
        fields = [("Content-Length", str(len(body)))]
        if "HTTP_X_REQUEST_ID" in environ:
            fields.append(("X-Request-Id", environ["HTTP_X_REQUEST_ID"]))
        start("200 OK", fields)
        return [body]
"""


def slow_senders(trial: Trial) -> None:
    """Half of them never end their head, half never end their body."""
    half = trial.times(CROWD // 2)
    _abused(trial, [["-c", str(half), "-H"], ["-c", str(half), "-B", "-s", "100000", "-x", "32"]])


def slow_readers(trial: Trial) -> None:
    """They ask for 1 MiB each, and take a few bytes a second of it."""
    count = trial.times(CROWD)
    _abused(trial, [["-c", str(count), "-X", "-w", "1", "-y", "512", "-z", "32"]], "big")


def reset_storm(trial: Trial) -> None:
    """Connect, send half a request, reset, as fast as several processes can."""
    service = trial.service
    _start(trial)
    before, seconds = _descriptors(service), trial.seconds(30, 3)
    with Good(service.address) as good:
        with _storm(service.address) as resets:
            time.sleep(seconds)  # the storm
        trial.note("resets", resets())
        trial.require(resets() > 100 * seconds, "that was no storm")
        good.more(20)
    trial.note("answered", len(good.times))
    trial.note("failed", len(good.failures))
    trial.require(not good.failures, f"the good client: {good.failures[:3]}")
    until(lambda: _descriptors(service) <= before, f"descriptors back at {before}")


def _start(trial: Trial) -> None:
    service = trial.service
    service.write_app(APP)
    trial.start("-w", str(WORKERS))
    with Good(service.address) as good:
        good.more(50)  # what the first requests allocate belongs to the baseline


def _abused(trial: Trial, crowds: list[list[str]], path: str = "") -> None:
    """The good client alone, then beside the crowds, which stay for less than any deadline of ours."""
    _start(trial)
    service, seconds = trial.service, trial.seconds(10, 5)
    pids = service.pids()
    with Good(service.address) as alone:
        time.sleep(seconds)  # the baseline is measured in it
    least = most = memory(service.pid)
    wanted = sum(int(options[1]) for options in crowds)
    with contextlib.ExitStack() as stack:
        for options in crowds:
            stack.enter_context(_slowhttptest(service.address, path, options))
        until(
            lambda: service.metric("forkd_connections") >= 0.95 * wanted,
            f"{wanted} connections, not {service.metric('forkd_connections')}", 60,
        )  # fmt: skip
        with Good(service.address) as beside:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                most = max(most, memory(service.pid))
                time.sleep(0.5)
        held = service.metric("forkd_connections")
    until(lambda: service.metric("forkd_connections") < 0.05 * wanted, "they have left", 60)
    back = least + (most - least) // 4 + (8 << 20)
    with contextlib.suppress(AssertionError):
        until(lambda: memory(service.pid) < back, "the memory back")
    left = memory(service.pid)
    trial.note("connections", int(held))
    for name, good in (("alone", alone), ("beside", beside)):
        trial.note(f"p99 {name}", f"{good.p99 * 1e3:.1f} ms")
        trial.require(not good.failures, f"the good client {name}: {good.failures[:3]}")
    for name, size in (("before", least), ("at most", most), ("after", left)):
        trial.note(f"memory {name}", f"{size >> 20} MiB")
    trial.require(held >= 0.9 * wanted, f"only {held:g} connections were held")
    trial.require(beside.p99 < max(2 * alone.p99, NOISE), "the good client's p99 more than doubled")
    # What a connection may cost: its session, a request's head and buffers, a piece of an answer.
    trial.require(most < least + wanted * (64 << 10), "more than 64 KiB for each")
    trial.require(left < back, "the memory did not return")
    trial.require(pids == set(processes_of(service.name)), "the same processes all the time")


@contextlib.contextmanager
def _slowhttptest(address: tuple[str, int], path: str, options: list[str]) -> Iterator[None]:
    command = [
        shutil.which("slowhttptest") or "slowhttptest", *options, "-r", "1000", "-i", "5", "-l", "600",
        "-p", "60", "-v", "0", "-u", f"http://{address[0]}:{address[1]}/{path}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None, f"{' '.join(command)} has ended with {process.returncode}"
    finally:
        process.kill()
        process.wait()


class Good:
    """The client that means well, in a thread."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.times: list[float] = []
        self.failures: list[str] = []
        options = {"strict": True, "timeout": 10.0}
        self._clients = [Client(address, "/", keep=keep, **options) for keep in (True, False)]  # type: ignore[arg-type]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def p99(self) -> float:
        return sorted(self.times)[int(len(self.times) * 0.99)]

    def __enter__(self) -> Good:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        self._thread.join(30)

    def more(self, requests: int) -> None:
        goal = len(self.times) + requests
        until(lambda: len(self.times) >= goal, f"answers: {self.failures[-3:]}", 30)

    def _run(self) -> None:
        for client in itertools.cycle(self._clients):
            if self._ending.wait(0.01):
                break
            began = time.monotonic()
            try:
                client.ask(lambda: None)
            except Failed as failed:
                self.failures.append(str(failed))
            else:
                self.times.append(time.monotonic() - began)
        for client in self._clients:
            client.close()


# ---- the storm ----------------------------------------------------------------------------


@contextlib.contextmanager
def _storm(address: tuple[str, int], processes: int = 3) -> Iterator[Callable[[], int]]:
    """Yields what tells how many connections were reset so far."""
    spawn = multiprocessing.get_context("spawn")
    counts = spawn.RawArray("Q", processes)
    stormers = [
        spawn.Process(target=_reset, args=(address, counts, number)) for number in range(processes)
    ]
    for each in stormers:
        each.start()
    until(lambda: all(counts), "the storm", 60)
    try:
        yield lambda: sum(counts)
    finally:
        for each in stormers:
            each.kill()
            each.join()


def _reset(address: tuple[str, int], counts: Any, number: int) -> None:
    at_once = struct.pack("ii", 1, 0)  # SO_LINGER with 0 s: close(2) sends RST
    halves = (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    for half in itertools.cycle(halves):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            sock.connect(address)
            sock.sendall(half)
        counts[number] += 1


# ---- what is measured ---------------------------------------------------------------------


def memory(pid: int) -> int:
    """Bytes of the process and its descendants, what they share counted once (PSS)."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(*GONE):
            text = Path(f"/proc/{each}/smaps_rollup").read_text()
            total += int(text.partition("\nPss:")[2].split()[0]) << 10
    return total


def _descriptors(service: Daemon) -> int:
    return sum(descriptors(pid) for pid in [service.pid, *service.worker_pids()])
