"""The uwsgi protocol, bytes in and environ out: what nginx's uwsgi_pass says, what is refused, any split."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from forkd.app.wsgi.exchange import Wsgi
from forkd.config import Config
from forkd.http.limits import Limits, Refused
from forkd.http.uwsgi import UwsgiParser, UwsgiRequest
from forkd.native import native as built
from forkd.session.http1 import Http1
from forkd.session.seam import LINGER, Await, Deadline
from forkd.session.uwsgi import Uwsgi
from forkd.system.cells import DROPPED, FORWARDED_CELLS, REFUSED, UWSGI_UNTRUSTED
from forkd.system.networks import Networks
from tests.session.packets import Pair, block, packet, params, without
from tests.session.test_http1 import Host, MemoryAccess, Peer

TRUSTED = Networks.parse(["10.0.0.0/8", "unix"])
WAYS = [False] if built is None else [False, True]
#: What is the connection's or the process' own.
OWN = ("wsgi.input", "wsgi.errors", "wsgi.file_wrapper", "wsgi.version", "wsgi.multithread",
       "wsgi.multiprocess", "wsgi.run_once", "wsgi.input_terminated", "forkd.worker",
       "SERVER_SOFTWARE")  # fmt: skip


class Child:
    """A child that serves one connection."""

    def __init__(self, native: bool = False, client: str = "10.0.0.1", **options: Any) -> None:
        self.host: Any = Host()
        self.host.recorder = self.host.row.recorder(native)
        self.host.access = MemoryAccess(native=native)
        self.peer: Any = Peer()
        self.peer.client = client
        self.environs: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        config = Config(**{"forwarded_allow": TRUSTED, "native": native, **options})
        wsgi = Wsgi(self._app, config, self.host, multithread=False)
        self.uwsgi = Uwsgi(Http1(wsgi, config, self.host), config, self.host)
        self.out = b""
        self.returned: Any = "nothing"
        self.session = self.uwsgi.session(self.peer)
        self._go(lambda: next(self.session))

    def _app(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        self.bodies.append(environ["wsgi.input"].read())
        self.environs.append({key: value for key, value in environ.items() if key not in OWN})
        start("200 OK", [("Content-Type", "text/plain")])
        pieces = environ["PATH_INFO"] == "/pieces"
        return iter([b"o", b"k"]) if pieces else [b"ok"]  # type: ignore[return-value]

    def feed(self, *pieces: bytes) -> bytes:
        """What has been sent since the start."""
        for piece in pieces:
            if self.returned == "nothing":
                self._go(lambda piece=piece: self.session.send(piece))  # type: ignore[misc]
        return self.out

    def late(self) -> bytes:
        self._go(lambda: self.session.throw(Deadline()))
        return self.out

    def _go(self, step: Callable[[], Any]) -> None:
        try:
            op = step()
            while not isinstance(op, Await):
                if isinstance(op, bytes):
                    self.out += op
                op = self.session.send(None)
        except StopIteration as stop:
            self.returned = stop.value
        except Deadline:
            self.returned = None


def seen(pairs: list[Pair], native: bool = False, modifier1: int = 0, **options: Any) -> dict[str, Any]:
    child = Child(native, **options)
    answer = child.feed(packet(pairs, modifier1))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
    assert child.returned is None
    return child.environs[0]


def refused(data: bytes, native: bool = False, **options: Any) -> tuple[int, str]:
    """Status and reason; nothing has reached the application."""
    child = Child(native, **options)
    answer = child.feed(data)
    assert not child.environs
    assert child.returned is LINGER
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split(" ")[1]), body.strip()


USUAL = {
    "SCRIPT_NAME": "", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "REQUEST_METHOD": "GET",
    "PATH_INFO": "/a", "QUERY_STRING": "b=c", "REQUEST_URI": "/a?b=c", "RAW_URI": "/a?b=c",
    "SERVER_NAME": "hello.example", "SERVER_PORT": "8080", "REMOTE_ADDR": "203.0.113.7",
    "REMOTE_PORT": "4000", "forkd.peer": "10.0.0.1", "DOCUMENT_ROOT": "/usr/share/nginx/html",
    "REQUEST_SCHEME": "http", "HTTP_HOST": "hello.example", "HTTP_USER_AGENT": "t",
}  # fmt: skip


@pytest.mark.parametrize("native", WAYS)
def test_the_application_sees_the_client(native: bool) -> None:
    assert seen(params(), native) == USUAL


#: Variables beside or in place of the usual ones, and what is other than usual in environ.
ROWS: list[tuple[str, list[tuple[str, str]], dict[str, str]]] = [
    ("https", [("HTTPS", "on")], {"wsgi.url_scheme": "https", "HTTPS": "on"}),
    ("https, as a number", [("HTTPS", "1")], {"wsgi.url_scheme": "https", "HTTPS": "1"}),
    ("no https, whatever else is said", [("HTTPS", "off"), ("REQUEST_SCHEME", "https")],
     {"HTTPS": "off", "REQUEST_SCHEME": "https"}),
    ("an empty HTTPS says nothing", [("HTTPS", ""), ("REQUEST_SCHEME", "https")],
     {"HTTPS": "", "REQUEST_SCHEME": "https", "wsgi.url_scheme": "https"}),
    ("uWSGI's own name of the scheme comes first", [("UWSGI_SCHEME", "https"), ("HTTPS", "off")],
     {"HTTPS": "off", "UWSGI_SCHEME": "https", "wsgi.url_scheme": "https"}),
    ("a scheme that is none", [("UWSGI_SCHEME", "gopher")], {"UWSGI_SCHEME": "gopher"}),
    ("a scheme of WebSocket", [("REQUEST_SCHEME", "wss")],
     {"REQUEST_SCHEME": "wss", "wsgi.url_scheme": "https"}),
    ("a path below a prefix", [("SCRIPT_NAME", "/app"), ("PATH_INFO", "/app/a")],
     {"SCRIPT_NAME": "/app", "PATH_INFO": "/app/a"}),
    ("a prefix with a slash at its end", [("SCRIPT_NAME", "/app/")], {"SCRIPT_NAME": "/app"}),
    ("a prefix that is the root", [("SCRIPT_NAME", "/")], {}),
    ("a path that the front has decoded", [("REQUEST_URI", "/%25a%C3%A9"), ("PATH_INFO", "/%aé"),
     ("QUERY_STRING", "")],
     {"REQUEST_URI": "/%25a%C3%A9", "RAW_URI": "/%25a%C3%A9", "PATH_INFO": "/%aé", "QUERY_STRING": ""}),
    ("a path that only looks encoded", [("PATH_INFO", "/%41")], {"PATH_INFO": "/%41"}),
    ("a path that the front has rewritten", [("PATH_INFO", "/other\n")], {"PATH_INFO": "/other\n"}),
    ("an empty path", [("PATH_INFO", "")], {"PATH_INFO": ""}),
    ("a method of WebDAV", [("REQUEST_METHOD", "PROPFIND")], {"REQUEST_METHOD": "PROPFIND"}),
    ("HTTP/2 at the front", [("SERVER_PROTOCOL", "HTTP/2.0")], {"SERVER_PROTOCOL": "HTTP/2.0"}),
    ("a client with IPv6", [("REMOTE_ADDR", "2001:DB8::7")], {"REMOTE_ADDR": "2001:db8::7"}),
    ("a client that is mapped", [("REMOTE_ADDR", "::ffff:192.0.2.1")], {"REMOTE_ADDR": "192.0.2.1"}),
    ("a client with its port", [("REMOTE_ADDR", "[2001:db8::7]:99")],
     {"REMOTE_ADDR": "2001:db8::7", "REMOTE_PORT": "99"}),
    ("a client over a unix socket", [("REMOTE_ADDR", "unix:"), ("REMOTE_PORT", "")],
     {"REMOTE_ADDR": "", "REMOTE_PORT": "0"}),
    ("no client", [("REMOTE_ADDR", "")], {"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "40000"}),
    ("a client that is a list", [("REMOTE_ADDR", "192.0.2.1, 10.0.0.2")],
     {"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "40000"}),
    ("a port that is none", [("REMOTE_PORT", "70000")], {"REMOTE_PORT": "0"}),
    ("a server without a name", [("SERVER_NAME", ""), ("SERVER_PORT", "0")],
     {"SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80"}),
    ("a body of no bytes", [("CONTENT_LENGTH", "0"), ("CONTENT_TYPE", "text/plain")],
     {"CONTENT_LENGTH": "0", "CONTENT_TYPE": "text/plain"}),
    ("variables of the user's own", [("REMOTE_USER", "ann"), ("x-y", "é"), ("UWSGI_CHDIR", "/")],
     {"REMOTE_USER": "ann", "x-y": "é", "UWSGI_CHDIR": "/"}),
    ("variables that a server sets", [("wsgi.url_scheme", "x"), ("forkd.peer", "x"), ("wsgi.input", "")], {}),
]  # fmt: skip


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize(("more", "wanted"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_variables(more: list[tuple[str, str]], wanted: dict[str, str], native: bool) -> None:
    assert seen(params("GET", "/a?b=c", *more), native) == USUAL | wanted


#: Fields of the client, and what of them is in environ.
FIELDS: list[tuple[str, list[tuple[str, str]], dict[str, str]]] = [
    ("any", [("X_ONE", "é\t!")], {"HTTP_X_ONE": "é\t!"}),
    ("white space around it is none of it", [("X_ONE", " a ")], {"HTTP_X_ONE": "a"}),
    ("empty", [("X_ONE", "")], {"HTTP_X_ONE": ""}),
    ("twice", [("X_ONE", "a"), ("X_ONE", "b")], {"HTTP_X_ONE": "a,b"}),
    ("cookies twice", [("COOKIE", "a=1"), ("COOKIE", "b=2")], {"HTTP_COOKIE": "a=1; b=2"}),
    ("httpoxy", [("PROXY", "http://evil/")], {}),
    ("what the block has by another name", [("CONTENT_LENGTH", "5"), ("CONTENT_TYPE", "a/b")], {}),
    ("a coding that the front has undone", [("TRANSFER_ENCODING", "chunked")], {}),
    ("an expectation that the front has met", [("EXPECT", "100-continue")], {"HTTP_EXPECT": "100-continue"}),
    ("what proxies say", [("X_FORWARDED_FOR", "1.2.3.4"), ("X_REAL_IP", "1.2.3.4"), ("FORWARDED", "")], {}),
    ("of hosts the last", [("HOST", "b:8080")], {"HTTP_HOST": "b:8080"}),
    ("lower case", [("x_one", "a")], {"HTTP_X_ONE": "a"}),
]


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize(("fields", "wanted"), [row[1:] for row in FIELDS], ids=[row[0] for row in FIELDS])
def test_fields(fields: list[tuple[str, str]], wanted: dict[str, str], native: bool) -> None:
    usual = [("HOST", "hello.example"), ("USER_AGENT", "t")]
    assert seen(params(fields=[*usual, *fields]), native) == USUAL | wanted


@pytest.mark.parametrize("native", WAYS)
def test_fields_of_proxies_are_counted_or_passed(native: bool) -> None:
    given = params(fields=[("HOST", "a"), ("X_FORWARDED_PROTO", "https")])
    child = Child(native)
    child.feed(packet(given))
    assert "HTTP_X_FORWARDED_PROTO" not in child.environs[0]
    counts = child.host.row.cells[DROPPED : DROPPED + 2 * FORWARDED_CELLS]
    assert sum(counts) == 1
    found = seen(given, native, forwarded_untrusted="pass")
    assert (found["HTTP_X_FORWARDED_PROTO"], found["wsgi.url_scheme"]) == ("https", "http")


@pytest.mark.parametrize("native", WAYS)
def test_of_variables_the_last_of_a_name_counts(native: bool) -> None:
    """As `include uwsgi_params` twice, or a line of one's own behind it."""
    twice = [*params(fields=()), *params("GET", "/b", ("SERVER_NAME", "b"))]
    found = seen(twice, native)
    assert (found["PATH_INFO"], found["SERVER_NAME"], found["REQUEST_METHOD"]) == ("/b", "b", "GET")
    assert refused(packet([*params(body=3, fields=()), *params(body=4)]), native)[0] == 400


