"""The life of an ASGI application in its worker: how it is loaded, its lifespan, the end of its requests."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import textwrap
import time

import pytest

from tests.process.conftest import Daemon, alive, until

from .conftest import FAILURES, dial, read_all, take

HELLO = """
    async def hello(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})
"""


def write(service: Daemon, source: str, name: str = "app.py") -> None:
    service.write_app(textwrap.dedent(HELLO) + textwrap.dedent(source), name=name)


def begin(
    service: Daemon, path: str, method: str = "GET", accept: str = "text/event-stream"
) -> socket.socket:
    """A request, of which the first bytes of the answer have come."""
    client = dial(service)
    client.settimeout(30)
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nAccept: {accept}\r\n\r\n"
    client.sendall(head.encode())
    assert client.recv(65536).startswith(b"HTTP/1.1 200")
    return client


# ---- how it is loaded -------------------------------------------------------------------------


#: As modules are written that uvicorn imports: a client of HTTP, a task, a lock, all of the running loop.
IN_A_LOOP = """
    import asyncio

    ran = []

    async def begins():
        await asyncio.sleep(0)
        ran.append(asyncio.get_running_loop())

    class Client:
        def __init__(self):
            self.loop = asyncio.get_running_loop()
            self.closed = self.loop.create_future()

    client = Client()
    task = asyncio.create_task(begins())

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await task
            assert ran == [client.loop] == [asyncio.get_running_loop()]
            await hello(scope, receive, send)

    def make():
        global task
        task = asyncio.create_task(asyncio.sleep(0))
        return app

    async def amake():
        await asyncio.sleep(0.01)
        return app
"""


@pytest.mark.parametrize(
    ("source", "app", "flags"),
    [
        ("app = hello", "app", ""),
        ("def app(scope, receive, send): return hello(scope, receive, send)", "app:app", ""),
        ("async def make(name): return globals()[name]", "app:make('hello')", ""),
        ("async def make(name): return globals()[name]", "app:make('hello')", "--preload"),
        ("async def make(name): return globals()[name]", "app:make('hello')", "-k asgi"),
        ("import asyncio; asyncio.get_running_loop(); app = hello", "app:app", "-k asgi"),
        ("import asyncio; task = asyncio.get_event_loop().create_task(asyncio.sleep(0)); app = hello",
         "app:app", "-k asgi"),
        ("app = lambda *args: hello(*args)", "app:app", "-k asgi"),
        ("import asyncio; asyncio.get_running_loop(); app = hello", "app:app", ""),
        (IN_A_LOOP, "app:app", ""), (IN_A_LOOP, "app:app", "-k asgi"),
        (IN_A_LOOP, "app:make()", ""), (IN_A_LOOP, "app:make()", "-k asgi"),
        (IN_A_LOOP, "app:amake()", ""), (IN_A_LOOP, "app:amake()", "-k asgi"),
    ],
)  # fmt: skip
def test_an_application_is_found(service: Daemon, source: str, app: str, flags: str) -> None:
    write(service, source)
    service.start(*flags.split(), app=app)
    assert service.get() == "hello"
    assert service.live()["master"]["interface"] == "asgi"
    assert "at import" not in service.log()


@pytest.mark.parametrize(
    ("source", "flags", "said"),
    [
        ("def app(scope): return hello", "", "as ASGI 2 applications do"),
        ("app = lambda *args: hello(*args)", "", "say which it is with --interface"),
        ("app = hello", "-k wsgi", "the application speaks ASGI; leave out --interface"),
        ("app = hello", "-m reactor", "an ASGI application belongs to the thread of its event loop"),
        ("app = hello", "--threads 4", "an ASGI application belongs to the thread of its event loop"),
        ("app = hello", "--io blocking", "an ASGI application needs an event loop"),
        ("app = hello", "-m process-per-connection", "has one lifespan and one event loop"),
    ],
)  # fmt: skip
def test_what_is_not_served_has_a_reason(service: Daemon, source: str, flags: str, said: str) -> None:
    write(service, source)
    service.expected_errors = ["did not start", "gone: boot", said[:30]]
    for verb in ("check", "start"):
        done = service.run(verb, *service.flags(*flags.split(), app="app:app"))
        assert done.returncode != 0
        assert said in done.stderr + done.stdout


def test_what_a_call_returns_may_be_any_awaitable(service: Daemon) -> None:
    write(service, """
        import asyncio, functools, types

        class Awaited:
            def __init__(self, coroutine):
                self.coroutine = coroutine

            def __await__(self):
                return self.coroutine.__await__()

        @types.coroutine
        def generator(*arguments):
            return (yield from hello(*arguments).__await__())

        async def later(future, *arguments):
            await hello(*arguments)
            future.set_result(None)

        def a_future(*arguments):
            future = asyncio.get_running_loop().create_future()
            asyncio.ensure_future(later(future, *arguments))
            return future

        WAYS = {
            "/task": lambda *arguments: asyncio.ensure_future(hello(*arguments)),
            "/object": lambda *arguments: Awaited(hello(*arguments)),
            "/generator": generator, "/future": a_future, "/nothing": lambda *arguments: None,
            "/gather": lambda *arguments: asyncio.gather(hello(*arguments)),
        }

        def app(scope, receive, send):
            return WAYS[scope["path"]](scope, receive, send)
    """)
    service.expected_errors = ["Traceback", "the application failed"]
    service.start("-w", "1", "--lifespan", "off")
    for path in ("/task", "/object", "/generator", "/future", "/gather"):
        assert service.get(path) == "hello"
    with dial(service) as client:
        client.sendall(b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert read_all(client).startswith(b"HTTP/1.1 500 ")


#: As modules were written before asyncio 3.10: a task, a client and a timer of the loop that will run.
BEFORE_A_LOOP = """
    import asyncio, socket

    {before}
    loop = asyncio.get_event_loop()
    ran = []

    async def begins():
        await asyncio.sleep(0)
        ran.append(asyncio.get_running_loop())

    task = loop.create_task(begins())
    loop.call_later(0.01, ran.append, "later")
    near, far = socket.socketpair()
    near.setblocking(False)
    loop.add_reader(near, lambda: ran.append(near.recv(1)))
    far.send(b"r")

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await task
            while len(ran) < 3:
                await asyncio.sleep(0.01)
            assert asyncio.get_running_loop() is loop and {{loop, "later", b"r"}} == {{*ran}}
            await send({{"type": "http.response.start", "status": 200, "headers": []}})
            await send({{"type": "http.response.body", "body": type(loop).__module__.encode()}})

    async def make():
        return app
