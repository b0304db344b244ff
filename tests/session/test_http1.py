"""HTTP/1 over an interface of this file's own: what a connection goes through does not depend on WSGI."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import pytest

from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Refusal
from forkd.session.framing import Answer, Framing
from forkd.session.http1 import Http1, Native, Steps
from forkd.session.seam import LINGER, Await, Deadline, Exchange
from forkd.session.shed import Shedding
from forkd.system.cells import CODES, REFUSED, REQUESTS, SHED
from forkd.system.scoreboard import scratch_row
from tests.access import MemoryAccess

SESSION = Path(__file__).parents[2] / "forkd/session"
GET = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
#: In place of bytes: what the test does while the session waits.
LATE = object()


@pytest.mark.parametrize("file", [*SESSION.glob("*.py")], ids=lambda file: file.name)
def test_a_session_names_nothing_of_one_interface(file: Path) -> None:
    found = re.search(r"environ|scope|start_response|(?<!u)wsgi|asgi", file.read_text(), re.IGNORECASE)
    assert found is None, found


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)

    debug = info = warning = error = exception = note


class Host:
    draining = False

    def __init__(self) -> None:
        self.row = scratch_row()
        self.recorder = self.row.recorder(False)
        self.access = MemoryAccess(native=False)
        self.log = Log()


class Peer:
    client, client_port, server, server_port, sock, fd = "10.0.0.1", 40000, "127.0.0.1", 80, None, -1
    proxy = None
    ended, note = False, None
    age = 0.0

    def __init__(self) -> None:
        self.exchange = Exchange()

    def fill(self, buffer: memoryview | None) -> int:
        return 0

    def waited(self) -> float:
        return self.age


class Begun:
    """A request that native code has begun while the session rested."""

    end, method, line, keep_alive, version = 0, "GET", b"GET /begun HTTP/1.1", True, "1.1"
    length, chunked, expect_continue, referer, agent = None, False, False, None, None
    ticket, close = 7, False

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer


class Echo:
    """Answers with the method, the target and the body of the request."""

    stream = None

    def __init__(self, config: Config, host: Any) -> None:
        self.framing = Framing(config, host)
        self.shortcut: Any = None
        self.uwsgi = Native(None, None)
        self.peers: list[Any] = []
        self.bodies: list[IO[bytes]] = []

    def note(self, peer: Any) -> Any:
        self.peers.append(peer)
        return peer.client

    def read(self, data: bytes, peer: Any) -> None:
        assert peer.note == peer.client

    def exchange(self, request: Request, peer: Any, body: IO[bytes] | None) -> Steps:
        assert peer.exchange.line == request.line
        answer = Answer(self.framing, request)
        answer.choose("200 OK", [])
        got = b"" if body is None else body.read()
        if body is not None:
            self.bodies.append(body)
        if request.path == b"/pieces":
            for piece in (b"one", b"two"):
                yield answer.piece(piece, None)
            yield answer.end()
        else:
            yield answer.whole(request.method.encode() + b" " + request.target + b" " + got)
        peer.exchange.line = b""
        return answer.close

    def resume(self, call: Any, peer: Any) -> Steps:
        yield b"resumed"
        return True


class Ended:
    """The shortcut's part that HTTP/1 calls."""

    draining = False

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def end(self, call: Any) -> None:
        self.calls.append(call)


class Served:
    """One connection, fed piece by piece; what came out of it."""

    def __init__(self, age: float = 0.0, shortcut: Any = None, **options: Any) -> None:
        self.config, self.host, self.peer = Config(**options), Host(), Peer()
        self.peer.age = age
        host: Any = self.host
        self.echo = Echo(self.config, host)
        self.echo.shortcut = shortcut
        served: Any = Shedding(self.echo, self.config, host) if self.config.shed_after else self.echo
        self.http = Http1(served, self.config, host)
        self.out: list[bytes] = []
        self.waits: list[str] = []
        self.ready = 0
        self.returned: Any = "nothing"
        self.session: Generator[Any, Any, Any] = self.http.session(self.peer)  # type: ignore[arg-type]
        self._go(self.session.send, None)

    def feed(self, *pieces: Any) -> bytes:
        """Resume it with each of them; returns what it has sent meanwhile."""
        before = len(self.out)
        for piece in pieces:
            if piece is LATE:
                self._go(self.session.throw, Deadline(self.waits[-1]))
            else:
                self._go(self.session.send, piece)
        return b"".join(self.out[before:])

    def _go(self, step: Any, value: Any) -> None:
        try:
            op = step(value)
            while type(op) is not Await:
                if type(op) is Exchange:
                    self.ready += 1
                else:
                    self.out.append(b"".join(op) if type(op) is tuple else op)
                op = self.session.send(None)
            self.waits.append(op.name)
        except StopIteration as stop:
            self.returned = stop.value

    def count(self, cell: int) -> int:
        return self.host.row.cells[cell]