def test_what_is_missing_is_made_of_the_rest() -> None:
    usual = params()
    assert seen(without(usual, "PATH_INFO", "QUERY_STRING")) == USUAL
    assert seen(without(usual, "REQUEST_URI")) == USUAL
    assert seen(without(params("GET", "/%41?x"), "PATH_INFO"))["PATH_INFO"] == "/A"
    found = seen(without(params("GET", "/é ", ("SCRIPT_NAME", "/app")), "REQUEST_URI", "QUERY_STRING"))
    assert (found["REQUEST_URI"], found["PATH_INFO"]) == ("/app/%E9%20", "/é ")
    assert seen(without(usual, "SERVER_PROTOCOL"))["SERVER_PROTOCOL"] == "HTTP/1.0"
    found = seen(without(usual, "REMOTE_ADDR", "SERVER_NAME", "SERVER_PORT", "HTTP_HOST"))
    assert found["REMOTE_ADDR"] == "10.0.0.1"
    assert (found["SERVER_NAME"], found["SERVER_PORT"]) == ("127.0.0.1", "80")
    assert "HTTP_HOST" not in found


@pytest.mark.parametrize(
    ("prefix", "path", "wanted"),
    [("/app", "/app/a", "/a"), ("/app/", "/app/a", "/a"), ("/app", "/app", ""), ("/app", "/apple", "/apple"),
     ("", "/a", "/a"), ("/a%b", "/a%b/%41", "/%41")],
)  # fmt: skip
def test_modifier1_may_cut_the_prefix(prefix: str, path: str, wanted: str) -> None:
    found = seen(params("GET", "/x", ("SCRIPT_NAME", prefix), ("PATH_INFO", path)), modifier1=30)
    assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == (prefix.rstrip("/"), wanted)