"""
INSTALLED = "import uvloop; asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())"


@pytest.mark.parametrize(
    ("flags", "app", "before", "loop"),
    [
        ("--loop auto", "app", "", "asyncio"), ("--loop auto", "make()", "", "asyncio"),
        ("--loop auto --no-native --io poll", "app", "", "asyncio"),
        ("--loop asyncio -m proactor", "app", "", "asyncio"), ("--loop uvloop", "app", "", "uvloop"),
        ("--loop uvloop -k asgi", "app", "", "uvloop"), ("--loop auto", "app", INSTALLED, "uvloop"),
    ],
)  # fmt: skip
def test_the_loop_that_is_made_at_import_is_the_workers(
    service: Daemon, flags: str, app: str, before: str, loop: str
) -> None:
    pytest.importorskip("uvloop")
    service.write_app(textwrap.dedent(BEFORE_A_LOOP).format(before=before))
    service.start("-w", "1", *flags.split(), app=f"app:{app}")
    assert service.get().partition(".")[0].replace("forkd", "asyncio") == loop
    assert service.live()["master"]["loop"] == loop
    if "auto" in flags and not before:
        assert "has made asyncio's event loop at import, which serves; with --loop uvloop" in service.log()
    else:
        assert "at import" not in service.log()
    assert service.get()


def test_the_loop_that_a_module_of_protocols_makes_is_the_workers(service: Daemon) -> None:
    service.write_app("""
        import asyncio

        loop = asyncio.get_event_loop()
        task = loop.create_task(asyncio.sleep(0, b"ran"))

        class Tells(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(task.result() if asyncio.get_running_loop() is loop else b"another")
                transport.close()
    """)
    service.start("-w", "1", app="app:Tells")
    with dial(service) as client:
        assert read_all(client) == b"ran"


@pytest.mark.parametrize("flags", ["", "--loop uvloop"])
def test_a_loop_of_a_wsgi_application_is_its_own(service: Daemon, flags: str) -> None:
    service.write_app("""
        import asyncio

        loop = asyncio.get_event_loop()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop)

        def app(environ, start_response):
            start_response("200 OK", [])
            return [loop.run_until_complete(asyncio.sleep(0, b"hello"))]
    """)
    service.start("-w", "1", *flags.split())
    assert service.get() == "hello"
    assert service.live()["master"]["interface"] == "wsgi"


NO_LOOP = """
    import asyncio
    loop = asyncio.new_event_loop()
    {current}

    async def never():
        pass

    task = loop.create_task(never())
    app = hello
