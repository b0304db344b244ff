"""System calls that fail under every model: nothing spins, no client is lost, and service recovers.

strace makes the calls of running processes fail (`-e inject`). What the kernel does by itself for
`proactor` is no call of ours: there the limit on descriptors is lowered instead.
"""

from __future__ import annotations

import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forkd.models import registry
from tests.process.conftest import Daemon, until
from tests.process.trial import GONE, cpu_seconds

from .test_signature import traceable

pytestmark = pytest.mark.skipif(not traceable(), reason="strace may not trace here")

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLIENTS = 20
#: Tries in a second that are still no spin: each of two processes pauses 10 ms at least after one.
MOST_TRIES = 250

APP = r"""
    BIG = b"".join(b"%07d\n" % n for n in range(1 << 17))  # 1 MiB

    def app(environ, start):
        body = BIG if environ["PATH_INFO"] == "/big" else b"ok"
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""
EVERY = [pytest.param(row.name, id=row.name) for row in registry.MODELS]
#: How accept(2) fails besides EMFILE: the same for all that accept in a child, or in the master.
OTHERS = ("ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED")
FAILURES = [
    *((row.name, "EMFILE") for row in registry.MODELS if row.name != "proactor"),
    *((name, error) for name in ("leader-followers", "half-sync-half-async") for error in OTHERS),
]


def start(service: Daemon, model: str) -> None:
    service.write_app(APP)
    service.start("-m", model, "-w", "2", "--threads", "4" if registry.get(model).pooled else "1")


#: strace makes a call fail by entering one that there is not, and puts the error in its place afterwards; a
#: call that is under way when it leaves fails with this.
LEFT = "ENOSYS"


def accepting(service: Daemon, model: str) -> list[int]:
    return [service.pid] if registry.get(model).master_accepts else service.worker_pids()


@contextmanager
def failing(
    service: Daemon, pids: list[int], call: str, error: str, when: str = ""
) -> Iterator[Path]:
    """While the context lasts, `call` fails with `error` in these processes. Gives strace's output."""
    out = service.dir / "strace"
    rule = f"inject={call}:error={error}" + (f":when={when}" if when else "")
    attach = [word for pid in pids for word in ("-p", str(pid))]
    tracer = subprocess.Popen(
        ["strace", "-f", "-q", "-o", str(out), "-e", f"trace={call}", "-e", rule, *attach],
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: all(traced(pid) for pid in pids), "strace to be there")
        yield out
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(30)
        until(lambda: not any(traced(pid) for pid in pids), "strace to be gone")


def traced(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except GONE:
        return False
    return not re.search(r"^TracerPid:\t0$", status, re.MULTILINE)


def failures(out: Path) -> int:
    return out.read_text().count("(INJECTED)") if out.exists() else 0


def quiet(out: Path) -> None:
    """Wait until no process has made a call for a while."""
    until(lambda: time.time() - out.stat().st_mtime > 0.3, "rest")


def ask(service: Daemon, count: int = CLIENTS) -> list[socket.socket]:
    clients = []
    for _ in range(count):
        client = service.connect(30)
        client.sendall(REQUEST)
        clients.append(client)
    return clients


def answered(clients: list[socket.socket]) -> None:
    for client in clients:
        with client:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("model, error", FAILURES)
def test_accept_fails_for_a_while(service: Daemon, model: str, error: str) -> None:
    service.expected_errors = [rf"accept: ({error}|{LEFT})"]
    start(service, model)
    with failing(service, accepting(service, model), "accept4", error) as out:
        began = time.monotonic()
        clients = ask(service)
        until(lambda: failures(out) >= 3, "three tries")
        until(lambda: time.monotonic() - began > 0.5, "half a second of it")
        tries = failures(out) / (time.monotonic() - began)
        assert tries < MOST_TRIES, f"{tries:.0f} tries in a second"
    answered(clients)
    assert service.metric("forkd_accept_errors_total", reason=error) >= 3


def lowest_free(pid: int) -> int:
    """The lowest descriptor that the process has no use for, but for what it opens for a moment."""
    found: list[int] = []

    def look() -> bool:
        used = {int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        found.append(next(fd for fd in range(10**6) if fd not in used))
        return len(found) == 20

    until(look, "20 looks")
    return min(found)


@pytest.mark.parametrize("model", EVERY)
def test_no_descriptor_is_left_for_a_while(service: Daemon, model: str) -> None:
    service.expected_errors = ["EMFILE"]
    start(service, model)
    pids = [service.pid, *service.worker_pids()]
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    control = ask(service, 1)
    for pid in accepting(service, model):
        free = lowest_free(pid)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[pid][1]))
    clients = ask(service)
    began, used_before = time.monotonic(), cpu_seconds(pids)
    until(lambda: "EMFILE" in service.log(), "the error to be told")
    until(lambda: time.monotonic() - began > 1, "a second of it")
    share = (cpu_seconds(pids) - used_before) / (time.monotonic() - began)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before[pid])
    assert share < 0.5, f"{share:.0%} of a core"
    answered(clients + control)
    assert service.metric("forkd_accept_errors_total", reason="EMFILE") >= 1


