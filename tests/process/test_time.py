"""The wall clock jumps by an hour either way: no deadline moves, and stamps follow.

libfaketime (Debian package faketime) makes the jump, for the daemon and all that it forks: it reads the
offset from a file, and leaves the monotonic clock alone, as settimeofday(2) does.
"""

from __future__ import annotations

import email.utils
import glob
import http.client
import re
import socket
import time
from datetime import datetime
from pathlib import Path

import pytest

from .conftest import APP as USUAL
from .conftest import Daemon, until

LIBRARIES = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
HOUR = 3600

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="needs the Debian package faketime")


#: The usual one, without time.sleep: libfaketime 0.9.10 refuses clock_nanosleep(2) with an absolute time.
APP = USUAL.replace("time.sleep(", "__import__('threading').Event().wait(")


class Clock:
    """The wall clock of one daemon."""

    def __init__(self, service: Daemon) -> None:
        service.write_app(APP)
        self._offset = service.dir / "offset"
        self.set(0)
        service.environ |= {
            "LD_PRELOAD": LIBRARIES[0],
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        new = self._offset.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._offset)


@pytest.fixture
def clock(service: Daemon) -> Clock:
    return Clock(service)


def offset(stamp: float) -> int:
    """Hours from now, rounded."""
    return round((stamp - time.time()) / HOUR)


def dated(client: http.client.HTTPConnection) -> int:
    """The offset of the Date of an answer."""
    client.request("GET", "/")
    answer = client.getresponse()
    assert answer.read() == b"v1"
    return offset(email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp())


def stamp_of_access_log(path: Path) -> int:
    stamp = re.findall(r"\[([^]]+)\]", until(lambda: path.exists() and path.read_text(), "a line"))[
        -1
    ]
    return offset(datetime.strptime(stamp, "%d/%b/%Y:%H:%M:%S %z").timestamp())


def stamp_of_error_log(service: Daemon) -> int:
    """Of a line that is written now: a reload's last. It is in the file soon after the reload's answer."""
    before = len(serving(service))
    service.ok("reload")
    until(lambda: len(serving(service)) > before, "the line of the reload")
    return offset(datetime.fromisoformat(serving(service)[-1].split()[0]).timestamp())


def serving(service: Daemon) -> list[str]:
    return [line for line in service.log().splitlines() if " serves" in line]


@pytest.mark.parametrize("hours", [1, -1])
@pytest.mark.parametrize("model", ["leader-followers", "half-sync-half-reactive", "proactor"])
def test_nobody_is_late_because_of_a_jump(
    service: Daemon, clock: Clock, model: str, hours: int
) -> None:
    """Kept connections, a request in the application, one that is half sent, the workers."""
    log = service.dir / "access.log"
    service.start("-m", model, "--timeout", "20", "--keep-alive", "60", "--access-log", str(log))
    pids = service.worker_pids()
    kept = service.client()
    assert dated(kept) == 0
    with service.connect(30) as sleeper, service.connect(30) as sender:
        sleeper.sendall(b"GET /sleep/3 HTTP/1.1\r\nHost: a\r\n\r\n")
        sender.sendall(b"GET / HTTP/1.1\r\n")
        until(lambda: sum(w["in_flight"] for w in service.workers()), "a request in flight")
        clock.set(hours * HOUR)
        assert sleeper.recv(1000).endswith(b"slept")  # and the master has looked meanwhile
        sender.sendall(b"Host: a\r\n\r\n")
        assert sender.recv(1000).endswith(b"v1")
    assert kept.sock is not None
    assert dated(kept) == hours
    until(lambda: stamp_of_access_log(log) == hours, "the line of the last request")
    kept.close()
    assert service.worker_pids() == pids
    assert 0 < service.live()["master"]["uptime"] < HOUR / 2
    assert stamp_of_error_log(service) == hours


@pytest.mark.parametrize("hours", [1, -1])
def test_who_is_late_is_late_in_spite_of_a_jump(service: Daemon, clock: Clock, hours: int) -> None:
    """A head that does not end, a connection that is not used, an application that hangs."""
    service.expected_errors = ["--timeout", "gone: timeout"]
    service.start("-w", "1", "--timeout", "2", "--header-timeout", "2", "--keep-alive", "2")
    clients: list[socket.socket] = []
    for request in (b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        clients.append(service.connect(20))
        clients[-1].sendall(request)
    late, idle = clients
    assert idle.recv(1000).endswith(b"v1")
    clock.set(hours * HOUR)
    assert late.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert idle.recv(1000) == b""
    with service.connect(20) as stuck:
        stuck.sendall(b"GET /sleep/600 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert stuck.recv(1000).startswith(b"HTTP/1.1 504 ")
    until(lambda: service.metric("forkd_worker_exits_total", reason="timeout") == 1, "its end")
    until(lambda: len(service.workers()) == 1, "another in its place")
    for client in clients:
        client.close()
