"""Packets of the uwsgi protocol in native code against the twin in Python, and in the twin alone: packets are
put together and changed at random, by a seed that a failure prints.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from forkd.app.wsgi.environ import environ_of
from forkd.app.wsgi.shortcut import native_limits
from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Limits, Refused
from forkd.http.uwsgi import HEADER_BYTES, UwsgiParser, UwsgiRequest, parameters
from forkd.native import native
from forkd.session.ends import Ends
from forkd.session.fronts import Fronts
from forkd.system.networks import Networks
from forkd.system.scoreboard import scratch_row
from tests.session.fronts import taken_drops
from tests.session.packets import Pair, block, packet, params, without
from tests.session.test_http1 import Log, Peer

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "20000"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
TEMPLATE: dict[str, Any] = {
    "SCRIPT_NAME": "", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SOFTWARE": "forkd", "wsgi.url_scheme": "http",
}  # fmt: skip
LIMITS = Limits(body=1000)
ENDS = Ends(server="h", port="80", client="10.0.0.1", client_port="40000")
NAMES = [
    "REQUEST_METHOD", "REQUEST_URI", "PATH_INFO", "QUERY_STRING", "CONTENT_LENGTH", "CONTENT_TYPE",
    "REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "HTTPS", "REQUEST_SCHEME",
    "UWSGI_SCHEME", "SERVER_PROTOCOL", "DOCUMENT_ROOT", "REMOTE_USER", "SERVER_SOFTWARE", "wsgi.errors",
    "x-y", "", "HTTP_HOST", "HTTP_PROXY", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE",
    "HTTP_TRANSFER_ENCODING", "HTTP_REFERER", "HTTP_USER_AGENT", "HTTP_COOKIE", "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_USER", "HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_X-Y", "HTTP_x_y", "HTTP_X_Y",
    "HTTP_", "HTTP_X Y", "HTTP_\xe9", "HTTP", "HTTPS_", "A" * 65, "HTTP_" + "B" * 60,
]  # fmt: skip
VALUES = [
    "", "GET", "POST", "HEAD", "BREW", "/", "/a?b=c#d", "/%41%zz", "*", "/a b", "/\xe9", "0", "5", "05",
    "1001", "+5", "on", "ON", "1", "off", "https", "HTTP", "wss", "gopher", "192.0.2.7", "192.0.2.07",
    "192.0.2.7:80", "[2001:DB8::7]:9", "2001:db8::7", "::ffff:192.0.2.1", "2001:db8::7%eth0", "unix:",
    "192.0.2.1, 10.0.0.1", "unknown", "localhost", "65535", "65536", "8080", "HTTP/2.0", "HTTP/1.1 x",
    "/app", "/app/", "//", "a\nb", "a\0", "a\tb", " a", "a ", "\xff", "hello.example:8080", "[::1]", "a/b",
    "chunked", "text/plain", "a" * 300,
]  # fmt: skip


class Child:
    """The two twins of one configuration."""

    def __init__(self) -> None:
        config = Config(
            forwarded_allow=Networks.parse(["10.0.0.0/8"]), limit_request_body=LIMITS.body, native=True
        )
        self.row, self.log, self.peer = scratch_row(), Log(), Peer()
        self.recorder = self.row.recorder(True)
        self.networks = config.forwarded_allow
        self._limits = native_limits(config, TEMPLATE, self.recorder, ())
        self._twin = Fronts(config, self, ())  # type: ignore[arg-type]

    def native(self, data: bytes, ends: Any = ENDS) -> tuple[Any, ...] | None:
        found = native.read_packet(data, self._limits, ends)  # type: ignore[union-attr]
        if found is None:
            assert not any(taken_drops(self.row))
            return None
        assert (found.version, found.keep_alive, found.forwarded) == ("1.0", False, False)
        return (
            found.environ, found.client, found.line, found.method, found.length, found.referer, found.agent,
            data[found.end :], taken_drops(self.row),
        )  # fmt: skip

    def python(self, data: bytes) -> tuple[Any, ...]:
        request, rest = self.parsed(data)
        if request.forwarded:
            self._twin.judge(request, self.peer)  # type: ignore[arg-type]
        environ = environ_of(request, TEMPLATE, ENDS)
        shown = environ.get("HTTP_REFERER"), environ.get("HTTP_USER_AGENT")
        return (
            environ, request.client, request.line, request.method, request.length, *shown, rest,
            taken_drops(self.row),
        )  # fmt: skip

    def parsed(self, data: bytes) -> tuple[Request, bytes]:
        parser = UwsgiParser(LIMITS, self.networks)
        request = parser.feed(data)
        assert request is not None
        return request, parser.leftover


def changed(chance: random.Random) -> list[Pair]:
    pairs = params("POST" if chance.random() < 0.3 else "GET", "/a?b=c")
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        at = chance.randrange(len(pairs))
        name, value = (text.encode("latin-1") for text in (chance.choice(NAMES), chance.choice(VALUES)))
        match chance.randrange(5):
            case 0:
                pairs[at] = pairs[at][0], value
            case 1:
                del pairs[at]
            case 2:
                pairs.insert(at, (name, value))
            case 3:
                named = [i for i, pair in enumerate(pairs) if pair[0] == name]
                pairs[named[0] if named else at : (named[0] if named else at) + 1] = [(name, value)]
            case 4:
                pairs.insert(at, chance.choice(pairs))
    return pairs


needs_native = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")


@needs_native
def test_what_nginx_sends_is_usual() -> None:
    child = Child()
    for data in (
        packet(params()), packet(params("POST", "/", body=5)) + b"hello", packet(params("HEAD")),
        packet(params("GET", "/", ("HTTPS", "on"), ("SCRIPT_NAME", "/a"), ("REMOTE_USER", "ann"))),
        packet(params("GET", "/", ("REMOTE_ADDR", "2001:db8::7"), ("SERVER_NAME", ""))),
        packet(params(fields=[("HOST", "a"), ("X_FORWARDED_FOR", "1.2.3.4"), ("PROXY", "a")])),
        packet(without(params(), "HTTP_HOST")),
    ):  # fmt: skip
        found = child.native(data)
        assert found is not None
        assert found == child.python(data)


@needs_native
def test_native_code_reads_them_as_python_does() -> None:
    chance, child, usual = random.Random(SEED), Child(), 0
    for _ in range(ROUNDS):
        data = packet(changed(chance), chance.choice((0,) * 9 + (30,)), chance.choice((0,) * 9 + (1,)))
        data += chance.choice((b"", b"", b"", b"hello", b"hello!"))
        found = child.native(data)
        if found is not None:
            usual += 1
            assert found == child.python(data), (SEED, data)
    assert usual > ROUNDS / 8


@needs_native
def test_what_is_not_whole_or_not_trusted_is_not_usual() -> None:
    child, data = Child(), packet(params())
    for at in range(len(data)):
        assert child.native(data[:at]) is None
    assert child.native(data + b"a") is None
    for client in ("192.0.2.1", ""):
        assert child.native(data, Ends(server="h", port="80", client=client, client_port="1")) is None
    with pytest.raises(TypeError):
        child.native(data, ("h",))


def test_bytes_that_are_changed_never_make_a_body_of_parameters() -> None:
    """Any bytes are a request whose block ends with its last parameter, or are refused; nothing is raised but
    that, whole or in pieces."""
    chance, child, whole = random.Random(SEED), Child(), 0
    for _ in range(ROUNDS // 2):
        data = bytearray(packet(changed(chance)) + chance.choice((b"", b"hello")))
        for _ in range(chance.choice((0, 1, 1, 2, 8))):
            at = chance.choice((1, 2, chance.randrange(len(data)), chance.randrange(len(data))))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    del data[at : at + chance.randrange(1, 9)]
                case 2:
                    data[at:at] = chance.randbytes(chance.randrange(1, 9))
                case 3:
                    data[1:3] = chance.randrange(65536).to_bytes(2, "little")
        sent = bytes(data)
        if native is not None and (found := child.native(sent)) is not None:
            assert found == child.python(sent), (SEED, sent)
        parser = UwsgiParser(LIMITS, child.networks)
        try:
            request = parser.feed(sent)
        except Refused:
            continue
        size = int.from_bytes(sent[1:3], "little")
        if request is None:
            assert len(sent) < HEADER_BYTES + size or len(sent) < HEADER_BYTES
            continue
        whole += 1
        assert isinstance(request, UwsgiRequest)
        pairs = list(parameters(sent[HEADER_BYTES : HEADER_BYTES + size]))
        assert sent == sent[:HEADER_BYTES] + block(pairs) + parser.leftover, (SEED, sent)
        assert len(parser.leftover) <= (request.length or 0), (SEED, sent)
    assert whole > ROUNDS / 40
