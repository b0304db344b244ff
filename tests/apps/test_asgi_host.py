"""What an ASGI application does to the process that serves it, under each event loop."""

from __future__ import annotations

import email.utils
import re
import shutil
import signal
import textwrap
import time
from datetime import datetime

import pytest

from tests.process.conftest import Daemon, until
from tests.process.test_directory import Releases

from .conftest import dial, read_all

ERRORS = ["the application failed on GET /fails", "Traceback"]

client_of = pytest.importorskip("websockets.sync.client")

#: Above the coroutine `page(path, send)` of a test.
SITE = """
import asyncio, json, os, signal, sys, threading, time


async def answer(send, body, kind=b"text/plain"):
    fields = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def app(scope, receive, send):
    message = await receive()
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
    else:
        await page(scope["path"], send)

"""


def write(service: Daemon, source: str, **others: str) -> None:
    service.write_app(SITE + textwrap.dedent(source), **others)


def echoes(service: Daemon) -> bool:
    """A WebSocket has back what it sends."""
    host, port = service.address
    with client_of.connect(f"ws://{host}:{port}/", compression=None) as client:
        client.send("text")
        return bool(client.recv(timeout=10) == "text")


def next_generation(service: Daemon, number: int) -> None:
    service.signal(signal.SIGHUP)
    until(lambda: service.live()["master"]["generation"] == number, "the next generation", 60)


# ---- monkey patching -------------------------------------------------------------------------

PATCHES = """
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

    async def page(path, send):
        global WHEN
        if WHEN == "request":
            WHEN = "done"
            patch()
        if path == "/waits":
            await asyncio.sleep(0.01)
        elif path == "/dials":
            async def echo(reader, writer):
                writer.write(await reader.readline())
                writer.close()
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"line\\n")
            assert await reader.read() == b"line\\n"
            writer.close()
            server.close()
        await answer(send, LIBRARY.encode())

    if WHEN == "import":
        patch()
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_monkey_patches(service: Daemon, loop: str, library: str) -> None:
    """The loop is made before the import, by --interface asgi."""
    pytest.importorskip(library)
    write(service, PATCHES)
    for generation, moment in enumerate(("import", "request"), 1):
        (service.dir / "how").write_text(f"{library} {moment}")
        if generation == 1:
            service.start("--interface", "asgi", "-w", "1", "--loop", loop)
        else:
            next_generation(service, generation)
        for path in ("/", "/waits", "/dials", "/"):
            assert service.get(path) == library, path
        assert echoes(service)


# ---- time travel -----------------------------------------------------------------------------

TRAVELS = """
    LIBRARY, WHEN, TICK = open("how").read().split()

    def travel():
        if LIBRARY == "freezegun":
            import freezegun
            freezegun.freeze_time("2001-02-03", tick=TICK == "ticks").start()
        else:
            import time_machine
            time_machine.travel(981158400, tick=TICK == "ticks").start()

    async def page(path, send):
        global WHEN
        if WHEN == "request":
            WHEN = "done"
            travel()
        if path == "/waits":
            await asyncio.sleep(0.01)
        elif path == "/blocks":
            threading.Event().wait()
        elif path == "/fails":
            raise RuntimeError("failed on purpose")
        await answer(send, b"%d" % time.time())

    if WHEN == "import":
        travel()