"""


def test_a_loop_that_nobody_runs_is_told_of(service: Daemon) -> None:
    write(service, NO_LOOP.format(current=""))
    service.start("-w", "1")
    assert service.get() == "hello"
    said = "has made an event loop and a task (never) at import, beside the loop that serves it"
    until(lambda: said in service.log(), "it is in the log")


@pytest.mark.parametrize("lines", ["asyncio.run(asyncio.sleep(0))", "asyncio.set_event_loop(None)"])
def test_a_loop_of_the_server_is_not_told_of_as_the_application_s(service: Daemon, lines: str) -> None:
    pytest.importorskip("uvloop")
    write(service, f"""
        import asyncio
        {lines}
        app = hello
    """)
    service.start("-w", "1", "--loop", "uvloop")
    assert service.get() == "hello"
    service.ok("stop")
    assert "at import" not in service.log()


def test_a_loop_that_runs_in_a_thread_is_not_told_of(service: Daemon) -> None:
    write(service, """
        import asyncio, threading
        loop, runs = asyncio.new_event_loop(), threading.Event()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(1000), loop)
        loop.call_soon_threadsafe(runs.set)
        runs.wait()
        app = hello
    """)
    service.start("-w", "1")
    assert service.get() == "hello"
    service.ok("stop")
    assert "at import" not in service.log()


def test_what_a_template_has_made_is_told_of(service: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:
        host, port = database.getsockname()
        lines = f"import socket; database = socket.create_connection(({host!r}, {port}))"
        write(service, NO_LOOP.format(current="asyncio.set_event_loop(loop)"))
        service.write_app(f"{lines}\nfrom app import app\n", name="more.py")
        service.start("-w", "1", "--preload", app="more:app")
    assert service.get() == "hello"
    said = f"has made an event loop, a task (never), a connection ({host}:{port}) at import: the workers have"
    until(lambda: said in service.log(), "it is in the log")
    assert service.log().count("at import") == 1


@pytest.mark.parametrize(
    ("flags", "said"), [("--preload", "With --preload there is none at import"), ("-k wsgi", "no running")]
)
def test_where_no_loop_runs_one_is_missed(service: Daemon, flags: str, said: str) -> None:
    write(service, IN_A_LOOP)
    service.expected_errors = ["did not start", "gone: boot", "Traceback", "never awaited", "preload"]
    for verb in ("check", "start"):
        done = service.run(verb, *service.flags(*flags.split(), app="app:app"))
        assert done.returncode != 0
        assert said in done.stderr


def test_a_wsgi_application_that_misses_a_loop_is_not_served_in_one(service: Daemon) -> None:
    service.write_app("import asyncio\nasyncio.get_running_loop()\ndef app(environ, start): pass\n")
    service.expected_errors = ["did not start", "gone: boot", "Traceback"]
    done = service.run("start", *service.flags(app="app:app"))
    assert done.returncode != 0
    assert "RuntimeError: no running event loop" in done.stderr


def test_check_says_what_it_is(service: Daemon) -> None:
    write(service, "import asyncio; asyncio.get_running_loop(); app = hello")
    assert "ok: app:app (asgi) under leader-followers/epoll" in service.ok(
        "check", *service.flags("-k", "asgi")
    )


def test_where_it_is_mounted(service: Daemon) -> None:
    write(service, """
        async def app(scope, receive, send):
            text = f"{scope['root_path']} {scope['path']} {scope['raw_path'].decode()}"
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text.encode()})
    """)
    service.start("--root-path", "/api/")
    assert service.get("/x") == "/api /api/x /api/x"
    service.ok("restart", *service.flags("--root-path", "/api?unstripped"))
    assert service.get("/api/x") == "/api /api/x /api/x"


def test_over_a_unix_socket(site: Daemon) -> None:
    path = site.dir / "asgi.sock"
    site.start("-w", "1", "-b", f"unix:{path}", app="asgi_site:app")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /facts HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        facts = json.loads(read_all(client).partition(b"\r\n\r\n")[2])
    assert facts["client"] is None
    assert facts["extensions"]["forkd"]["peer"] == ""


def test_requests_that_have_waited_too_long_are_shed(service: Daemon) -> None:
    write(service, """
        import time

        async def app(scope, receive, send):
            if scope["path"] == "/block":
                time.sleep(1)
            await hello(scope, receive, send)
    """)
    service.start("-w", "1", "--shed-after", "0.3", "--lifespan", "off", "--no-defer-accept")
    with dial(service) as first, dial(service) as second:
        second.sendall(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
        assert second.recv(65536).endswith(b"hello")
        first.sendall(b"GET /block HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: service.live()["workers"][0]["in_flight"] == 1, "the loop is blocked")
        second.sendall(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        assert first.recv(65536).endswith(b"hello")
        answer = read_all(second)
    assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After: 1" in answer


def test_from_a_front_that_speaks_uwsgi(site: Daemon) -> None:
    site.start("-w", "1", "-b", "127.0.0.1:0?protocol=uwsgi", app="asgi_site:app")
    variables = {
        "REQUEST_METHOD": "POST", "REQUEST_URI": "/echo?a=b", "PATH_INFO": "/echo", "QUERY_STRING": "a=b",
        "CONTENT_LENGTH": "4", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "example.org",
        "REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "1", "SERVER_NAME": "example.org", "SERVER_PORT": "80",
    }  # fmt: skip
    block = b"".join(
        struct.pack("<H", len(text)) + text.encode()
        for pair in variables.items() for text in pair
    )  # fmt: skip
    with dial(site) as client:
        client.sendall(b"\0" + struct.pack("<H", len(block)) + b"\0" + block + b"body")
        assert read_all(client).endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize(
    ("flags", "version"), [("--early-hints", "1.1"), ("", "1.1"), ("--early-hints", "1.0")]
)
def test_early_hints(service: Daemon, flags: str, version: str) -> None:
    write(service, """
        async def app(scope, receive, send):
            hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>"]}
            if "http.response.early_hint" in scope["extensions"]:
                await send(hint)
                await send(hint)
            else:
                try:
                    await send(hint)
                except RuntimeError:
                    await hello(scope, receive, send)
                    return
            await hello(scope, receive, send)
    """)
    service.start("-w", "1", *flags.split(), "--lifespan", "off")
    with dial(service) as client:
        client.sendall(f"GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = read_all(client)
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\n\r\n"
    assert answer.startswith(hint * 2 if flags and version == "1.1" else b"HTTP/1.1 200")
    assert answer.endswith(b"hello")


# ---- the lifespan -----------------------------------------------------------------------------


FAILS_FIRST = """
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await hello(scope, receive, send)
"""
FAILS_AFTER_RECEIVE = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            raise RuntimeError("no database")
        await hello(scope, receive, send)
"""
SAYS_SO = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await hello(scope, receive, send)
"""
IGNORES = """
    async def app(scope, receive, send):
        await receive()
        await hello(scope, receive, send)
