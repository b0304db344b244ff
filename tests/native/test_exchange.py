"""A session over native code against one without: whatever an application does, the client, the recorder, the
access log and the error log see the same.

Applications are put together at random, by a seed that a failure prints.
"""

from __future__ import annotations

import gc
import os
import random
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from forkd.app.wsgi.exchange import Wsgi
from forkd.app.wsgi.file_wrapper import FileWrapper
from forkd.config import Config
from forkd.native import native
from forkd.session.ends import Ends
from forkd.session.http1 import Http1
from forkd.session.seam import Await, ClientGone, Exchange, SendFile
from forkd.system.cells import CODES, DURATION_BLOCKS, DURATION_CELLS, IN_FLIGHT, REQUEST, REQUESTS
from forkd.system.scoreboard import scratch_row
from tests.access import MemoryAccess

config_of = cache(Config)  # to read the defaults takes as long as a round

pytestmark = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "20000")) // 10
SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)

HEADS = [
    b"GET /a?b HTTP/1.1\r\nHost: a\r\nReferer: http://r/\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUser-Agent: \xe9\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90000,
    b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200000,
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n",
]
TIMES = re.compile(rb"\[[^]]+\]|[0-9.]+$")
STATUSES = [
    "200 OK",
    "200 OK",
    "404 Not Found",
    "204 No Content",
    "304 Not Modified",
    "999",
    "2 0",
    7,
]
HINTS: list[Any] = [
    [("Link", "</a.css>; rel=preload")], [("Link", "<a>"), ("X", "y")], [], [("X", "a\nb")], [("TE", "x")],
    [("Content-Length", "5")], None,
]  # fmt: skip
HEADERS: list[Any] = [
    [], [("Content-Type", "text/plain")], [("Content-Length", "5")], [("Content-Length", "50")],
    [("Connection", "close")], [("Date", "x"), ("Server", "y")], [("X", "a\nb")], [("X", "é")],
    [("TE", "x")], (("X", "y"),), None,
]  # fmt: skip


class Failure(Exception):
    pass


class Closing:
    """An iterable with a close()."""

    def __init__(self, blocks: list[bytes], events: list[str]) -> None:
        self.blocks, self.events = blocks, events

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.blocks)

    def close(self) -> None:
        self.events.append("closed")


class Host:
    draining = False


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, message: str) -> None:
        self.lines.append(message)

    debug = info = warning = error

    def exception(self, message: str) -> None:
        kind, value, trace = sys.exc_info()
        assert trace is not None
        while trace.tb_next is not None:
            trace = trace.tb_next
        self.lines.append(f"{message}: {kind} {value} in {trace.tb_frame.f_code.co_name}")


class Access(MemoryAccess):
    """Told, and read, without times."""

    def __init__(self, native: bool) -> None:
        super().__init__(native=native)

    def told(self) -> list[bytes]:
        return [TIMES.sub(b"", line) for line in self.take().splitlines()]


class Peer:
    client, client_port, server, server_port, sock = "10.0.0.1", 40000, "127.0.0.1", 80, None
    proxy = None
    fd = -1
    ended = False

    def __init__(self, out: list[Any], gone: bool) -> None:
        self._out, self._gone = out, gone
        self.exchange = Exchange()
        self._buffer: memoryview | None = None

    def push(self, data: bytes) -> None:
        if self._gone:
            raise ClientGone("gone")
        self._out.append(data)

    def fill(self, buffer: memoryview | None) -> int:
        self._buffer = buffer
        return 0

    def receive(self, data: bytes) -> tuple[bytes | memoryview, bytes]:
        """What a driver resumes the session with, and what it leaves in the socket."""
        if self._buffer is None:
            return data[:65536], data[65536:]
        size = min(len(data), len(self._buffer))
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        piece[:] = data[:size]
        return piece, data[size:]