"""


def is_now(stamp: float) -> bool:
    return abs(stamp - time.time()) < 1000


@pytest.mark.parametrize("library", ["freezegun", "time-machine"])
def test_time_travel(service: Daemon, loop: str, library: str) -> None:
    """Timers of the loop, deadlines, --timeout, Date and both logs."""
    pytest.importorskip(library.replace("-", "_"))
    write(service, TRAVELS)
    service.expected_errors = [*ERRORS, "gone: timeout", "--timeout"]
    log = service.dir / "access.log"
    for generation, how in enumerate(("import stands", "request ticks"), 1):
        (service.dir / "how").write_text(f"{library} {how}")
        if generation == 1:
            times = ["--timeout", "1", "--keep-alive", "1"]
            service.start("-w", "1", "--loop", loop, *times, "--access-log", str(log))
        else:
            next_generation(service, generation)
        for path in ("/", "/waits"):
            with dial(service) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                head, _, body = read_all(client).partition(b"\r\n\r\n")  # it ends by --keep-alive
                (date,) = re.findall(r"\nDate: (.*)\r\n", head.decode())
                assert is_now(email.utils.parsedate_to_datetime(date).timestamp())
                assert abs(int(body) - 981158400) < 1000  # the application travels
        assert echoes(service)
        with dial(service) as client:
            client.sendall(b"GET /fails HTTP/1.0\r\n\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 500 ")
        with dial(service) as client:
            client.sendall(b"GET /blocks HTTP/1.1\r\nHost: a\r\n\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 504 ")
        service.settles(generation, "forkd_worker_exits_total", reason="timeout")
        until(service.workers, "the next worker", 60)
    assert "self-test" not in service.log()
    stamps = re.findall(r"\[([^]]+)\] \"", until(log.read_text, "lines"))
    assert all(is_now(datetime.strptime(stamp, "%d/%b/%Y:%H:%M:%S %z").timestamp()) for stamp in stamps)
    stamps = re.findall(r"(?m)^(\d{4}-\S+Z) \[\d+\] error worker", service.log())
    assert len(stamps) >= 2
    assert all(is_now(datetime.fromisoformat(stamp).timestamp()) for stamp in stamps)
    assert 0 < service.metric("forkd_request_duration_seconds_sum") < 1000


# ---- signals ---------------------------------------------------------------------------------

RINGS = """
    def ring(number, frame):
        raise TimeoutError("an alarm of the application")

    async def page(path, send):
        signal.signal(signal.SIGALRM, ring)
        if path == "/later":
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        await answer(send, b"%d" % os.getpid())
"""


@pytest.mark.parametrize("flags", [[], ["--no-native"]], ids=" ".join)
def test_a_handler_that_raises_while_the_worker_waits(service: Daemon, loop: str, flags: list[str]) -> None:
    write(service, RINGS)
    service.expected_errors = ["a signal handler of the application has raised", "Traceback", "raised"]
    service.start("-w", "1", "--loop", loop, *flags)
    pid = str(service.worker_pids()[0]).encode()
    with dial(service) as kept:
        kept.sendall(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.recv(1000).endswith(pid)
        until(lambda: "TimeoutError: an alarm of the application" in service.log(), "the alarm")
        kept.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.recv(1000).endswith(pid)


LEFT = """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    async def page(path, send):
        if path == "/ok":
            return await answer(send, b"ok")
        open("begun", "w").close()
        while not os.path.exists("left"):
            await asyncio.sleep(0.002)
        if path == "/fails":
            raise ValueError("failed on purpose")
        if path == "/file":
            await send({"type": "http.response.start", "status": 200})
            return await send({"type": "http.response.pathsend", "path": os.path.abspath("large")})
        if path == "/pieces":
            await send({"type": "http.response.start", "status": 200})
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"p" * 70000, "more_body": True})
            return await send({"type": "http.response.body"})
        await answer(send, {"/small": b"small", "/large": b"l" * (4 << 20)}[path])
"""


@pytest.mark.parametrize("flags", [[], ["--no-native"], ["-m", "proactor", "--io", "io_uring"]], ids=" ".join)
def test_sigpipe_at_its_default(service: Daemon, loop: str, flags: list[str]) -> None:
    """A client that leaves before the answer is made ends no worker."""
    write(service, LEFT)
    (service.dir / "large").write_bytes(bytes(4 << 20))
    service.expected_errors = ERRORS
    service.start("-w", "1", "--loop", loop, *flags)
    workers = service.worker_pids()
    left, begun = service.dir / "left", service.dir / "begun"
    for path in ("small", "large", "pieces", "file", "fails"):
        for mark in (left, begun):
            mark.unlink(missing_ok=True)
        with dial(service) as client:
            client.sendall(f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            until(begun.exists, "the application has it")
        left.touch()
        service.settles(0, "forkd_connections")
        assert service.worker_pids() == workers, path
    with dial(service) as client:
        client.sendall(b"GET /ok HTTP/1.0\r\n\r\n")
        assert read_all(client).endswith(b"\r\n\r\nok")
    assert "SIGPIPE" not in service.log() and "ended:" not in service.log()


# ---- descriptors -----------------------------------------------------------------------------

CLOSES = """
    class Nowhere:
        def write(self, text): raise ValueError("failed on purpose: nobody prints here")
        flush = None

    async def page(path, send):
        if path == "/close":
            for fd in range(3):
                try:
                    os.close(fd)
                except OSError:
                    pass
        elif path == "/replace":
            sys.stdout = sys.stderr = Nowhere()
        elif path == "/print":
            os.write(1, b"to standard output\\n")
            os.write(2, b"to standard error\\n")
        elif path == "/fails":
            raise RuntimeError("failed on purpose")
        await answer(send, b"ok")