"""
RETURNS = """
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await hello(scope, receive, send)
"""
EXITS = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            raise SystemExit("no database")
        await hello(scope, receive, send)
"""


@pytest.mark.parametrize(
    ("source", "mode", "said"),
    [
        (FAILS_FIRST, "auto", ""), (FAILS_FIRST, "on", "assert scope"), (FAILS_FIRST, "off", ""),
        (FAILS_AFTER_RECEIVE, "auto", "RuntimeError: no database"), (FAILS_AFTER_RECEIVE, "off", ""),
        (FAILS_AFTER_RECEIVE, "on", "RuntimeError: no database"),
        (SAYS_SO, "auto", "lifespan.startup has failed: no database"),
        (SAYS_SO, "on", "lifespan.startup has failed: no database"),
        (IGNORES, "auto", ""), (IGNORES, "on", "has no place in a lifespan"),
        (RETURNS, "auto", ""), (RETURNS, "on", "returned without lifespan.startup.complete"),
        (EXITS, "auto", "SystemExit: no database"),
    ],
)  # fmt: skip
def test_whether_an_application_has_a_lifespan(service: Daemon, source: str, mode: str, said: str) -> None:
    write(service, source)
    service.expected_errors = ["did not start", "gone: boot", "Traceback"]
    done = service.run("start", *service.flags("--lifespan", mode, app="app:app"))
    assert (done.returncode == 0) is (not said), done.stderr
    assert said in done.stderr
    if not said:
        assert service.get() == "hello"


