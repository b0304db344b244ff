"""Every byte that a client sends is seen once, and in order, however its connection changes hands.

Requests are pipelined and cut at random places, to applications that call write(), yield, read late, do not
read, and raise. Each answer says which request it is for, and what its application has read; bodies are
made of requests, which must not be answered. All under every model and io, with native code and without.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.process.conftest import Daemon, until

from .conftest import cells
from .test_wsgi import Wire

APP = r"""
    import hashlib

    FIELDS = [("Content-Type", "text/plain")]

    def app(environ, start):
        kind, number, size = environ["PATH_INFO"].strip("/").split("/")
        read = environ["wsgi.input"].read
        mark, filling = number.encode() + b":", b"." * int(size)

        def digest():
            return hashlib.sha256(read()).hexdigest().encode()

        def answer(found):
            return mark + found + filling

        if kind == "read":
            found = digest(); start("200 OK", FIELDS); return [answer(found)]
        if kind == "bits":                       # a few bytes, then the rest
            data = read(7); data += read()
            start("200 OK", FIELDS)
            return [answer(hashlib.sha256(data).hexdigest().encode())]
        if kind == "ignore":
            start("200 OK", FIELDS); return [answer(b"-")]
        if kind == "write":
            write = start("200 OK", FIELDS)
            write(mark); write(b"-"); write(filling)
            return []
        if kind == "late":                       # some of the answer is sent before the body is read
            write = start("200 OK", FIELDS)
            write(mark); write(digest())
            return [filling]
        if kind == "yield":
            start("200 OK", FIELDS)
            return iter([mark, digest(), filling])
        if kind == "lazy":                       # read where the pieces are asked for
            def pieces():
                found = digest()
                start("200 OK", FIELDS)
                yield mark
                yield found
                yield filling
            return pieces()
        if kind == "raise":
            raise RuntimeError("raised on purpose")
        if kind == "break":                      # in the middle of its answer
            def pieces():
                yield mark
                raise RuntimeError("raised on purpose")
            start("200 OK", FIELDS)
            return pieces()
        start("404 Not Found", FIELDS); return [b"nobody has asked for this"]
"""
ERRORS = ["on purpose", "application failed", "Traceback"]

SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)

#: What reads its body before anything of the answer is made, so that a client may wait to be asked for it
#: (Expect); what reads later; what does not; what ends its connection.
_PROMPT = ("read", "bits", "yield")
_READ = (*_PROMPT, "lazy", "late")
_UNREAD = ("ignore", "write")
_LAST = ("raise", "break")
#: If any of this was taken for a request, there would be an answer too many.
_BAIT = b"GET /read/999/0 HTTP/1.1\r\nHost: a\r\n\r\n"


class Asked(NamedTuple):
    kind: str
    data: bytes  # all of the request
    body: bytes  # of its answer, if that is whole


def _request(rng: random.Random, number: int, last: bool) -> Asked:
    kind = rng.choice(_LAST if last else _READ + _UNREAD)
    size = rng.choice((0, 10, 2000, 20_000, 400_000)) if kind not in _LAST else 0
    body = (_BAIT * 2000)[: rng.choice((0, 0, 40, 3000, 40_000, 70_000))]
    fields, sent = [], body
    if body and rng.random() < 0.3:
        fields, sent = ["Transfer-Encoding: chunked"], b""
        at = rng.randrange(1, len(body) + 1)
        for piece in filter(None, (body[:at], body[at:])):
            sent += b"%x\r\n" % len(piece) + piece + b"\r\n"
        sent += b"0\r\n\r\n"
    elif body or rng.random() < 0.1:
        fields = [f"Content-Length: {len(body)}"]
        if body and kind in _PROMPT and rng.random() < 0.3:
            fields.append("Expect: 100-continue")
    head = [f"{'POST' if fields else 'GET'} /{kind}/{number}/{size} HTTP/1.1", "Host: a", *fields]
    found = hashlib.sha256(body).hexdigest() if kind in _READ else "-"
    answer = f"{number}:{found}{'.' * size}".encode()
    return Asked(kind, "\r\n".join(head).encode() + b"\r\n\r\n" + sent, answer)


def _cut(rng: random.Random, data: bytes) -> Iterator[bytes]:
    most = rng.choice((300, 5000, 50_000, 1 << 20))
    while data:
        at = rng.randrange(1, most + 1)
        yield data[:at]
        data = data[at:]


def _converse(daemon: Daemon, seed: int) -> None:
    """One connection, until its last answer."""
    rng = random.Random(seed)
    count = rng.randrange(1, 16)
    asked = [_request(rng, number, last=number == count) for number in range(1, count + 1)]
    pieces = list(_cut(rng, b"".join(one.data for one in asked)))
    with Wire(daemon, 60) as wire:

        def send() -> None:
            try:
                for piece in pieces:
                    wire.send(piece)
            except OSError:
                pass  # it was closed behind the last answer, which is for others to judge

        sender = threading.Thread(target=send)
        sender.start()
        try:
            for one in asked[:-1]:
                status, head, body = wire.answer()
                while status == 100:
                    status, head, body = wire.answer()
                seen = status, body[:80], len(body), body == one.body  # short, when it is shown
                assert seen == (200, one.body[:80], len(one.body), True), one.kind
                assert "connection: close" not in head
            rest = wire.rest()
        finally:
            wire.sock.shutdown(socket.SHUT_RDWR)
            sender.join()
    if asked[-1].kind == "raise":
        assert rest.startswith(b"HTTP/1.1 500 ")
    else:
        assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not rest.endswith(b"0\r\n\r\n"), "an answer that broke off looks whole"
    assert rest.count(b"HTTP/1.1 ") == 1


@pytest.fixture(params=["--native", "--no-native"])
def served(
    request: pytest.FixtureRequest, cell: tuple[str, str, str, int], service: Daemon
) -> Daemon:
    """The cell's way to serve `APP`."""
    model, io, _, threads = cell
    service.write_app(APP)
    service.expected_errors = ERRORS
    service.start("-m", model, "--io", io, "--threads", str(threads), "-w", "2", request.param)
    return service