REFUSALS: list[tuple[str, bytes, int, str]] = [
    ("HTTP", b"GET / HTTP/1.1\r\n\r\n", 400, "neither 0 nor 30"),
    ("another plugin", packet(params(), 5), 400, "neither 0 nor 30"),
    ("an empty block", packet([]), 400, "no REQUEST_METHOD"),
    ("an empty method", packet(params("")), 400, "no REQUEST_METHOD"),
    ("a method that is none", packet(params("BREW")), 501, "not implemented"),
    ("nothing that is wanted", packet(without(params(), "REQUEST_URI", "PATH_INFO", "QUERY_STRING")), 400,
     "neither REQUEST_URI"),
    ("controls in the target", packet(params("GET", "/a\nb")), 400, "control characters"),
    ("controls in the method", packet(params("GE\tT")), 400, "control characters"),
    ("a host that is none", packet(params(fields=[("HOST", "a/b")])), 400, "Host"),
    ("controls in a field", packet(params(fields=[("X", "a\nb")])), 400, "malformed header"),
    ("a zero in a field", packet(params(fields=[("X", "a\0b")])), 400, "malformed header"),
    ("controls in the type", packet(params("GET", "/", ("CONTENT_TYPE", "a\nb"))), 400, "malformed header"),
    ("a field without a name", packet(params(fields=[("", "a")])), 400, "malformed header"),
    ("a field with a name that is none", packet(params(fields=[("X Y", "a")])), 400, "malformed header"),
    ("a field with a name beyond ASCII", packet(params(fields=[("X\xe9", "a")])), 400, "malformed header"),
    ("a variable without a name", packet([*params(), (b"", b"a")]), 400, "without a name"),
    ("a length that is none", packet(params("POST", "/", ("CONTENT_LENGTH", "+5"))), 400, "CONTENT_LENGTH"),
    ("a length that is a list", packet(params("POST", "/", ("CONTENT_LENGTH", "5,5"))), 400, "LENGTH"),
    ("too large a body", packet(params("POST", "/", body=1 << 40)), 413, "too large"),
    ("too long a line", packet(params("GET", "/" + "a" * 8190)), 414, "too long"),
    ("too long a field", packet(params(fields=[("X", "a" * 8190)])), 431, "header line too long"),
    ("too many fields", packet(params(fields=[(f"X{n}", "") for n in range(101)])), 431, "too many"),
    ("more than there is", packet(params()) + b"a", 400, "more behind"),
    ("more than its body", packet(params("POST", "/", body=2)) + b"abc", 400, "more behind"),
]  # fmt: skip


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize(("data", "status", "why"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_refusals(data: bytes, status: int, why: str, native: bool) -> None:
    found, reason = refused(data, native)
    assert (found, why in reason) == (status, True), reason


def test_each_is_counted_and_some_have_a_line() -> None:
    child = Child()
    child.feed(packet(params(fields=[("X", "a" * 8190)])))
    assert sum(child.host.row.cells[REFUSED : REFUSED + 13]) == 1
    assert [line for line in child.host.log.lines if line.startswith("uwsgi: refused with 431")]
    assert b'"GET /a?b=c HTTP/1.1" 431' in child.host.access.take()
    child = Child()
    child.feed(packet(params("GET", "/" + "a" * 9000)))
    assert not [line for line in child.host.log.lines if line.startswith("uwsgi:")]  # the client's own doing


@pytest.mark.parametrize("native", WAYS)
def test_a_block_that_was_cut_is_never_a_request(native: bool) -> None:
    """By its last bytes, or as a front has it that sends the size modulo 65536."""
    whole = block(params("POST", "/", body=5))
    for size in range(len(whole)):
        data = b"\0" + size.to_bytes(2, "little") + b"\0" + whole
        # Where it ends with a parameter nothing shows that there were others: but for what follows.
        found = refused(data, native)
        assert found[0] == 400, size
    large = params("POST", "/", ("CONTENT_LENGTH", "5"), fields=[(f"X{n}", "a" * 8000) for n in range(9)])
    assert len(block(large)) > 65536
    assert refused(packet(large) + b"hello", native)[0] == 400


@pytest.mark.parametrize("native", WAYS)
def test_the_largest_block(native: bool) -> None:
    pairs = params(fields=[("HOST", "a"), *((f"X{n}", "a" * 8000) for n in range(8))])
    room = 65535 - len(block(pairs)) - len(block([(b"HTTP_Y", b"")]))
    pairs.append((b"HTTP_Y", b"b" * room))
    assert len(block(pairs)) == 65535
    assert seen(pairs, native)["HTTP_Y"] == "b" * room
    status, reason = refused(packet(pairs)[:4], native, limit_request_head=65534)
    assert (status, "--limit-request-head" in reason) == (431, True)


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize("body", [b"", b"hello"])
def test_any_split(native: bool, body: bytes) -> None:
    data = packet(params("POST", "/a?b=c", body=len(body) if body else None)) + body
    def undated(answer: bytes) -> bytes:
        return re.sub(rb"Date: [^\r]+", b"", answer)

    whole = Child(native)
    answer = undated(whole.feed(data))
    for at in range(1, len(data)):
        child = Child(native)
        assert undated(child.feed(data[:at], data[at:])) == answer, at
        assert (child.environs, child.bodies) == (whole.environs, [body]), at
    child = Child(native)
    assert undated(child.feed(*(data[at : at + 1] for at in range(len(data))))) == answer
    assert (child.environs, child.bodies) == (whole.environs, [body])


@pytest.mark.parametrize("native", WAYS)
def test_the_answer_ends_with_the_connection(native: bool) -> None:
    child = Child(native)
    answer = child.feed(packet(params()))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"ok"
    assert b"Content-Length: 2" in head and b"Connection: close" in head
    child = Child(native)
    head, _, body = child.feed(packet(params("GET", "/pieces"))).partition(b"\r\n\r\n")
    assert body == b"ok"
    assert b"Content-Length" not in head and b"chunked" not in head and b"Connection: close" in head
    child = Child(native)
    head, _, body = child.feed(packet(params("HEAD", "/a"))).partition(b"\r\n\r\n")
    assert (body, child.returned) == (b"", None)
    assert b'203.0.113.7 - - ' in child.host.access.take()


def test_deadlines() -> None:
    silent = Child()
    assert (silent.late(), silent.returned) == (b"", None)
    slow = Child()
    slow.feed(b"\0")
    assert slow.late().startswith(b"HTTP/1.1 408 ")
    gone = Child()
    gone.feed(packet(params())[:-1], b"")
    assert (gone.out, gone.returned, gone.environs) == (b"", None, [])


def test_a_peer_that_is_not_trusted_is_closed() -> None:
    for client in ("192.0.2.1", ""):
        child = Child(client=client, forwarded_allow=Networks.parse(["10.0.0.0/8"]))
        assert (child.feed(packet(params())), child.returned) == (b"", None)
        assert child.host.row.cells[UWSGI_UNTRUSTED] == 1
        assert f"{client or 'unix'}: not a peer of --forwarded-allow" in child.host.log.lines[-1]
        assert not child.environs
    for last in (lambda child: child.feed(b""), Child.late):
        child = Child(client="192.0.2.1")
        last(child)
        assert (child.returned, child.host.row.cells[UWSGI_UNTRUSTED]) == (None, 0)


def test_a_client_that_is_no_address_has_a_line() -> None:
    child = Child()
    child.feed(packet(params("GET", "/", ("REMOTE_ADDR", "localhost"))))
    assert child.environs[0]["REMOTE_ADDR"] == "10.0.0.1"
    assert [line for line in child.host.log.lines if "REMOTE_ADDR is no address" in line]


def test_a_body_that_is_too_large_is_refused_by_name() -> None:
    child = Child(request_ids=True)
    data = packet(params("POST", "/", body=1 << 40, fields=[("X_REQUEST_ID", "x5")]))
    answer = child.feed(data)
    assert answer.startswith(b"HTTP/1.1 413 ") and answer.count(b"\r\nX-Request-ID: x5\r\n") == 1


def test_httpoxy_reaches_no_interface() -> None:
    data = packet(params(fields=[("PROXY", "http://evil/"), ("X", "a")]))
    request = UwsgiParser(Limits(), TRUSTED).feed(data)
    assert request is not None and request.headers == [(b"x", b"a")]


def test_the_request_is_what_other_interfaces_read() -> None:
    parser = UwsgiParser(Limits(), TRUSTED)
    request = parser.feed(packet(params("POST", "/a%41?b", ("PATH_INFO", "/aA"), body=2)) + b"hi")
    assert isinstance(request, UwsgiRequest)
    assert (request.method, request.target, request.path, request.query) == ("POST", b"/a%41?b", b"/aA", b"b")
    assert (request.authority, request.length, parser.leftover) == (b"hello.example", 2, b"hi")
    assert (b"content-length", b"2") in request.headers
    assert request.line == b"POST /a%41?b HTTP/1.1"
    with pytest.raises(Refused):
        UwsgiParser(Limits(), TRUSTED).feed(b"P" * 4)
