"""gevent and eventlet replace functions of the standard library in place. What forkd itself calls are the
originals, whenever an application patches; its threads are real ones, and its locks are the interpreter's.
"""

from __future__ import annotations

import http.client
import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from forkd.models import registry

from .conftest import Daemon, until

#: Patches when the file `how` says; /threads tells what forkd is made of.
APP = """
    import _thread, gc, json, os, sys, time

    # Threads that make a hub while another one patches import the same modules, and gevent's locks of
    # importlib wait for each other then, whoever has started the threads.
    PATCHING = _thread.allocate_lock()
    LIBRARY, WHEN = open("how").read().split()

    def patch():
        if LIBRARY == "gevent":
            import gevent.monkey
            gevent.monkey.patch_all()
            gevent.sleep(0)  # its hub is there, with an epoll: a child that is forked shares it
        else:
            # Its resolver imports whatever HTTP client is installed, of which it cannot patch each.
            os.environ["EVENTLET_NO_GREENDNS"] = "yes"
            import eventlet
            eventlet.monkey_patch()
            eventlet.sleep(0)

    def foreign():
        found = []
        for thing in [*gc.get_objects(), *sys.modules.values()]:
            name = getattr(thing, "__name__", "") if type(thing) is type(sys) else type(thing).__module__
            if not str(name).startswith("forkd"):
                continue
            kept = [getattr(thing, slot, None) for slot in getattr(type(thing), "__slots__", ())]
            for value in [*kept, *getattr(thing, "__dict__", {}).values()]:
                where = getattr(value, "__module__", None) or type(value).__module__
                if str(where).partition(".")[0] in ("gevent", "eventlet"):
                    found.append(f"{name}: {value!r}")
        return found

    def system_thread():
        with open("/proc/thread-self/stat") as file:  # of the kernel, which knows no greenlets
            return int(file.read().split()[0])

    def app(environ, start):
        global WHEN
        with PATCHING:
            if WHEN == "request":
                WHEN = "done"
                patch()
        path, body = environ["PATH_INFO"], {"pid": os.getpid(), "library": LIBRARY}
        if path == "/sleep":
            time.sleep(1)
        elif path == "/talk":
            import socket
            a, b = socket.socketpair()
            a.sendall(b"!")
            body["heard"] = b.recv(1).decode()
            a.close(), b.close()
        elif path == "/threads":
            time.sleep(0.01)
            body |= {"thread": system_thread(), "tasks": len(os.listdir("/proc/self/task"))}
        elif path == "/foreign":
            body["foreign"] = foreign()
        body = json.dumps(body).encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    def make():
        if WHEN == "factory":
            patch()
        return app

    if WHEN == "import":
        patch()
"""

LIBRARIES = ("gevent", "eventlet")
MOMENTS = ("import", "factory", "request")
#: Each model; those in which one thread or several run the application, twice.
ROWS = [
    *((row.name, 1) for row in registry.MODELS if not row.pooled),
    *((row.name, 4) for row in registry.MODELS if row.threaded),
]