@pytest.mark.parametrize("model", EVERY)
def test_calls_are_interrupted(service: Daemon, model: str) -> None:
    """EINTR on every third call of those that wait or move bytes."""
    start(service, model)
    pids = [service.pid, *service.worker_pids()]
    calls = "recvfrom,sendto,sendmsg,recvmsg,epoll_wait,accept4,io_uring_enter"
    with failing(service, pids, calls, "EINTR", when="1+3") as out:
        for _ in range(3):
            answered(ask(service))
        assert failures(out) > 10
        # strace makes a call fail by making it no call at all until it returns; if it left meanwhile,
        # that would come back as ENOSYS.
        quiet(out)
    answered(ask(service))


@pytest.mark.parametrize("model", EVERY)
def test_writes_are_short(service: Daemon, model: str) -> None:
    """A client with a small window makes every send(2) of a large answer a short one."""
    start(service, model)
    wanted = b"".join(b"%07d\n" % n for n in range(1 << 17))
    readers = []
    for _ in range(4):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(30)
        reader.connect(service.address)
        reader.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        readers.append(reader)
    answered(ask(service))  # and they hold up no other client
    got = [bytearray() for _ in readers]
    open_ones = dict(zip(readers, got, strict=True))
    while open_ones:
        for reader, data in list(open_ones.items()):
            more = reader.recv(16384)
            data += more
            if not more:
                open_ones.pop(reader).partition(b"\r\n\r\n")
                reader.close()
    for data in got:
        assert data.partition(b"\r\n\r\n")[2] == wanted


@pytest.mark.parametrize("error", ["EAGAIN", "ENOMEM"])
def test_no_process_can_be_forked_for_a_client(service: Daemon, error: str) -> None:
    service.expected_errors = [f"fork: {error}"]
    start(service, "process-per-connection")
    with failing(service, service.worker_pids(), "clone", error) as out:
        clients = ask(service)
        until(lambda: failures(out) >= 3, "three tries")
        assert failures(out) < 100
    answered(clients)


@pytest.mark.parametrize(
    ("model", "error"), [("leader-followers", "EAGAIN"), ("half-sync-half-async", "ENOMEM")]
)
def test_no_child_can_be_forked(service: Daemon, model: str, error: str) -> None:
    service.expected_errors = ["fork", "gone: SIGKILL"]
    start(service, model)
    victim = service.worker_pids()[0]
    with failing(service, [service.pid], "clone", error) as out:
        subprocess.run(["kill", "-9", str(victim)], check=True)
        until(lambda: failures(out) >= 1, "a try")
        answered(ask(service))  # the other child serves
        assert failures(out) < 30
    until(lambda: len(service.workers()) == 2, "a new child", 30)
    answered(ask(service))


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_io_uring_is_denied(service: Daemon, error: str) -> None:
    service.write_app(APP)
    out = service.dir / "strace"
    service.under = [
        "strace", "-f", "-q", "-o", str(out), "-e", "trace=io_uring_setup",
        "-e", f"inject=io_uring_setup:error={error}",
    ]  # fmt: skip
    service.start_in_foreground("-m", "proactor")
    until(lambda: "metrics on" in service.log(), "the start")
    until(lambda: f"io_uring_setup(): {error}" in service.log(), "why it is not used")
    until(lambda: "simulated-proactor" in service.log(), "what is used instead")
    assert service.metric("forkd_io_fallback") == 1
    assert service.live()["master"]["io_fallback"]
    answered(ask(service))
    service.signal(signal.SIGTERM)
    service.gone(30)


def test_io_uring_is_denied_and_nothing_else_is_wanted(service: Daemon) -> None:
    service.write_app(APP)
    command = service.argv("start", *service.flags("-m", "proactor", "--no-io-fallback"), "-f")
    rule = "inject=io_uring_setup:error=ENOSYS"
    done = subprocess.run(
        ["strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=io_uring_setup", "-e", rule, *command],
        cwd=service.dir, env=service.environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "io_uring_setup(): ENOSYS" in done.stderr and "io-fallback" in done.stderr
