"""The signature of each pattern in the system calls that strace counts: 20 clients, 5 requests each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, REQUESTS = 20, 100

Counts = dict[str, dict[str, int]]
RECEIVE = ("recvfrom", "recvmsg", "recv", "read", "readv")
SEND = ("sendto", "sendmsg", "send", "write", "writev")
WAITING = "(threads that wait for readiness)"


def traceable() -> bool:
    return (
        subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(not traceable(), reason="strace may not trace here")


def counts(model: str, io: str) -> Counts:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/strace-models"), "--counts", model, io],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: Counts = json.loads(done.stdout)
    return found


def made(calls: dict[str, int], names: tuple[str, ...]) -> int:
    return sum(calls.get(name, 0) for name in names)


def test_leader_followers_does_all_in_one_process() -> None:
    found = counts("leader-followers", "epoll")
    assert found["worker"]["accept4"] >= CLIENTS
    assert found["worker"]["recvfrom"] >= REQUESTS and found["worker"]["sendto"] == REQUESTS
    assert "accept4" not in found["master"] and not {"thread", "process"} & set(found)


def test_sigio_is_delivered_for_listeners_and_for_connections() -> None:
    """Connections' signals are taken by sigtimedwait(2), which strace shows as no delivery."""
    found = counts("leader-followers", "sigio")
    assert found["master"]["--- SIGIO"] >= 1
    assert found["worker"]["fcntl"] >= 4 * CLIENTS  # F_SETOWN, F_SETSIG, F_SETFL for each
    assert "epoll_wait" not in found["worker"]
    assert found["worker"]["sendto"] == REQUESTS


@pytest.mark.parametrize("io", ["epoll", "blocking"])
def test_process_per_connection_forks_for_each_client(io: str) -> None:
    found = counts("process-per-connection", io)
    assert found["worker"].get("clone", 0) + found["worker"].get("fork", 0) == CLIENTS
    assert found["process"]["sendto"] == REQUESTS
    assert found["master"]["accept4"] >= CLIENTS
    assert not made(found["worker"], ("recvfrom", "sendto"))


def test_half_sync_half_async_passes_sockets() -> None:
    found = counts("half-sync-half-async", "sigio")
    assert found["master"]["--- SIGIO"] >= 1
    assert found["master"]["SCM_RIGHTS"] == found["master"]["sendmsg"] == CLIENTS
    assert found["worker"]["recvmsg"] >= CLIENTS
    assert found["worker"]["sendto"] == REQUESTS
    assert not made(found["master"], ("recvfrom", "sendto"))


@pytest.mark.parametrize("model", ["half-sync-half-reactive", "reactor"])
def test_one_thread_waits_and_the_pool_reads_and_writes(model: str) -> None:
    found = counts(model, "epoll")
    assert found["worker"][WAITING] == 1 and WAITING not in found["thread"]
    assert found["thread"]["sendto"] == REQUESTS
    assert found["thread"]["recvfrom"] >= REQUESTS
    assert "sendto" not in found["worker"]


def test_simulated_proactor_moves_bytes_in_the_main_thread_alone() -> None:
    found = counts("simulated-proactor", "epoll")
    assert found["worker"]["sendto"] == REQUESTS and found["worker"]["recvfrom"] >= REQUESTS
    assert not made(found["thread"], ("sendto", "recvfrom")) and WAITING not in found["thread"]


def test_proactor_leaves_accepting_and_moving_bytes_to_the_kernel() -> None:
    found = counts("proactor", "io_uring")
    if "io_uring_enter" not in found["worker"]:
        pytest.skip("io_uring is denied here")
    assert not made(found["worker"], (*RECEIVE, *SEND, "accept4", "accept", "epoll_wait"))
    assert found["worker"]["io_uring_enter"] < REQUESTS  # many completions for one call
    assert set(found) == {"master", "worker"}


def test_aio_reads_and_writes_in_threads_of_the_library() -> None:
    found = counts("proactor", "aio")
    assert not made(found["worker"], ("recvfrom", "sendto"))
    others = found["process"]  # glibc starts them when they are needed
    assert made(others, ("pread64", "read")) >= REQUESTS
    assert made(others, ("pwrite64", "write")) >= REQUESTS