def bodies(answers: bytes) -> list[bytes]:
    """Of answers with a Content-Length."""
    found = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        length = int(re.findall(rb"Content-Length: (\d+)", head)[0])
        found.append(rest[:length])
        answers = rest[length:]
    return found


def status(answer: bytes) -> int:
    return int(answer[9:12])


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_head_may_come_in_pieces(size: int) -> None:
    served = Served()
    raw = GET % 1
    sent = served.feed(*(raw[at : at + size] for at in range(0, len(raw), size)))
    assert bodies(sent) == [b"GET /1 "]
    assert served.waits[0] == "first request" and served.waits[-1] == "keep-alive"
    assert set(served.waits[1:-1]) <= {"request head"}


def test_a_connection_is_kept_until_the_client_or_a_request_ends_it() -> None:
    served = Served()
    for number in range(3):
        assert bodies(served.feed(GET % number)) == [b"GET /%d " % number]
    assert (served.returned, served.ready, len(served.echo.peers)) == ("nothing", 3, 1)
    assert served.feed(b"") == b"" and served.returned is None
    served = Served()
    sent = served.feed(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in sent and served.returned is None


def test_an_old_client_has_to_ask_for_its_connection_to_be_kept() -> None:
    assert b"\r\nConnection: close\r\n" in Served().feed(b"GET / HTTP/1.0\r\n\r\n")
    served = Served()
    sent = served.feed(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"\r\nConnection: keep-alive\r\n" in sent and served.returned == "nothing"


def test_without_keep_alive_and_while_it_drains_each_answer_is_the_last() -> None:
    served = Served(keep_alive=0.0)
    assert b"Connection: close" in served.feed(GET % 1) and served.returned is None
    served = Served()
    served.host.draining = True
    assert b"Connection: close" in served.feed(GET % 1) and served.returned is None


def test_requests_that_came_together_are_answered_in_order() -> None:
    served = Served()
    post = b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    raw = GET % 1 + post + GET % 3
    assert bodies(served.feed(raw + (GET % 4)[:9])) == [b"GET /1 ", b"POST /2 abc", b"GET /3 "]
    assert bodies(served.feed((GET % 4)[9:])) == [b"GET /4 "]
    assert served.ready == 4


def test_what_comes_after_the_last_request_lingers() -> None:
    last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    served = Served()
    assert bodies(served.feed(last + GET % 2)) == [b"GET / "]
    assert served.returned is LINGER


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    "field",
    [
        b"Content-Length: 11\r\n\r\nhello world",
        b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
    ],
)
def test_a_body_is_collected_before_the_exchange_and_closed_after_it(field: bytes, size: int) -> None:
    served = Served()
    raw = POST + field + GET % 2
    sent = served.feed(*(raw[at : at + size] for at in range(0, len(raw), size)))
    assert bodies(sent) == [b"POST / hello world", b"GET /2 "]
    assert [body.closed for body in served.echo.bodies] == [True]


def test_a_client_that_waits_for_100_gets_it() -> None:
    head = POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    served = Served()
    assert served.feed(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert bodies(served.feed(b"ab")) == [b"POST / ab"]
    assert bodies(served.feed(head + b"cd")) == [b"POST / cd"]


def test_a_body_without_length_is_chunked() -> None:
    served = Served()
    sent = served.feed(b"GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n")
    assert sent.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n") and served.returned == "nothing"
    served = Served()
    sent = served.feed(b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert sent.endswith(b"Connection: close\r\n\r\nonetwo") and served.returned is None


@pytest.mark.parametrize(
    ("raw", "code", "kind"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, Refusal.MALFORMED),
        (b"GET / HTTP/3.0\r\n", 505, Refusal.HTTP_VERSION),
        (b"GET /" + b"a" * 9000, 414, Refusal.LINE_TOO_LONG),
        (b"HEAD / HTTP/1.1\r\nX: y y\r\n\r\n", 400, Refusal.MALFORMED),
        (POST + b"Content-Length: 4\r\n\r\n", 413, Refusal.BODY_TOO_LARGE),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n", 413, Refusal.BODY_TOO_LARGE),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(raw: bytes, code: int, kind: Refusal) -> None:
    served = Served(limit_request_body=3)
    assert bodies(served.feed(GET % 1)) == [b"GET /1 "]
    sent = served.feed(raw)
    assert status(sent) == code and b"\r\nConnection: close\r\n" in sent
    assert sent.endswith(b"\r\n\r\n") is raw.startswith(b"HEAD")
    assert (served.returned, served.ready) == (LINGER, 1)
    assert [served.count(cell) for cell in (REQUESTS, CODES + code, REFUSED + kind)] == [1, 1, 1]
    line = served.host.access.take()
    assert line.count(b"\n") == 1 and b'" %d ' % code in line and len(line) < 2000


def test_a_refused_body_shows_the_fields_of_its_head() -> None:
    served = Served(limit_request_body=3)
    fields = b"Referer: /r\r\nUser-Agent: u\r\nreferer: /s\r\nTransfer-Encoding: chunked\r\n"
    served.feed(POST + fields + b"\r\n4\r\nabcd\r\n")
    assert b'"POST / HTTP/1.1" 413 ' in (line := served.host.access.take())
    assert b'"/r,/s" "u"' in line


def test_a_head_or_a_body_that_comes_too_late_is_answered_408() -> None:
    served = Served()
    sent = served.feed(b"GET /", LATE)
    assert status(sent) == 408 and served.returned is LINGER
    assert served.count(REFUSED + Refusal.HEAD_TIMEOUT) == 1
    served = Served()
    sent = served.feed(POST + b"Content-Length: 2\r\n\r\na", LATE)
    assert status(sent) == 408 and served.returned is LINGER
    assert served.count(REFUSED + Refusal.BODY_TIMEOUT) == 1
    assert b'"POST / HTTP/1.1" 408 ' in served.host.access.take()


@pytest.mark.parametrize("before", [(), (GET % 1,), (b"\r\n",)])
def test_who_is_late_between_requests_is_told_nothing(before: tuple[bytes, ...]) -> None:
    served = Served()
    served.feed(*before)
    if before == (b"\r\n",):
        assert served.feed(LATE) == b"" and served.returned is None
    else:
        with pytest.raises(Deadline):  # the driver's, who closes the connection
            served.feed(LATE)


@pytest.mark.parametrize("raw", [b"", b"GET /", b"\r\n", GET % 1])
def test_the_end_of_what_the_client_sends(raw: bytes) -> None:
    served = Served()
    if raw:
        served.feed(raw)
    assert served.feed(b"") == b"" and served.returned is None


def test_what_native_code_has_begun_goes_on_between_other_requests() -> None:
    shortcut = Ended()
    served = Served(shortcut=shortcut)
    begun, unusual = Begun(b"all of it"), Begun(None)
    assert served.feed(begun) == b"all of it"
    assert shortcut.calls == [begun] and served.returned == "nothing"
    assert bodies(served.feed(GET % 1)) == [b"GET /1 "]
    assert served.feed(unusual) == b"resumed" and served.returned is None
    assert (served.ready, shortcut.calls) == (1, [begun])
    served.http.retire()
    assert shortcut.draining


def test_a_request_that_has_waited_too_long_is_shed() -> None:
    served = Served(age=1.0, shed_after=2.0)
    assert bodies(served.feed(GET % 1)) == [b"GET /1 "]
    served.peer.age = 2.5
    sent = served.feed(GET % 2)
    assert status(sent) == 503 and b"\r\nRetry-After: 2\r\n" in sent
    assert (served.returned, served.count(SHED), served.count(REFUSED + Refusal.OVERLOAD)) == (None, 1, 1)
    assert served.http.opening is None
