"""More than forkd can hold: what does not fit waits in the accept queue, and is served later."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

import pytest

from .conftest import Daemon, until

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    "model", ["leader-followers", "half-sync-half-async", "reactor", "proactor"]
)
def test_connections_above_the_limit_wait_and_are_answered_when_others_leave(
    service: Daemon, model: str
) -> None:
    most, more = 2 * 4, 6
    service.start("-m", model, "-w", "2", "--worker-connections", "4")
    with contextlib.ExitStack() as stack:

        def client() -> socket.socket:
            sock = stack.enter_context(service.connect())
            sock.sendall(REQUEST)
            return sock

        held = []
        for _ in range(most):
            held.append(client())
            held[-1].sendall(REQUEST[:9])  # another one has begun: it is not idle
            assert held[-1].recv(1000).startswith(b"HTTP/1.1 200 ")
        waiting = [client() for _ in range(more)]
        until(lambda: service.metric("forkd_accept_queue_length") == more, "the queue in metrics")
        service.settles(most, "forkd_connections")
        while waiting:
            held.pop().close()  # one leaves, and one comes in, in order
            waiting[0].sendall(REQUEST[:9])
            assert waiting.pop(0).recv(1000).startswith(b"HTTP/1.1 200 ")
            service.settles(len(waiting), "forkd_accept_queue_length")


def test_the_limit_of_open_files_is_lifted_and_named_when_it_is_too_low(service: Daemon) -> None:
    service.under = ["prlimit", "--nofile=256:512"]
    service.start_in_foreground("--worker-connections", "1000")
    for pid in [service.pid, *service.worker_pids()]:
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max open files +512 +512 ", limits)
    warning = r"warning master: worker-connections 1000: .* 512 open files only; .* 1064 or more"
    assert len(re.findall(warning, service.log())) == 1
    assert service.get() == "v1"