def test_a_reload_whose_lifespan_fails_keeps_the_workers(service: Daemon) -> None:
    write(service, "app = hello")
    service.start("-w", "1")
    before = service.worker_pids()
    write(service, FAILS_AFTER_RECEIVE)
    service.expected_errors = ["reload", "Traceback", "gone: boot"]
    done = service.run("reload", "--name", service.name, "--control", str(service.control))
    assert done.returncode != 0
    assert "RuntimeError: no database" in done.stderr
    assert service.worker_pids() == before
    assert service.get() == "hello"


def test_a_lifespan_that_hangs_is_shown(service: Daemon) -> None:
    write(service, """
        import time

        async def app(scope, receive, send):
            await receive()
            time.sleep(100)
    """)
    service.expected_errors = ["did not start", "gone: boot-timeout"]
    done = service.run("start", *service.flags("--boot-timeout", "1", app="app:app"))
    assert done.returncode != 0
    assert "in app" in done.stderr


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_lifespan_that_waits_for_ever_is_shown(service: Daemon, loop: str) -> None:
    """By where its tasks wait: no thread is there. In asynchronous generators, too, as FastAPI has them."""
    write(service, """
        import asyncio, contextlib

        async def connect():
            await asyncio.Event().wait()

        @contextlib.asynccontextmanager
        async def database():
            await connect()
            yield

        async def app(scope, receive, send):
            await receive()
            async with database(), asyncio.timeout(100):
                pass
    """)
    service.expected_errors = ["did not start", "gone: boot-timeout"]
    done = service.run("start", *service.flags("--boot-timeout", "2", "--loop", loop, app="app:app"))
    assert done.returncode != 0
    shown = done.stderr.partition("Task 'lifespan' waits")[2]
    assert shown.index("in connect\n") < shown.index("in database\n") < shown.index("in app\n"), done.stderr


def test_a_factory_that_waits_for_ever_is_shown(service: Daemon) -> None:
    write(service, """
        import asyncio

        async def make():
            await asyncio.Event().wait()
    """)
    service.expected_errors = ["did not start", "gone: boot-timeout"]
    done = service.run("start", *service.flags("--boot-timeout", "2", app="app:make()"))
    assert done.returncode != 0
    assert "in make\n" in done.stderr.partition(" waits (most recent call first)")[2], done.stderr


def test_a_lifespan_that_asks_on_behind_its_shutdown_has_ended(service: Daemon) -> None:
    """As under uvicorn: loops over receive() are often written without an end."""
    write(service, """
        async def app(scope, receive, send):
            while scope["type"] == "lifespan":
                message = await receive()
                await send({"type": message["type"] + ".complete"})
            await hello(scope, receive, send)
    """)
    service.start("-w", "1")
    assert service.get() == "hello"
    began = time.monotonic()
    service.signal(signal.SIGTERM)
    service.gone()
    assert time.monotonic() - began < 4
    assert "lifespan.shutdown has taken" not in service.log()


