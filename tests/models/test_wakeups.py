"""No wake-up is lost between threads: what one of them has finished, another one closes.

The interpreter switches threads after each bytecode, nearly (sys.setswitchinterval), so that whatever can
come between two of them does. A connection that was finished, and of which the thread that waits was not
told, stays open: it is counted, and its descriptor is there. All models that have threads, with native code
and without.
"""

from __future__ import annotations

import os

import pytest

from forkd.models import registry
from tests.process.clients import Load
from tests.process.conftest import Daemon, until

#: /nap is slow enough for the leader to be overtaken, or to be known as one that blocks; and those that are
#: in it come back all at once.
APP = """
    import sys, time
    sys.setswitchinterval(1e-6)

    def app(environ, start):
        path = environ["PATH_INFO"]
        if path == "/nap":
            time.sleep(0.005 - time.monotonic() % 0.005)
        body = environ["HTTP_X_REQUEST_ID"].encode()
        start("200 OK", [("Content-Length", str(len(body))), ("X-Request-Id", body.decode())])
        return [body] if path != "/pieces" else iter([body[:1], body[1:]])
"""

#: Requests after which a wake-up that can be lost has been.
REQUESTS = 2500

WAYS = [
    *(
        ["-m", row.name, "--io", io, "--handoff", handoff]
        for row in registry.MODELS
        if row.threaded or row.pooled
        for io in row.ios
        if io not in ("blocking", "sigio")
        for handoff in (
            ("socket", "task") if row.name == "half-sync-half-reactive" else ("socket",)
        )
    ),
]


def descriptors(service: Daemon) -> dict[int, int]:
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in service.worker_pids()}


@pytest.mark.parametrize("native", ["--native", "--no-native"])
@pytest.mark.parametrize("flags", WAYS, ids=" ".join)
def test_what_is_finished_is_closed(service: Daemon, flags: list[str], native: str) -> None:
    service.write_app(APP)
    service.start(*flags, native, "--threads", "16", "-w", "1", "--keep-alive", "30")
    before = descriptors(service)
    loads = [
        Load(service.address, fresh=20, path="/nap", strict=True),
        Load(service.address, fresh=3, keep=3, path="/", strict=True),
    ]
    with loads[0], loads[1]:
        loads[0].more(REQUESTS, 60)
    assert not loads[0].failures + loads[1].failures
    until(lambda: service.metric("forkd_connections") == 0, "each connection closed")
    until(lambda: descriptors(service) == before, "no descriptor leaked")