def behaviour(rng: random.Random) -> Callable[[list[str]], Any]:
    """An application, made anew for each side: what it does is drawn once."""
    body = [b"hello", b"", b"x" * 70000, "text", bytearray(b"hello"), None][
        rng.choice((0, 0, 0, 0, 1, 2, 3, 4, 5))
    ]
    kind = rng.choice(
        ["list"] * 6 + ["pair", "none", "tuple", "generator", "closing", "file", "subclass"]
    )
    starts = [
        (rng.choice(STATUSES[: rng.choice((3, 8))]), rng.choice(HEADERS[: rng.choice((3, 3, 11))]),
         rng.choice(["plain"] * 5 + ["keyword", "exc_info", "short"]))
        for _ in range(rng.choice((1, 1, 1, 1, 1, 0, 2)))
    ]  # fmt: skip
    swallows, writes = rng.random() < 0.3, rng.choice((None,) * 6 + (b"w", b"", "w"))
    fails = rng.choice(["no"] * 8 + ["before", "after", "exit"])
    early, late_hints = rng.choice([[], [], rng.choices(HINTS, k=2)]), rng.choice((False, False, True))

    def make(events: list[str]) -> Any:
        def hint(environ: dict[str, Any]) -> None:
            for fields in early if "wsgi.early_hints" in environ else ():
                try:
                    environ["wsgi.early_hints"](fields)
                except Exception as error:
                    events.append(f"{type(error).__name__}: {error}")
                    if not swallows:
                        raise

        def start(start_response: Any) -> Any:
            write = None
            for status, headers, way in starts:
                try:
                    if way == "keyword":
                        write = start_response(status, headers, exc_info=None)
                    elif way == "exc_info":
                        try:
                            raise Failure("first")
                        except Failure:
                            write = start_response(status, headers, sys.exc_info())
                    elif way == "short":
                        write = start_response(status)
                    else:
                        write = start_response(status, headers)
                except Exception as error:
                    events.append(f"{type(error).__name__}: {error}")
                    if not swallows:
                        raise
            return write

        def app(environ: dict[str, Any], start_response: Any) -> Any:
            events.append(repr(sorted((k, str(v)) for k, v in environ.items() if "wsgi." not in k)))
            got = environ["wsgi.input"].read()
            events.append(f"{len(got)} {hash(got)}")
            if fails == "before":
                raise Failure("before")
            hint(environ)
            if kind == "generator":
                return late(start_response)
            write = start(start_response)
            if late_hints:
                hint(environ)
            if writes is not None and write is not None:
                write(writes)
            if fails == "after":
                raise Failure("after")
            if fails == "exit":
                raise SystemExit(3)
            if kind == "list":
                return [body]
            if kind == "pair":
                return [body, b"more"]
            if kind == "none":
                return []
            if kind == "tuple":
                return (body,)
            if kind == "closing":
                return Closing([body], events)  # type: ignore[list-item]
            if kind == "file":
                return FileWrapper(Closing([], events))
            return type("Blocks", (list,), {})([body])

        def late(start_response: Any) -> Iterator[Any]:
            write = start(start_response)
            yield b""
            if writes is not None and write is not None:
                write(writes)
            yield body
            if fails != "no":
                raise Failure("late")

        return app

    return make


class Wild:
    """Nothing that reads it back survives."""

    def __str__(self) -> str:
        raise Failure("str")

    __repr__ = __hash__ = __len__ = __bool__ = __eq__ = __str__  # type: ignore[assignment]


KEYS = ["HTTP_USER_AGENT", "HTTP_REFERER", "REQUEST_METHOD", "REMOTE_ADDR", "SERVER_PROTOCOL",
        "PATH_INFO", "RAW_URI", "CONTENT_LENGTH", "wsgi.input", "wsgi.errors", "wsgi.file_wrapper",
        "HTTP_CONNECTION", "HTTP_HOST"]  # fmt: skip
VALUES: list[Any] = [
    5,
    None,
    Wild(),
    "\ud800",
    "a\nb\x1b\0",
    b"bytes",
    "x" * 9000,
    1.5,
    [],
    Failure,
    "é",
]