@pytest.mark.parametrize("way", ["wake", "cancel"])
def test_a_lifespan_that_fails_later_costs_its_worker(service: Daemon, way: str) -> None:
    write(service, """
        import asyncio

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                global wake
                wake = asyncio.Event()
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await wake.wait()
                raise RuntimeError("failed on purpose")
            if scope["path"] == "/wake":
                wake.set()
            if scope["path"] == "/cancel":
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
            await hello(scope, receive, send)
    """)
    service.expected_errors = ["the lifespan has failed", "shutdown has taken more than 5 s", *FAILURES]
    service.start("-w", "1")
    (before,) = service.worker_pids()
    assert service.get(f"/{way}") == "hello"
    _is_replaced(service, before)


RETURNS_AT_ONCE = """
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        await hello(scope, receive, send)
"""


def test_a_lifespan_that_returns_with_its_startup_is_left_so(service: Daemon) -> None:
    """As under uvicorn: it has no part in the shutdown, and its successors would not have one either."""
    write(service, RETURNS_AT_ONCE)
    service.start("-w", "1")
    (before,) = service.worker_pids()
    until(lambda: "will not be told of the shutdown" in service.log(), "it is in the log")
    for _ in range(20):
        assert service.get() == "hello"
    assert service.worker_pids() == [before]


def test_a_lifespan_that_fails_behind_its_startup_fails_the_start(service: Daemon) -> None:
    write(service, RETURNS_AT_ONCE.replace("return\n", 'raise RuntimeError("too late")\n'))
    service.expected_errors = ["did not start", "gone: boot", "Traceback"]
    done = service.run("start", *service.flags(app="app:app"))
    assert done.returncode != 0
    assert "failed behind its startup" in done.stderr and "RuntimeError: too late" in done.stderr


ENDS_SOON = """
    import asyncio, os

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            if os.path.exists("broken"):
                await asyncio.sleep(0.01)
                return
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await hello(scope, receive, send)
"""


def test_lifespans_that_end_again_and_again_are_backed_off_from(service: Daemon) -> None:
    write(service, ENDS_SOON)
    broken = service.dir / "broken"
    broken.touch()
    service.expected_errors = ["the lifespan has returned; the worker is replaced", "crash loop"]
    service.start("-w", "1")
    until(lambda: "crash loop" in service.log(), "the breaker opens", 30)
    assert service.get() == "hello"
    assert "the application's lifespan has ended; the error log says how" in service.log()
    broken.unlink()
    until(lambda: "children are stable again" in service.log(), "one stays", 60)
    assert service.get() == "hello"


@pytest.mark.parametrize("flags", ["", "--no-lifespan-context"])
def test_context_variables_of_the_lifespan(service: Daemon, flags: str) -> None:
    write(service, """
        import contextvars
        made = contextvars.ContextVar("made", default="nothing")

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                made.set("something")
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": made.get().encode()})
    """)
    service.start("-w", "1", *flags.split())
    assert service.get() == ("nothing" if flags else "something")


# ---- the end ----------------------------------------------------------------------------------


@pytest.fixture
def site(service: Daemon) -> Daemon:
    take(service, "asgi_site")
    service.expected_errors = list(FAILURES)
    return service


def lines(service: Daemon, *words: str) -> list[str]:
    """Those of these words that are in the log, in order."""
    at = sorted((service.log().find(word), word) for word in words)
    return [word for place, word in at if place >= 0]


