"""Processes that an ASGI application forks, under each event loop: they leave before anything else runs."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.process.conftest import Daemon

from .conftest import dial, read_all, take

MODES = {
    "native": [], "twin": ["--no-native"], "select": ["--io", "select"], "sigio": ["--io", "sigio"],
    "half-sync-half-async": ["-m", "half-sync-half-async"],
    "io_uring": ["-m", "proactor", "--io", "io_uring"],
}  # fmt: skip
#: Each with how the child ends.
ENDS = {
    "step/return": 0, "step/exit": 3, "step/raise": 1, "later/return": 0, "later/exit": 3, "later/raise": 1,
    "task/return": 0, "task/exit": 3, "callback/soon/return": 0, "callback/later/return": 0,
    "callback/soon/exit": 3, "waits": 0, "loop": 5, "terminate": -signal.SIGTERM, "pool": [1, 2],
    **{f"signalled/{number:d}": -number for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)},
    f"signalled/{signal.SIGUSR2:d}": 42,
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_a_child_leaves(service: Daemon, loop: str, mode: str) -> None:
    take(service, "asgi_forks")
    service.expected_errors = ["^Traceback"]  # of the child that raises
    service.start("-w", "1", "--loop", loop, *MODES[mode], app="asgi_forks:app")
    (worker,) = service.worker_pids()
    assert json.loads(service.get("/startup")) == [0]
    assert {way: json.loads(service.get(f"/{way}")) for way in ENDS} == ENDS
    if mode != "twin":
        assert service.get("/c") == "0"
    assert service.get("/pid") == str(worker)
    assert service.worker_pids() == [worker]


def test_a_client_sees_the_end_while_a_child_lives(service: Daemon, loop: str) -> None:
    take(service, "asgi_forks")
    service.start("-w", "1", "--loop", loop, app="asgi_forks:app")
    with dial(service) as client:
        client.sendall(b"GET /linger HTTP/1.0\r\n\r\n")
        os.kill(int(read_all(client).rpartition(b"\r\n\r\n")[2]), signal.SIGTERM)