def answering(seed: float, spoils: bool) -> Callable[[list[str]], Any]:
    """An application that answers well, and if it `spoils`, does to what it was given what comes to mind."""

    def make(events: list[str]) -> Any:
        def app(environ: dict[Any, Any], start_response: Any) -> Any:
            dice = random.Random(seed)
            body, headers = environ["wsgi.input"], [("Content-Type", "text/plain")]
            start_response("200 OK", headers)
            answer = dice.choice([[b"ok"], [b"ok"], [b"o", b"k"]])
            for _ in range(dice.choice((1, 2, 5)) if spoils else 0):
                key, value, deed = dice.choice(KEYS), dice.choice(VALUES), dice.randrange(12)
                if deed < 6:
                    environ[key] = value
                elif deed < 8:
                    environ.pop(key, None)
                elif deed == 8:
                    environ.clear()
                    environ[dice.choice([1, b"HTTP_REFERER", None])] = value
                elif deed == 9:
                    headers[:] = [value] * 3
                elif deed == 10:
                    body.close = dice.choice([5, lambda: 1 // 0, sys.exit])
                else:
                    environ["kept"] = body.getbuffer() if hasattr(body, "getbuffer") else body
            return answer

        return app

    return make


def test_what_is_done_to_the_environ_changes_neither_answer_nor_log() -> None:
    print(f"FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    for _ in range(ROUNDS):
        seed, heads = rng.random(), [rng.choice(HEADS) for _ in range(3)]
        wanted = run(answering(seed, False), list(heads), 0, False, 0, False)
        for fast in (True, False):
            found = run(answering(seed, True), list(heads), 0, False, 0, fast)
            found[3] = [line for line in found[3] if not line.startswith("request body: close: ")]
            assert found == wanted


@pytest.mark.parametrize("native", [True, False])
def test_the_log_shows_what_was_received(native: bool) -> None:
    def app(environ: dict[Any, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        environ["HTTP_USER_AGENT"] = environ["HTTP_REFERER"] = 5
        environ["REQUEST_METHOD"] = Wild()
        return [b"ok"]

    heads = [
        b"GET /a HTTP/1.1\r\nHost: a\r\nReferer: /r\r\nUser-Agent: u\r\n\r\n",
        b"GET /b HTTP/1.1\r\nHost: a\r\nReferer:\r\n\r\n",
        b"GET /c HTTP/1.0\r\nReferer: /r\r\nReferer: /s\r\n\r\n",
    ]
    assert run(lambda events: app, heads, 0, False, 0, native)[4] == [
        b'10.0.0.1 - -  "GET /a HTTP/1.1" 200 2 "/r" "u" ',
        b'10.0.0.1 - -  "GET /b HTTP/1.1" 200 2 "" "-" ',
        b'10.0.0.1 - -  "GET /c HTTP/1.0" 200 2 "/r,/s" "-" ',
    ]


@pytest.mark.parametrize("native", [True, False])
def test_a_block_that_lies_of_its_length_is_sent_as_it_is(native: bool) -> None:
    class Lying(bytes):
        def __len__(self) -> int:
            return 1

    def app(environ: dict[Any, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [Lying(b"whole")]

    assert b"Content-Length: 5\r\n" in run(lambda events: app, [HEADS[0]], 0, False, 0, native)[0]


def retiring(app: Any, after: int, retire: Callable[[], None]) -> Any:
    """The application, in a process that is told to end during the request of that number."""

    def counted(environ: Any, start_response: Any) -> Any:
        nonlocal after
        after -= 1
        if after == 0:
            retire()
        return app(environ, start_response)

    return counted


def run(
    make: Callable[[list[str]], Any],
    heads: list[bytes],
    leaves: int,
    gone: bool,
    drains: int,
    native: bool,
) -> list[Any]:
    """All that came of it. `leaves`: after so many answers the client has gone; `drains`: after so many
    requests the process is told to end."""
    out: list[Any] = []
    events: list[str] = []
    row, host = scratch_row(), Host()
    host.recorder, host.access, host.log = row.recorder(native), Access(native), Log()  # type: ignore[attr-defined]

    def retire() -> None:
        host.draining = True
        wsgi.retire()

    config = config_of(native=native, early_hints=True)
    peer = Peer(out, gone)
    app: Any = retiring(make(events), drains, retire)
    wsgi = Http1(Wsgi(app, config, host, multithread=False), config, host)  # type: ignore[arg-type]
    session = wsgi.session(peer)  # type: ignore[arg-type]
    try:
        op = next(session)
        while True:
            if isinstance(op, Await):
                if not heads:
                    out.append(op.name)
                    peer.ended = True
                    session.close()
                    break
                data, left = peer.receive(heads.pop(0))
                if left:
                    heads.insert(0, left)
                op = session.send(data)
                continue
            if isinstance(op, tuple):
                out.append(b"".join(op))
            elif isinstance(op, SendFile):
                out.append(op.head)
            elif isinstance(op, bytes):
                out.append(op)
            if isinstance(op, (tuple, SendFile, bytes)):
                leaves -= 1
                if not leaves:
                    peer.ended = True
                    session.close()
                    break
            op = session.send(None)
    except StopIteration as stop:
        out.append(f"returned {stop.value}")
    except Exception as error:
        out.append(f"raised {error!r}")
    sent = b"".join(piece for piece in out if isinstance(piece, bytes))
    said = [piece for piece in out if not isinstance(piece, bytes)]
    cells = row.cells
    assert cells[REQUEST] == cells[IN_FLIGHT] == 0
    measured = [sum(cells[block + 1 : block + DURATION_CELLS]) for block in DURATION_BLOCKS]
    assert sum(measured) <= cells[REQUESTS]
    codes = {code: cells[CODES + code] for code in range(600) if cells[CODES + code]}
    log, access = host.log.lines, host.access.told()  # type: ignore[attr-defined]
    return [
        re.sub(rb"Date: [^\r]*GMT", b"", sent),
        said,
        events,
        log,
        access,
        cells[REQUESTS],
        codes,
    ]


def test_whatever_an_application_does_comes_out_alike() -> None:
    print(f"FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    for _ in range(ROUNDS):
        make = behaviour(rng)
        heads = [rng.choice(HEADS) for _ in range(rng.choice((1, 1, 2, 3)))]
        if rng.random() < 0.2:
            heads = [b"".join(heads)]
        leaves, gone, drains = (
            rng.choice((0, 0, 1, 2)),
            rng.random() < 0.1,
            rng.choice((0, 0, 1, 2)),
        )
        first = run(make, list(heads), leaves, gone, drains, True)
        second = run(make, list(heads), leaves, gone, drains, False)
        assert first == second


def test_what_an_application_keeps_is_freed_with_it() -> None:
    """start_response in the environ is a cycle: only the collector finds it."""
    kept: list[Any] = []

    class Mark:
        pass

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        mark = Mark()
        kept.append(weakref.ref(mark))
        environ |= {"start_response": start_response, "mark": mark}
        start_response("200 OK", [])
        return [b""]

    assert run(lambda events: app, [HEADS[0]] * 5, 0, False, 0, True)[5] == 5
    gc.collect()
    assert [ref() for ref in kept] == [None] * 5


def test_start_response_after_its_request_does_no_harm() -> None:
    kept: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        kept.append((start_response, start_response("200 OK", [])))
        return [b""]

    assert run(lambda events: app, [HEADS[0]], 0, False, 0, True)[5] == 1
    start_response, write = kept[0]
    with pytest.raises(RuntimeError, match="after its request"):
        write(b"into the next answer")
    with pytest.raises(RuntimeError, match="twice"):
        start_response("200 OK", [])
    del start_response, write, kept[:]
    gc.collect()


def test_wrong_arguments_are_errors() -> None:
    assert native is not None
    with pytest.raises(TypeError):
        native.WsgiShortcut(app=1)
    limits = native.HeadLimits(head=8000, fields=10, body=0, template={}, fronts=None, hosts=None, ids=False)
    wanted = {
        "app": print, "respond": print, "recorder": None, "access": None, "lines": None, "date_at": print,
        "keep_alive": True, "server": b"", "most": 1, "limits": limits, "early_hints": False,
        "server_timing": False,
    }  # fmt: skip
    with pytest.raises(TypeError, match="has a name"):
        native.WsgiShortcut(*wanted.values())
    exchange = native.WsgiShortcut(**wanted)
    ends = Ends(server="", port="", client="", client_port="")
    with pytest.raises(TypeError):
        exchange.run(1, 2, None)
    with pytest.raises(TypeError):
        exchange.run()
    with pytest.raises(TypeError):
        native.UsualRequest()
    with pytest.raises(TypeError):
        exchange.end(native.read_head(HEADS[0], limits, ends))
    request = native.read_head(HEADS[0], limits, ends)
    with pytest.raises(RuntimeError, match="twice"):
        request.outcome()


def test_a_request_with_early_hints_leaves_no_garbage() -> None:
    """The callable in environ has the request, which must not have the environ any more."""
    kept: list[weakref.ref[Any]] = []

    class Kept:
        pass

    def app(environ: dict[Any, Any], start_response: Any) -> Any:
        environ["wsgi.early_hints"]([("Link", "<a>")])
        environ["kept"] = Kept()
        kept.append(weakref.ref(environ["kept"]))
        start_response("200 OK", [])
        return [b"ok"] if len(kept) % 2 else iter([b"ok"])

    gc.disable()
    try:
        for native in (True, False):
            answers = run(lambda events: app, [HEADS[0], HEADS[0], HEADS[0]], 0, False, 0, native)[0]
            assert answers.count(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\n") == 3
        assert [ref() for ref in kept] == [None] * 6
    finally:
        gc.enable()