WSGI = pytest.mark.parametrize("cell", cells("wsgi"))


@WSGI
def test_every_byte_is_seen_once_and_in_order(served: Daemon) -> None:
    print(f"FUZZ_SEED={SEED}")
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(_converse, served, SEED + n) for n in range(16)]:
            done.result()


@WSGI
def test_what_comes_behind_a_request_whose_answer_is_written_is_not_lost(served: Daemon) -> None:
    """In one piece with it, so that it is here when the application calls write(). Each byte is counted."""
    body = (_BAIT * 1100)[:40_000]
    received = 0
    for _ in range(5):
        with Wire(served) as wire:
            wire.send(
                b"GET /write/1/10 HTTP/1.1\r\nHost: a\r\n\r\n"
                b"POST /read/2/0 HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n" + body +
                b"GET /read/3/0 HTTP/1.1\r\nHost: a\r\n\r\n"
            )  # fmt: skip
            assert wire.answer()[2] == b"1:-.........."
            assert wire.answer()[2] == b"2:" + hashlib.sha256(body).hexdigest().encode()
            assert wire.answer()[2] == b"3:" + hashlib.sha256(b"").hexdigest().encode()
            assert wire.data == b""
            received += wire.received
    sent = 5 * (37 + 59 + 40_000 + 35)
    until(lambda: served.metric("forkd_received_bytes_total") >= sent, "all came")
    assert served.metric("forkd_received_bytes_total") == sent
    until(lambda: served.metric("forkd_sent_bytes_total") >= received, "all went")
    assert served.metric("forkd_sent_bytes_total") == received


HANDLER = """
    import hashlib, socketserver

    class handler(socketserver.BaseRequestHandler):
        def handle(self):
            left = int(self.request.makefile("rb", 0).readline())
            found = hashlib.sha256()
            while left and (data := self.request.recv(min(left, 65536))):
                found.update(data)
                left -= len(data)
            self.request.sendall(found.hexdigest().encode())
"""


@pytest.mark.parametrize("cell", cells("socketserver"))
@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_a_handler_that_takes_the_socket_has_all_that_came(
    cell: tuple[str, str, str, int], native: str, service: Daemon
) -> None:
    print(f"FUZZ_SEED={SEED}")
    model, io, _, threads = cell
    service.write_app(HANDLER)
    service.start(
        "-m", model, "--io", io, "--threads", str(threads), "-w", "2", native, app="app:handler"
    )
    host, _, port = service.live()["listeners"][0]["address"].rpartition(":")
    rng = random.Random(SEED)
    sent = 0
    for _ in range(30):
        body = rng.randbytes(rng.choice((0, 1, 3000, 40_000, 400_000)))
        with socket.create_connection((host, int(port)), 30) as client:
            for piece in _cut(rng, b"%d\n" % len(body) + body):
                client.sendall(piece)
            assert client.makefile("rb").read() == hashlib.sha256(body).hexdigest().encode()
        sent += len(b"%d\n" % len(body) + body)
    until(lambda: service.metric("forkd_requests_in_flight") == 0, "all handlers have returned")
    assert service.metric("forkd_received_bytes_total") == sent
    assert service.metric("forkd_sent_bytes_total") == 30 * 64