def get(service: Daemon, path: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(service.get(path, 60))
    return found




def turns(row: int) -> list[tuple[str, str, bool, bool]]:
    """Library, moment, native, preload: what is loaded one after the other, other pairs for each row."""
    loaded = MOMENTS[:2] if row % 2 else MOMENTS[1::-1]
    found = [
        ("gevent", loaded[0], True), ("gevent", "request", False),
        ("eventlet", loaded[1], False), ("eventlet", "request", False),
    ]  # fmt: skip
    return [(*turn[:2], (row + n) % 2 == 0, turn[2]) for n, turn in enumerate(found)]


def load(service: Daemon, generation: int, how: str, **settings: bool) -> None:
    (service.dir / "how").write_text(how)
    lines = [f"{key} = {value}\n".lower() for key, value in settings.items()]
    (service.dir / "forkd.toml").write_text("".join(lines))
    if generation > 1:
        service.signal(signal.SIGHUP)
        until(lambda: service.live()["master"]["generation"] == generation, "the next generation", 60)


@pytest.mark.parametrize("row", range(len(ROWS)), ids=[f"{name}-{n}" for name, n in ROWS])
def test_what_forkd_calls_are_the_originals(service: Daemon, row: int) -> None:
    """A request that sleeps is in the application of one generation while the next one is loaded."""
    model, threads = ROWS[row]
    service.write_app(APP)
    alone = threads == 1 and model != "process-per-connection"  # a request holds its worker
    sleepers: list[http.client.HTTPConnection] = []
    with ThreadPoolExecutor(8) as pool:
        for generation, (library, moment, native, preload) in enumerate(turns(row), 1):
            load(service, generation, f"{library} {moment}", native=native, preload=preload)
            if generation == 1:
                service.start(
                    "-c", "forkd.toml", "-m", model, "--threads", str(threads), "-b", "127.0.0.1:0",
                    "--admin", "127.0.0.1:0", "-w", "2" if alone else "1", app="app:make()",
                )  # fmt: skip
            pids = set(service.worker_pids())
            if alone:
                until(lambda pids=pids: pids <= {get(service, "/")["pid"] for _ in range(4)}, "both")
            sleepers.append(service.client(60))
            sleepers[-1].request("GET", "/sleep")
            # There, each client's process imports the library for its first request.
            count = 2 if moment == "request" and model == "process-per-connection" else 50
            others = list(pool.map(lambda n: get(service, ("/", "/talk")[n % 2]), range(count)))
            assert {answer["library"] for answer in others} == {library}
            assert {answer["heard"] for answer in others[1::2]} == {"!"}
            assert get(service, "/foreign")["foreign"] == []
            answers = list(pool.map(lambda _: get(service, "/threads"), range(min(8, count))))
            if threads > 1:
                assert len({answer["thread"] for answer in answers}) > 1
                assert int(str(answers[0]["tasks"])) > threads
            elif moment != "request":
                assert {answer["tasks"] for answer in answers} == {1}
        for sleeper in sleepers:
            assert sleeper.getresponse().status == 200
            sleeper.close()


HANDLERS = """
    import asyncio, os, socketserver, threading, time

    LIBRARY, WHEN = open("how").read().split()

    def patch():
        if LIBRARY == "gevent":
            import gevent.monkey
            gevent.monkey.patch_all()
        else:
            # Its resolver imports whatever HTTP client is installed, of which it cannot patch each.
            os.environ["EVENTLET_NO_GREENDNS"] = "yes"
            import eventlet
            eventlet.monkey_patch()

    def answer(data):
        global WHEN
        if WHEN == "request":
            WHEN = "done"
            patch()
        time.sleep(0.001)
        return LIBRARY.encode() + b" " + data

    class Lines(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            said = answer(data)
            asyncio.get_running_loop().call_later(0.01, self.transport.write, said)

    class Blocking(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(answer(line))

    if WHEN == "import":
        patch()
"""


@pytest.mark.parametrize(
    ("interface", "threads"), [("Lines", 1), ("Blocking", 1), ("Blocking", 4)]
)
def test_streams_go_on(service: Daemon, interface: str, threads: int) -> None:
    service.write_app(HANDLERS)
    cases = [(library, moment) for library in LIBRARIES for moment in ("import", "request")]
    for generation, (library, moment) in enumerate(cases, 1):
        load(service, generation, f"{library} {moment}", native=generation % 2 == 0)
        if generation == 1:
            service.start("-c", "forkd.toml", "--threads", str(threads), "-b", "127.0.0.1:0",
                          "--admin", "127.0.0.1:0", "-w", "1", app=f"app:{interface}")
        host, port = service.live()["listeners"][0]["address"].rpartition("/")[2].rsplit(":", 1)
        for line in (b"one\n", b"two\n"):
            with socket.create_connection((host, int(port)), 60) as client:
                for _ in range(2):
                    client.sendall(line)
                    assert client.recv(100) == library.encode() + b" " + line