def test_the_order_at_the_end(site: Daemon) -> None:
    site.start("-w", "1", app="asgi_site:app")
    with dial(site) as client:
        client.sendall(b"GET /background/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        while b"answered" not in client.recv(1000):
            pass
        site.signal(signal.SIGTERM)
        site.gone()
    words = "stopping", "the background is done", "the lifespan is over"
    assert lines(site, *words) == list(words)


def test_what_does_not_return_is_named_and_the_lifespan_ends_all_the_same(site: Daemon) -> None:
    site.start("-w", "1", "--graceful-timeout", "1", app="asgi_site:app")
    with dial(site) as client:
        client.sendall(b"GET /background/60 HTTP/1.1\r\nHost: a\r\n\r\n")
        while b"answered" not in client.recv(1000):
            pass
        site.signal(signal.SIGTERM)
        site.gone()
    assert "the application has not returned from GET /background/60 HTTP/1.1; cancelled" in site.log()
    assert "the lifespan is over" in site.log()
    assert "gone: stop" in site.log() and "killed" not in site.log()


def test_event_streams_at_rest_end_and_others_are_whole(site: Daemon) -> None:
    """Over a reload: a stream that reconnects is ended, so that its client comes to the new worker. A stream
    by POST would look whole, and goes on."""
    site.start("-w", "1", app="asgi_site:app")
    with begin(site, "/events") as events, begin(site, "/slow/4") as slow:
        site.ok("reload", "--name", site.name, "--control", str(site.control))
        began = time.monotonic()
        assert read_all(events).endswith(b"0\r\n\r\n")
        assert read_all(slow).endswith(b"3\r\nend\r\n0\r\n\r\n")
        assert time.monotonic() - began < 20  # long before --graceful-timeout
    until(lambda: "events: http.disconnect" in site.log(), "the application was told")
    until(lambda: "the lifespan is over" in site.log(), "its lifespan ends")


@pytest.mark.parametrize(
    ("streams", "method", "accept", "ends"),
    [
        ("", "GET", "text/html, text/event-stream;q=0.9", True),
        ("", "GET", "*/*", False),
        ("!text/event-stream", "GET", "text/event-stream", False),
        ("text/html, !/events", "GET", "text/event-stream", False),
        ("!/event", "GET", "text/event-stream", True),
        ("Text/Event-Stream", "GET", "*/*", True),
        ("text/plain", "POST", "*/*", False),
        ("/events", "POST", "*/*", True),
        ("/events/, !text/plain", "POST", "*/*", False),
    ],
)
def test_which_streams_end_early(
    site: Daemon, streams: str, method: str, accept: str, ends: bool
) -> None:
    flags = ["--drain-streams", streams] if streams else []
    site.start("-w", "1", "--graceful-timeout", "4", *flags, app="asgi_site:app")
    with begin(site, "/events", method, accept) as events:
        site.signal(signal.SIGTERM)
        assert read_all(events).endswith(b"0\r\n\r\n") is ends
        site.gone()


def test_streams_that_do_not_end_are_cut_where_the_client_sees_it(site: Daemon) -> None:
    site.start("-w", "1", "--graceful-timeout", "2", app="asgi_site:app")
    with begin(site, "/events", "POST") as events, dial(site) as waits:
        waits.sendall(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: site.live()["workers"][0]["in_flight"] == 2, "both are under way")
        site.signal(signal.SIGTERM)
        assert not read_all(events).endswith(b"0\r\n\r\n")
        assert read_all(waits).startswith(b"HTTP/1.1 503")
        site.gone()
    assert "nearly over; answers cut: " in site.log()
    assert "the lifespan is over" in site.log()


def test_max_requests_ends_a_lifespan_too(site: Daemon) -> None:
    site.start("-w", "1", "--max-requests", "1", app="asgi_site:app")
    assert site.get("/hello") == "hello"
    until(lambda: "the lifespan is over" in site.log(), "its lifespan ends")


def _is_replaced(service: Daemon, pid: int) -> None:
    until(lambda: not alive(pid) and service.workers(), "another worker serves")
    assert service.get() == "hello"


def test_a_loop_that_does_not_come_round_is_killed(service: Daemon) -> None:
    write(service, """
        import asyncio, time

        async def block():
            time.sleep(100)

        async def app(scope, receive, send):
            if scope["path"] == "/task":
                await asyncio.create_task(block())
            elif scope["path"] == "/later":
                asyncio.get_running_loop().call_soon(time.sleep, 100)
            elif scope["path"] == "/wait":
                await asyncio.sleep(3)
            elif scope["path"] == "/block":
                await block()
            await hello(scope, receive, send)
    """)
    service.expected_errors = ["gone: timeout"]
    service.start("-w", "1", "--timeout", "1", "--lifespan", "off")
    assert service.get("/wait") == "hello"  # which holds nothing
    for path in ("/task", "/later", "/block"):
        (before,) = service.worker_pids()
        with contextlib.closing(service.client()) as client, contextlib.suppress(OSError):
            client.request("GET", path)
            client.getresponse()
        _is_replaced(service, before)
    assert service.log().count("its event loop has not come round for") == 2
    assert '"GET /block HTTP/1.1" has held it for' in service.log()
