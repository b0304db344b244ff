"""Rows of the fault matrix: the kernel has no more to give, and shared memory is full of lies."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

from .conftest import alive, until
from .trial import Trial, cpu_seconds, family, kill

WORKERS = 4


def no_descriptors(trial: Trial) -> None:
    """accept(2) fails with EMFILE in every process of the service, while clients wait."""
    service, waiting = trial.service, 10
    service.expected_errors = ["EMFILE"]
    trial.start("-w", str(WORKERS))
    service.get()
    until(lambda: not any(w["connections"] for w in service.workers()), "that one closed")
    pids, seconds = family(service.pid), trial.seconds(5, 2)
    with _full(pids):
        clients = [service.connect(30) for _ in range(waiting)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.ExitStack() as stack:
            # Nor can the master take these.
            stack.enter_context(socket.create_connection(service.admin_address))
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(service.control))
            before = cpu_seconds(pids)
            time.sleep(seconds)  # the measure is what is spent in it
            share = (cpu_seconds(pids) - before) / seconds
    began = time.monotonic()
    for client in clients:
        with client:
            trial.require(b" 200 " in client.recv(1000), "who waited is answered")
    took = time.monotonic() - began
    errors = service.metric("forkd_accept_errors_total", reason="EMFILE")
    trial.sound(WORKERS)
    trial.note("CPU", f"{share:.1%}")
    trial.note("all answered after", f"{took * 1e3:.0f} ms")
    trial.note("counted", int(errors))
    trial.require(share < 0.2, f"{share:.0%} of a processor were spent")
    trial.require(took < 1, f"it took {took:.2f} s to recover")
    said = "master: admin or control socket: accept: EMFILE"
    until(lambda: said in service.log(), "the master says that it could not accept")
    trial.require(errors, "forkd_accept_errors_total did not move")


@contextlib.contextmanager
def _full(pids: list[int]) -> Iterator[None]:
    """No new descriptor may have a number as high as the first that is free (RLIMIT_NOFILE)."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    for pid, (_, hard) in before.items():
        used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
        free = next(number for number in itertools.count() if number not in used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def no_processes(trial: Trial) -> None:
    """fork(2) fails with EAGAIN for some seconds, in which all workers are killed."""
    service = trial.service
    service.expected_errors = ["SIGKILL", r"fork\(2\): EAGAIN"]
    trial.start("-w", str(WORKERS))
    seconds, victims = trial.seconds(10, 2), service.worker_pids()
    clones = "clone,clone3,fork,vfork"
    strace = subprocess.Popen(
        ["strace", "-qq", "-e", f"trace={clones}", "-e", f"inject={clones}:error=EAGAIN",
         "-o", os.devnull, "-p", str(service.pid)],
    )  # fmt: skip
    try:
        until(lambda: _traced_by(service.pid) == strace.pid, "strace")
        for pid in victims:
            kill(pid)
        until(lambda: "fork(2): EAGAIN" in service.log(), "fork has failed")
        end, before = time.monotonic() + seconds, cpu_seconds([service.pid])
        with service.connect(60) as client:  # not refused: it waits
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while time.monotonic() < end:
                trial.require(service.admin("/healthz")[0] == 200, "the master answers")
                trial.require(service.admin("/readyz")[0] == 503, "it says that it is not ready")
                time.sleep(0.1)
            share = (cpu_seconds([service.pid]) - before) / seconds
            strace.terminate()
            strace.wait()
            began = time.monotonic()
            trial.require(b" 200 " in client.recv(1000), "who waited is answered")
            took = time.monotonic() - began
    finally:
        strace.kill()
        strace.wait()
    trial.sound(WORKERS)
    trial.note("failed for", f"{seconds:.0f} s")
    trial.note("tries", service.log().count("fork(2): EAGAIN"))
    trial.note("master's CPU", f"{share:.1%}")
    trial.note("answered after", f"{took * 1e3:.0f} ms")
    trial.require(share < 0.2, f"{share:.0%} of a processor were spent")
    trial.require(took < 2, f"it took {took:.2f} s to recover")


def _traced_by(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return int(re.findall(r"TracerPid:\s*(\d+)", file.read())[0])


#: Writes random bytes into the memory that the worker shares with the master: the scoreboard, and
#: the cells of the lease, which are multiprocessing's.
SCRIBBLER = r"""
    import random

    def app(environ, start):
        body = b"v1"
        if environ["PATH_INFO"] == "/scribble":
            seed, count = map(int, environ["QUERY_STRING"].split("&"))
            body = str(scribble(random.Random(seed), count)).encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def shared():
        with open("/proc/self/maps") as maps:
            for line in maps:
                span, flags, *_, name = line.split(None, 5)
                if flags == "rw-s" and ("/dev/zero" in name or "pym-" in name):
                    first, last = (int(x, 16) for x in span.split("-"))
                    yield first, last

    def scribble(chance, count):
        places = list(shared())
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            for _ in range(count):
                first, last = chance.choice(places)
                size = chance.choice((1, 2, 4, 8))
                start = chance.randrange(first, last - size) // size * size
                # Any bytes, and the numbers that break what is written for small ones.
                value = chance.choice((chance.randbytes(size), b"\xff" * size, b"\0" * size))
                memory.seek(start)
                memory.write(value)
        return len(places)
"""


def scribbled(trial: Trial) -> None:
    """A worker writes random bytes at random places of the shared memory, again and again."""
    service, pieces = trial.service, 100
    service.expected_errors = [""]  # a worker may well fail of it; the master may not
    service.write_app(SCRIBBLER)
    trial.start("-w", str(WORKERS), "--timeout", "5")
    master, writes, reloads = service.pid, 0, 0
    mappings = 1 if trial.dispatched else 2  # where there is a lease
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            for _ in range(trial.times(10_000, pieces) // pieces):
                seed = trial.chance.randrange(10**9)
                with contextlib.suppress(OSError, AssertionError):  # its worker may die of it
                    found = int(service.get(f"/scribble?{seed}&{pieces}"))
                    trial.require(found >= mappings, f"{found} of {mappings} mappings found")
                writes += pieces
                trial.require(alive(master) and service.pid == master, "the same master lives")
                _metrics_parse(trial)
                service.live()
                if trial.chance.random() < 0.2:
                    service.signal(signal.SIGHUP)
                    reloads += 1
            done = service.run("reload", timeout=60)
            trial.require(done.returncode == 0, f"reload: {done.stderr}")
            trial.require(stranger.poll() is None, "no signal to a stranger")
        finally:
            stranger.kill()
    _metrics_parse(trial)
    trial.sound(WORKERS)
    trial.require(service.pid == master, "the same master")
    bugs = re.findall(r"a bug in forkd.*?\n(?:\s.*\n)*", service.log())
    trial.require(not bugs, f"{len(bugs)} times: {''.join(bugs[:1])}")
    trial.note("writes", writes)
    trial.note("reloads", reloads + 1)
    trial.note("workers lost", int(service.metric("forkd_worker_exits_total", reason="error")))


def _metrics_parse(trial: Trial) -> None:
    sample = re.compile(r'\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+]+')
    lines = [x for x in trial.service.admin("/metrics")[1].splitlines() if x[:1] != "#"]
    bad = [line for line in lines if not sample.fullmatch(line)]
    trial.require(lines and not bad, f"metrics: {bad[:3]}")
