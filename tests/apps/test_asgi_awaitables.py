"""What receive() and send() return, where an application keeps it, drops it or looks at it: native code has
the memory of the last one for the next."""

from __future__ import annotations

import http.client
import json

import pytest

from tests.process.conftest import Daemon

WAYS = {"native": [], "twin": ["--no-native"]}
SITE = """
import asyncio, gc, json, os, threading, tracemalloc, warnings

warnings.simplefilter("ignore")  # the coroutines of the twin that nobody awaits
PIECE = {"type": "http.response.body", "body": b"x" * 10, "more_body": True}

class Drops:
    "Makes and drops others, while what it is in is taken apart."
    def __init__(self, receive):
        self.receive = receive
    def __del__(self):
        for _ in range(3):
            self.receive()

def use(receive, send):
    kept = [receive() for _ in range(50)]
    kept += [send({**PIECE, "note": number}) for number in range(50)]
    return kept

def kept(receive, send):
    one = receive()
    found = [gc.is_tracked(one), any(one is each for each in gc.get_objects())]
    del one
    one, other = send(PIECE), receive()
    return [*found, one is not other, len({id(each) for each in use(receive, send)})]

def in_threads(receive, send):
    def work():
        for _ in range(20):
            use(receive, send)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for each in threads:
        each.start()
    work()
    for each in threads:
        each.join()
    return len(gc.get_objects()) > 0

def in_finalizers(receive, send):
    for _ in range(100):
        send({**PIECE, "note": Drops(receive)})
    return gc.collect() >= 0

def in_cycles(receive, send):
    for _ in range(100):
        message = {**PIECE}
        message["note"] = [send(message), receive(), Drops(receive)]
    del message
    return gc.collect() > 0

def traced(receive, send):
    tracemalloc.start(5)
    try:
        kept = use(receive, send)
        tracemalloc.take_snapshot()
        del kept
        use(receive, send)
        return tracemalloc.get_traced_memory()[0] > 0
    finally:
        tracemalloc.stop()

def in_a_fork(receive, send):
    kept = use(receive, send)
    if not (pid := os.fork()):
        del kept
        use(receive, send)
        gc.collect()
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def closed(receive, send):
    for each in use(receive, send):
        each.close()
    for each in use(receive, send):
        try:
            each.throw(KeyError("thrown"))
        except KeyError:
            pass
    return True

async def app(scope, receive, send):
    name = scope["path"][1:]
    body = json.dumps(globals()[name](receive, send)).encode()
    first = await receive()
    assert first == {"type": "http.request", "body": b"", "more_body": False}, first
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.mark.parametrize("way", WAYS)
def test_an_awaitable_is_the_applications(service: Daemon, way: str) -> None:
    service.write_app(SITE)
    service.start("--interface", "asgi", "-w", "1", *WAYS[way])
    wanted = {
        "kept": [True, True, True, 100], "in_threads": True, "in_finalizers": True,
        "in_cycles": True, "traced": True, "in_a_fork": 7, "closed": True,
    }  # fmt: skip
    connection = http.client.HTTPConnection(*service.address, timeout=20)
    for _ in range(3):
        for name, answer in wanted.items():
            connection.request("GET", f"/{name}")
            assert json.loads(connection.getresponse().read()) == answer, name
    connection.close()
