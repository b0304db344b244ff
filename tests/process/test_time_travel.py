"""freezegun and time-machine, active for good in an application: what is late is late all the same, and
what is stamped bears the time.
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import signal
import socket
import time
from datetime import datetime

import pytest

from .conftest import Daemon, until

#: Travels for good when the file `how` says; asked for /hang, it does not come back.
APP = """
    import os, threading, time

    LIBRARY, WHEN, TICK = open("how").read().split()

    def travel():
        if LIBRARY == "freezegun":
            import freezegun
            freezegun.freeze_time("2001-02-03", tick=TICK == "ticks").start()
        else:
            import time_machine
            time_machine.travel(981158400, tick=TICK == "ticks").start()

    def app(environ, start):
        global WHEN
        if WHEN == "request":
            WHEN = "done"
            travel()
        if environ["PATH_INFO"] == "/hang":
            threading.Event().wait()
        body = f"{time.time():.0f}".encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        if environ["PATH_INFO"] == "/fail":
            raise RuntimeError("on purpose")
        return [body]

    if WHEN == "import":
        travel()
"""


def is_now(stamp: float) -> bool:
    return abs(stamp - time.time()) < 1000


def late_workers(service: Daemon) -> float:
    return service.metric("forkd_worker_exits_total", reason="timeout")


@pytest.mark.parametrize("native", [True, False], ids=["native", "no-native"])
@pytest.mark.parametrize("library", ["freezegun", "time-machine"])
def test_clocks_are_right(service: Daemon, library: str, native: bool) -> None:
    service.write_app(APP)
    service.expected_errors = ["failed on GET /fail", "Traceback", "--timeout", "gone: timeout", "raised"]
    log = service.dir / "access.log"
    for generation, how in enumerate(["import stands", "request ticks"], 1):
        (service.dir / "how").write_text(f"{library} {how}")
        if generation == 1:
            service.start(
                "-w", "1", "--timeout", "1", "--keep-alive", "1", "--access-log", str(log),
                "--native" if native else "--no-native",
            )  # fmt: skip
        else:
            service.signal(signal.SIGHUP)
            until(lambda: service.live()["master"]["generation"] == 2, "the second", 60)
        with contextlib.closing(service.client(60)) as client:
            client.request("GET", "/")
            answer = client.getresponse()
            assert abs(int(answer.read()) - 981158400) < 1000  # the application travels
            assert is_now(email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp())
            assert client.sock is not None
            assert client.sock.recv(1) == b""  # by --keep-alive
            client.close()
            client.request("GET", "/fail")
            assert client.getresponse().status == 500
        with service.connect(60) as late:
            late.sendall(b"GET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
            assert late.recv(1000).startswith(b"HTTP/1.1 504 ")
        until(lambda n=generation: late_workers(service) == n, "its end")
        until(lambda: service.workers(), "the next worker", 60)
    for stamp in re.findall(r"\[([^]]+)\] \"", until(lambda: log.read_text(), "lines")):
        assert is_now(datetime.strptime(stamp, "%d/%b/%Y:%H:%M:%S %z").timestamp())
    stamps = re.findall(r"(?m)^(\d{4}-\S+Z) \[\d+\] error worker", service.log())
    assert len(stamps) >= 2
    assert all(is_now(datetime.fromisoformat(stamp).timestamp()) for stamp in stamps)
    assert 0 < service.metric("forkd_request_duration_seconds_sum") < 1000


TIMERS = """
    import asyncio, freezegun

    freezegun.freeze_time("2001-02-03").start()

    class Lines(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            asyncio.get_running_loop().call_later(0.01, self.transport.write, data)
"""


def test_timers_of_a_stream_go_on(service: Daemon) -> None:
    service.write_app(TIMERS)
    service.start("-w", "1", app="app:Lines")
    host, port = service.live()["listeners"][0]["address"].rpartition("/")[2].rsplit(":", 1)
    with socket.create_connection((host, int(port)), 30) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
