"""A leader that is stopped between naming the next one and ringing its bell: who was named sleeps on, and is
woken by the master when a client waits. No other order of steps needs it: tests/system/test_lease_model.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from .conftest import APP, Daemon, until
from .leadership import GET
from .test_privileges import root_only
from .trial import GONE

#: The worker that finds the trap stops itself before it writes to the bell, and rings when it goes on.
TRAP = """
    import os as _os, signal as _signal

    _ring = _os.eventfd_write
    _trap = _os.path.join(_os.path.dirname(__file__), "trap")

    def _stop_before(bell, value):
        try:
            _os.unlink(_trap)
        except FileNotFoundError:
            pass
        else:
            _os.kill(_os.getpid(), _signal.SIGSTOP)
        return _ring(bell, value)

    _os.eventfd_write = _stop_before
"""


def stopped(service: Daemon) -> int | None:
    """The pid of the worker that is stopped."""
    for pid in service.worker_pids():
        with contextlib.suppress(*GONE):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return pid
    return None


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--no-native"],
        ["--io", "poll"],
        ["--threads", "4"],
        ["-m", "half-sync-half-reactive", "--threads", "4"],
        ["-m", "reactor"],
        ["-m", "simulated-proactor"],
        ["-m", "proactor"],
        pytest.param(["--user", "nobody"], marks=root_only),
    ],
    ids=lambda flags: " ".join(flags) or "default",
)
def test_whom_it_has_named_is_woken(service: Daemon, flags: list[str]) -> None:
    service.write_app(APP + TRAP)
    service.open_up()
    service.dir.chmod(0o777)
    service.start("-w", "2", "--timeout", "60", *flags)
    (service.dir / "trap").touch()
    with service.connect(timeout=30) as client:
        # It has a connection then, and the other one has none.
        client.sendall(GET % (b"/", b"close"))
        pid = until(lambda: stopped(service), "the leader stopped")
        [named] = set(service.worker_pids()) - {pid}
        try:
            assert service.leader()["pid"] == named
            assert {service.get("/pid", timeout=5) for _ in range(20)} == {str(named)}
        finally:
            os.kill(pid, signal.SIGCONT)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert service.get() == "v1"