"""


@pytest.mark.parametrize("flags", [[], ["--preload"]], ids=" ".join)
def test_descriptors_0_to_2_are_closed(service: Daemon, loop: str, flags: list[str]) -> None:
    """At import, and in a request; sys.stdout is something else: no client reads what is printed."""
    write(service, CLOSES + "\n    for fd in range(3):\n        os.close(fd)\n")
    service.expected_errors = ERRORS
    service.start("-w", "1", "--loop", loop, *flags)
    workers = service.worker_pids()
    for done in ("/", "/close", "/replace"):
        assert service.get(done) == "ok"
        for path, status in (("/print", b"200"), ("/fails", b"500")):
            with dial(service) as client:
                client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                found = read_all(client)
            assert found.startswith(b"HTTP/1.1 " + status)
            assert b"on purpose" not in found and b"to standard" not in found
        assert echoes(service)
    assert service.worker_pids() == workers


# ---- names -----------------------------------------------------------------------------------


def test_a_release_that_is_switched(service: Daemon, loop: str) -> None:
    """The application's directory is a link, and the one that it led to is removed."""
    releases = Releases(service)
    for name in ("v1", "v2"):
        source = f"async def page(path, send): await answer(send, b{name!r})\n"
        write(service, source, name=f"{name}/app.py")
    releases.start("-w", "1", "--loop", loop)
    assert service.get() == "v1"
    releases.deploy("v2")
    shutil.rmtree(service.dir / "v1")
    service.ok("reload")
    assert service.get() == "v2" and echoes(service)
    service.ok("upgrade")
    assert service.get() == "v2" and echoes(service)


NAMES = "daemon", "httptools", "lockfile", "prometheus_client", "setproctitle"
VALUES = '''
    import enum, {names}

    class Method(enum.StrEnum):
        START = "http.response.start"

    class Lying(bytes):
        def __len__(self): return 1
        def __bool__(self): return False
        def __bytes__(self): return b"forged"
        def __getitem__(self, key): return b"forged"
        def lower(self): return b"a\\r\\nX-Forged: 1"
        def __add__(self, other): return b"a\\r\\nX-Forged: 1"
        def __eq__(self, other): return True
        __hash__ = bytes.__hash__
        __iter__ = None

    async def page(path, send):
        fields = [(Lying(b"X-Name"), Lying(b"value"))]
        mine = "; ".join(module.MINE for module in ({names}))
        await send({{"type": Method.START, "status": 200, "headers": fields}})
        more = path == "/more"
        await send({{"type": "http.response.body", "body": Lying(mine.encode()), "more_body": more}})
        if more:
            await send({{"type": "http.response.body", "body": Lying(b"!")}})
'''


@pytest.mark.parametrize("flags", [[], ["--no-native"]], ids=" ".join)
def test_modules_of_forkds_names_and_subclasses(service: Daemon, loop: str, flags: list[str]) -> None:
    for name in NAMES:
        service.write_app(f"MINE = {name!r}", name=f"{name}.py")
    write(service, VALUES.format(names=", ".join(NAMES)))
    service.start("-w", "1", "--loop", loop, *flags)
    for path, end in (("/", ""), ("/more", "!")):
        with dial(service) as client:
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            head, _, body = read_all(client).partition(b"\r\n\r\n")
        assert b"\r\nX-Name: value\r\n" in head + b"\r\n" and b"Forged" not in head
        assert body.decode() == "; ".join(NAMES) + end
