"""The same programs under uvicorn and under forkd: libraries that lean on tasks, contexts and threads.

Each is a file in programs/. Its steps are taken one after the other, over one connection; what is answered
has to be the same, and as it should be. What differs is listed in DIFFERS, with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.process.conftest import Daemon, until

from .conftest import FAILURES, HERE

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed"
)


class Server(NamedTuple):
    address: tuple[str, int]

    def url(self, scheme: str, path: str = "") -> str:
        host, port = self.address
        return f"{scheme}://{host}:{port}{path}"

    def get(self, path: str) -> str:
        return answer_of(http.client.HTTPConnection(*self.address, timeout=20), "GET", path)[1]


Step = Callable[[Server], Any]


def answer_of(
    client: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, str]:
    client.request(method, path, body)
    answer = client.getresponse()
    return answer.status, answer.read().decode()


# ---- steps that are more than a request ----------------------------------------------------------


def websocket(path: str, *messages: str, subprotocol: str | None = None, answers: int = 0) -> Step:
    """Sends the messages one by one, each after the answer to the one before; `answers`: to the last one."""

    def step(server: Server) -> list[Any]:
        connect = pytest.importorskip("websockets.sync.client").connect
        subprotocols = [subprotocol] if subprotocol else None
        with connect(
            server.url("ws", path), subprotocols=subprotocols, compression=None, close_timeout=0.1
        ) as client:
            found = [client.subprotocol]
            for message in messages:
                client.send(message)
                found.append(client.recv(10))
            found += [client.recv(10) for _ in range(answers)]
        return found

    step.__name__ = f"websocket {path}"
    return step


def in_pieces(path: str, data: bytes, size: int, pause: float) -> Step:
    """A POST whose body comes slowly."""

    def step(server: Server) -> str:
        def pieces() -> Iterator[bytes]:
            for start in range(0, len(data), size):
                yield data[start : start + size]
                time.sleep(pause)  # that it is slow is what this is about

        client = http.client.HTTPConnection(*server.address, timeout=20)
        with contextlib.closing(client):
            status, text = answer_of(client, "POST", path, pieces())
        assert status == 200
        return text

    step.__name__ = f"in_pieces {path}"
    return step


def graphql(text: str) -> Step:
    def step(server: Server) -> str:
        client = http.client.HTTPConnection(*server.address, timeout=20)
        with contextlib.closing(client):
            body = json.dumps({"query": text})
            client.request("POST", "/graphql/", body, {"Content-Type": "application/json"})
            return client.getresponse().read().decode()

    step.__name__ = f"graphql {text}"
    return step


def shows(path: str, want: Callable[[str], bool]) -> Step:
    """What the application shows of itself, once it is this."""

    def step(server: Server) -> str:
        return until(lambda: want(text := server.get(path)) and text, f"{path} is as it should be")

    step.__name__ = f"shows {path}"
    return step


def leave(path: str, then: str, want: Callable[[str], bool]) -> Step:
    """Reads the beginning of an answer and leaves; `then` shows what the application has seen of that."""

    def step(server: Server) -> str:
        with socket.create_connection(server.address, 20) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        return shows(then, want)(server)

    step.__name__ = f"leave {path}"
    return step


def late_reader(path: str) -> Step:
    """Begins to read when the application has had time to fill every buffer."""

    def step(server: Server) -> str:
        client = http.client.HTTPConnection(*server.address, timeout=20)
        with contextlib.closing(client), socket.socket() as client.sock:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.sock.settimeout(20)
            client.sock.connect(server.address)
            client.request("GET", path)
            time.sleep(0.3)  # that it is late is what this is about
            return client.getresponse().read().decode()

    step.__name__ = f"late_reader {path}"
    return step


def numbered(path: str, count: int) -> Step:
    """So many messages over a WebSocket, and so many numbers in a body, a few at a time."""

    def step(server: Server) -> tuple[str, str]:
        connect = pytest.importorskip("websockets.sync.client").connect
        with connect(server.url("ws", path), compression=None) as client:
            for number in range(count):
                client.send(f"{number}")
            client.send("end")
            messages = client.recv(300)
        body = b"".join(b"%d," % number for number in range(count))
        found = in_pieces(path, body, 1 + len(body) // 200, 0.0005)(server)
        assert (messages, found) == (f"{count} in order", f"{count} True")
        return messages, found

    step.__name__ = f"numbered {path}"
    return step


def pipelined(*paths: str) -> Step:
    """Requests that come in one packet."""

    def step(server: Server) -> list[str]:
        with socket.create_connection(server.address, 20) as client, client.makefile("rb") as answers:
            client.sendall("".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths).encode())
            found = []
            for _ in paths:
                assert answers.readline().startswith(b"HTTP/1.1 200 ")
                length = int(http.client.parse_headers(answers)["content-length"])
                found.append(answers.read(length).decode())
        return found

    step.__name__ = f"pipelined {' '.join(paths)}"
    return step


def socketio_client(*transports: str) -> Step:
    """Without any it begins by polling, and goes on by a WebSocket."""

    def step(server: Server) -> list[Any]:
        return asyncio.run(_socketio(server.url("http"), list(transports)))

    step.__name__ = f"socketio {transports}"
    return step


async def _socketio(url: str, transports: list[str]) -> list[Any]:
    import socketio

    client, found, done = socketio.AsyncClient(), [], asyncio.Event()

    @client.on("*")  # type: ignore[untyped-decorator]
    async def any_event(event: str, data: Any) -> None:
        found.append((event, data))
        if data == 9:
            done.set()

    await client.connect(url, auth={"name": f"{transports}"}, transports=transports or None, wait_timeout=10)
    found.append(await client.call("say", "é" * 1000, timeout=10))
    await client.emit("everyone", {"a": [1, 2]})
    await client.emit("later", 10)
    await asyncio.wait_for(done.wait(), 10)
    await client.disconnect()
    return found


# ---- the programs ----------------------------------------------------------------------------------


def subscription(number: int) -> tuple[str, str]:
    wanted = f"subscription {{ count(target: {number}) }}"
    subscribe = {"id": "1", "type": "subscribe", "payload": {"query": wanted}}
    return '{"type": "connection_init"}', json.dumps(subscribe)


class Program(NamedTuple):
    needs: str  # modules
    steps: tuple[str | Step, ...]
    python: tuple[int, int] = (3, 11)


ALL_BYTES = bytes(range(256)) * 1000
WAYS = ("wait_for", "timeout", "move_on", "task", "first", "group", "unawaited")
TASKS = (
    "/facts", "/time-outs", "/groups", "/cancels", "/awaited", "/callbacks", "/wrong",
    "/generators", "/streams", "/state/one", "/state/two", "/state/waits", "/state/waits-too", "/finalizers",
    "/contexts/one", "/contexts/two",
)  # fmt: skip
PROGRAMS = {
    "sqlalchemy": Program("sqlalchemy aiosqlite greenlet", (
        "/add/one", "/add/two", "500 /roll-back", "/count", "/lazy", "/side-by-side", "/rows", "/given-up",
        "/count",
    )),
    "asgiref": Program("asgiref starlette", (
        "/down-and-up", "/sensitive", "/locals/one", "/locals/two", "/cancelled", "500 /fails",
        in_pieces("/wsgi/path", bytes(300_000), 60_000, 0),
    )),
    "anyio": Program("anyio sniffio", (
        in_pieces("/body", ALL_BYTES, 5000, 0.001), "/nested", "/stream", "/groups",
        late_reader("/slow-reader"), leave("/leaves", "/left", lambda text: "finally" in text),
    )),
    "tasks": Program("starlette", TASKS),
    "factory": Program("starlette", (
        "/task", "/choose/named", "/task", "/own", *(f"/tasks{path}" for path in TASKS[:8]),
        "/choose/none", "/task", "/own",
    )),
    "eager": Program("starlette", (
        "/task", "/choose/eager", "/task", *(f"/tasks{path}" for path in TASKS[:8]), "/choose/none",
        "/task",
    ), (3, 12)),
    "numbered": Program("anyio", tuple(numbered(f"/{way}", 400) for way in WAYS)),
    "nested": Program("nest_asyncio starlette", ("/plain", "/nested", "/fails", "/nested", "/plain")),
    "clients": Program("aiohttp httpx starlette", ("/httpx", "/aiohttp", "/websocket", "/httpx", "/aiohttp")),
    "structlog": Program("structlog starlette", (
        "/bind/one", "/bind/two", "/lines", pipelined("/bind/three", "/bind/four", "/lines"),
    )),
    "opentelemetry": Program("opentelemetry.instrumentation.asgi opentelemetry.sdk starlette", (
        "/work", "/spans", "/work", "/stream", "500 /fails", "/spans", websocket("/echo", "text"), "/spans",
    )),
    "sentry": Program("sentry_sdk starlette", (
        "/tag/one", "/tag/two?a=b", "/events", "500 /fails", "/events",
    )),
    "sse": Program("sse_starlette", (
        "/short", "/pings", leave("/forever", "/seen", lambda text: "finally" in text),
    )),
    "socketio": Program("socketio aiohttp", (
        socketio_client(), socketio_client("websocket"),
        shows("/", lambda text: text.count("disconnect ") == 2),
    )),
    "graphql": Program("strawberry", (
        graphql('{ hello(name: "é") }'), graphql("{ fails }"),
        websocket("/graphql/", *subscription(5), subprotocol="graphql-transport-ws", answers=5),
        websocket("/graphql/", *subscription(10**6), subprotocol="graphql-transport-ws", answers=3),
        shows("/closed", lambda text: "1000000" in text),
    )),
    "transactions": Program("channels django", (
        "/add/one", "500 /add-and-fail", "/nested", "/side-by-side", "/add/two",
        websocket("/consumer", "kept", "fails", "kept"), "/rows",
    )),
}  # fmt: skip

#: By program and step: what differs, and why that is so.
DIFFERS = {
    ("anyio", "late_reader /slow-reader"): "what is given to send() is sent, also when the wait for room is "
    "cancelled; uvicorn waits first, and drops what was not sent",
}


# ---- the run -----------------------------------------------------------------------------------------


def walk(server: Server, program: Program) -> list[tuple[str, Any]]:
    """Each step with what came of it."""
    found = []
    client = http.client.HTTPConnection(*server.address, timeout=20)
    with contextlib.closing(client):
        for step in program.steps:
            if isinstance(step, str):
                status, _, path = step.rpartition(" ")
                code, text = answer_of(client, "GET", path)
                assert code == int(status or 200), f"{step}: {code} {text}"
                if status:
                    client.close()  # uvicorn does so, and does not say it
                found.append((step, "" if status else text))
            else:
                found.append((step.__name__, step(server)))
    return found


@contextlib.contextmanager
def uvicorn(directory: Path, app: str, loop: str = "asyncio") -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener, open(directory / "uvicorn.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", app, "--fd", str(listener.fileno()), "--loop", loop],
            cwd=directory, pass_fds=[listener.fileno()], stderr=log, stdout=log,
        )  # fmt: skip
        try:
            until(lambda: "Uvicorn running" in (directory / "uvicorn.log").read_text(), "uvicorn runs", 60)
            yield Server(listener.getsockname())
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "flags",
    [
        "--loop asyncio",
        *(
            pytest.param(flags, marks=pytest.mark.soak)
            for flags in ("--loop asyncio --no-native", "--loop uvloop", "--loop uvloop --no-native")
        ),
    ],
)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program(service: Daemon, name: str, flags: str) -> None:
    program = PROGRAMS[name]
    if sys.version_info < program.python:
        pytest.skip(f"needs Python {program.python}")
    for module in program.needs.split():
        pytest.importorskip(module)
    for each in {"factory": ["factory", "tasks"], "eager": ["factory", "tasks"]}.get(name, [name]):
        shutil.copy(HERE / "programs" / f"{each}_site.py", service.dir)
    app = f"{'factory' if name == 'eager' else name}_site:app"
    service.expected_errors = [*FAILURES, "the application failed on GET /(fails|roll-back)"]
    loop = "uvloop" if "uvloop" in flags else "asyncio"
    if loop == "uvloop":
        pytest.importorskip("uvloop")
        if name == "nested":
            pytest.skip("nest_asyncio patches loops of asyncio's own only")
    with uvicorn(service.dir, app, loop) as server:
        theirs = walk(server, program)
    service.start("-w", "1", *flags.split(), app=app)
    ours = walk(Server(service.address), program)
    for mine, other in zip(ours, theirs, strict=True):
        if (name, mine[0]) in DIFFERS:
            assert mine != other, f"{mine[0]}: no difference any more"
        else:
            assert mine == other


@pytest.mark.soak
@pytest.mark.parametrize("flags", ["", "--no-native"])
def test_a_hundred_thousand_numbered_messages(service: Daemon, flags: str) -> None:
    shutil.copy(HERE / "programs" / "numbered_site.py", service.dir)
    service.start("-w", "1", *flags.split(), app="numbered_site:app")
    for way in WAYS:
        numbered(f"/{way}", 15_000)(Server(service.address))
