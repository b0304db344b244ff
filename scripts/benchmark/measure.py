"""The measurements that are more than a load: idle connections, memory, the master, the rest."""

from __future__ import annotations

import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy

from scripts.benchmark import check, load
from scripts.benchmark.load import Figures
from scripts.benchmark.process import Server, Unavailable, free_port, until_it_listens
from scripts.benchmark.servers import FRONT

IDLE = 10_000
STEPS = (10, 100, 1_000, 10_000)
PASSES = 4
#: No peer is a proxy.
NO_PROXY = ("--forwarded-allow", "none")
PER_SOURCE = 2_000  # connections from one 127.0.0.x: far from the end of the ephemeral ports


def forwarded(server: Server, seconds: float) -> Figures:
    """With the fields of a proxy; or, of a server that trusts none, with others of that size."""
    words = ("Y",) if NO_PROXY[0] in server.command else ()
    return load.wrk(server, seconds, script="forwarded.lua", words=words)


def fast_beside_slow(server: Server, seconds: float, rate: int = 0) -> Figures:
    """One request in a hundred takes 100 ms; the latencies are those of the others."""
    kinds = [(sent, check.length(server, sent)) for sent in map(check.request, ("/", "/100ms"))]
    return load.messages(server, seconds, *kinds, rate=rate)


def idle_connections(server: Server, seconds: float) -> Figures:
    """Memory of the process tree for each keep-alive connection that waits after one request."""
    load.wrk(server, 1)  # what is allocated once is there
    sent = check.request()
    size = check.length(server, sent)

    def dial(source: str) -> socket.socket:
        client = check.dial(server, source)
        client.sendall(sent)
        missing = size
        while missing > 0:
            missing -= len(client.recv(missing)) or missing + 1
        return client

    return held(server, IDLE, dial)


def held(server: Server, number: int, dial: Callable[[str], socket.socket]) -> Figures:
    """Memory of the process tree for each of so many connections. `dial` makes one from an address of ours,
    and leaves it at rest."""
    before = server.memory()
    poll = select.poll()
    with ExitStack() as stack:
        for count in range(number):
            client = stack.enter_context(dial(f"127.0.0.{2 + count // PER_SOURCE}"))
            poll.register(client, select.POLLIN)
        time.sleep(1)
        memory = server.memory() - before
        closed = len(poll.poll(0))
    if closed > number / 100:
        raise Unavailable(f"it closed {closed:,} of {number:,} idle connections")
    return {"bytes": memory / number, "errors": closed}


def cost_by_connections(server: Server, seconds: float) -> Figures:
    """CPU time of a request when that many connections take turns; and how flat it is. The numbers take
    turns, too, since the machine may become slower meanwhile."""
    sent = check.request()
    message = sent, check.length(server, sent)
    found = {"errors": 0.0}
    requests, cpu = dict.fromkeys(STEPS, 0.0), dict.fromkeys(STEPS, 0.0)
    for _ in range(PASSES):
        for connections in STEPS:
            figures = load.messages(server, seconds / PASSES, message, connections=connections)
            requests[connections] += figures["requests"]
            cpu[connections] += figures["requests"] / figures["per_cpu"]
            found["errors"] += figures["errors"]
    costs = [cpu[connections] / requests[connections] * 1e6 for connections in STEPS]
    found |= {f"cost_{number}": cost for number, cost in zip(STEPS, costs, strict=True)}
    return found | {"spread": max(costs) / min(costs)}


def master(server: Server, seconds: float) -> Figures:
    """CPU time of the first process while its worker is as busy as it can be."""
    before, begun = server.master_cpu(), time.monotonic()
    figures = load.wrk(server, seconds)
    share = (server.master_cpu() - before) / (time.monotonic() - begun)
    return figures | {"master": share * 100}


def idle(server: Server, seconds: float) -> Figures:
    """Wake-ups of all processes per second when there is nothing to do."""
    time.sleep(1)  # after the check's requests
    before = server.wakeups()
    time.sleep(2 * seconds)
    return {"wakeups": (server.wakeups() - before) / (2 * seconds), "errors": 0.0}


@contextmanager
def _front(server: Server) -> Iterator[Server]:
    """The server as nginx has it, which passes requests on by uwsgi, and is on the core of the load."""
    front = copy(server)
    front.port = free_port()
    config = server.directory / "front.conf"
    config.write_text(FRONT.format(directory=server.directory, front=front.port, port=server.port))
    own = ["-c", str(config), "-p", str(server.directory), "-e", f"{server.directory}/front.log"]
    with subprocess.Popen(["nginx", *own]) as process:
        try:
            until_it_listens(process, front.port)
            yield front
        finally:
            process.terminate()


def answers_behind_nginx(server: Server) -> None:
    with _front(server) as front:
        check.answers(front, check.request("/", "Accept: */*"))


def behind_nginx(server: Server, seconds: float) -> Figures:
    """The CPU time is the server's alone."""
    with _front(server) as front:
        return load.wrk(front, seconds, headers=("Accept: */*",))


def memory(server: Server, seconds: float) -> Figures:
    """Of the whole tree, when each worker has had a share of a few hundred requests."""
    for _ in range(400):
        check.answers(server, check.request("/", "Connection: close"), again=False)
    time.sleep(1)
    return {"pss": server.memory() / (1 << 20), "errors": 0.0}
