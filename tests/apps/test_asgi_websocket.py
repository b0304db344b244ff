"""WebSockets over real sockets: by the client of `websockets`, and by bytes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.test_frames import masked
from tests.process.conftest import Daemon, until

from .conftest import FAILURES, dial, read_all, take

client_of = pytest.importorskip("websockets.sync.client")
exceptions = pytest.importorskip("websockets.exceptions")
deflate = pytest.importorskip("websockets.extensions.permessage_deflate")

WAYS = {
    "native": [], "twin": ["--no-native"], "poll": ["--io", "poll"],
    "half-sync-half-async": ["-m", "half-sync-half-async"],
    "io_uring": ["-m", "proactor", "--io", "io_uring"],
}  # fmt: skip
ERRORS = [
    *FAILURES, "the application failed on GET /socket", "has neither accepted nor closed",
    "returned without the end of its answer",
]  # fmt: skip
UNHELD = """
import asyncio, gc

async def read(receive, send, left):
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    left.set_result(None)

async def app(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    loop = asyncio.get_running_loop()
    loop.create_task(read(receive, send, left := loop.create_future()))
    while not left.done():
        await asyncio.sleep(0.01)
        gc.collect()
"""


@pytest.fixture(scope="module", params=WAYS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    service = Daemon(tmp_path_factory.mktemp("websocket"))
    take(service, "asgi_site")
    service.expected_errors = list(ERRORS)
    flags = ["-w", "1", "--ws-max-message", "1M", "--ws-ping-interval", "1", "--ws-ping-timeout", "1"]
    service.start(*flags, *WAYS[request.param], app="asgi_site:app")
    yield service
    service.finish()


def connect(service: Daemon, path: str, **options: object):  # type: ignore[no-untyped-def]
    host, port = service.address
    options = {"compression": None, "ping_interval": None, "max_size": None} | options
    return client_of.connect(f"ws://{host}:{port}/socket/{path}", **options)


def handshake(path: str = "echo", *fields: str, key: str = "dGhlIHNhbXBsZSBub25jZQ==") -> bytes:
    usual = [
        f"GET /socket/{path} HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: keep-alive, Upgrade",
        *([f"Sec-WebSocket-Key: {key}"] if key else []),
    ]  # fmt: skip
    fields = fields or ("Sec-WebSocket-Version: 13",)
    return "\r\n".join([*usual, *fields, "", ""]).encode()


@contextlib.contextmanager
def raw(service: Daemon, early: bytes = b"", path: str = "echo") -> Iterator[socket.socket]:
    """A connection after its handshake."""
    with dial(service) as client:
        client.sendall(handshake(path) + early)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        yield client


def test_messages_come_back(site: Daemon) -> None:
    with connect(site, "echo") as client:
        for message in ("é€", b"bytes", "", b"", "x" * 70_000, bytes(1 << 20)):
            client.send(message)
            assert client.recv() == message
        assert client.ping(b"payload").wait(10)
    until(lambda: "socket: websocket.disconnect 1000 ''" in site.log(), "the application has seen it")
    until(lambda: "socket: ClientDisconnected" in site.log(), "and may send nothing more")


def test_a_scope(site: Daemon) -> None:
    with connect(site, "echo?a=b", subprotocols=["one", "two"]) as client:
        assert client.subprotocol == "one"
        assert client.response.headers["x-made"] == "by the application"
        client.send("facts")
        facts = json.loads(client.recv())
    assert (facts["type"], facts["scheme"], facts["subprotocols"]) == ("websocket", "ws", ["one", "two"])
    assert facts["asgi"]["spec_version"] == "2.5"
    assert "websocket.http.response" in facts["extensions"] and "method" not in facts


@pytest.mark.parametrize(
    ("raw", "status", "fields"),
    [
        (handshake("echo", "Sec-WebSocket-Version: 8"), b"426", b"Sec-WebSocket-Version: 13"),
        (handshake("echo", "X: y"), b"426", b""), (handshake(key=""), b"400", b""),
        (handshake(key="c2hvcnQ="), b"400", b""), (handshake(key="dGhlIHNhbXBsZSBub25jZQ="), b"400", b""),
        (handshake("echo", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
         b"400", b""),
        (handshake("close"), b"403", b""), (handshake("deny"), b"418", b"x-why: tea"),
        (handshake("returns"), b"500", b""), (handshake("raises"), b"500", b""),
        (handshake("denies-without-body"), b"500", b""), (handshake("denies-and-raises"), b"500", b""),
    ],
)  # fmt: skip
def test_a_handshake_that_is_not_accepted(site: Daemon, raw: bytes, status: bytes, fields: bytes) -> None:
    with dial(site) as client:
        client.sendall(raw)
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert fields in answer
    if status == b"418":
        assert b"coffee" in answer


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "gone"), (3000, "é"), (4999, "x" * 123)])
def test_codes_of_the_application(site: Daemon, code: int, reason: str) -> None:
    with connect(site, "echo") as client:
        client.send(f"close {code} {reason}")
        with pytest.raises(exceptions.ConnectionClosed) as caught:
            client.recv()
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)
    until(lambda: f"socket: websocket.disconnect {code} {reason!r}" in site.log(), "it is told so, too")


@pytest.mark.parametrize(("path", "code"), [("accepts-and-returns", 1000), ("accepts-and-raises", 1011)])
def test_an_application_that_ends(site: Daemon, path: str, code: int) -> None:
    with connect(site, path) as client, pytest.raises(exceptions.ConnectionClosed) as caught:
        client.recv()
    assert caught.value.rcvd.code == code


@pytest.mark.parametrize(("sent", "seen"), [(1001, 1001), (4000, 4000), (None, 1005)])
def test_codes_of_the_client(site: Daemon, sent: int | None, seen: int) -> None:
    with raw(site) as client:
        client.sendall(masked(8, b"" if sent is None else struct.pack("!H", sent) + b"bye"))
        answer = read_all(client)
        assert answer == (b"\x88\x00" if sent is None else b"\x88\x02" + struct.pack("!H", sent))
    reason = "" if sent is None else "bye"
    until(lambda: f"socket: websocket.disconnect {seen} {reason!r}" in site.log(), "it is told")


def test_the_code_of_a_client_that_does_not_wait_for_ours(site: Daemon) -> None:
    """Its connection has ended when our Close is sent; the first that fails there is behind our 101."""
    before = site.log().count("tallies: 0 4001")
    (pid,) = site.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        with dial(site) as client:
            client.sendall(handshake("tallies") + masked(8, struct.pack("!H", 4001)))
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: site.log().count("tallies: 0 4001") > before, "its code")


def test_a_client_that_only_leaves(site: Daemon) -> None:
    before = site.log().count("socket: websocket.disconnect 1006 ''")
    with raw(site):
        pass
    with raw(site) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: site.log().count("socket: websocket.disconnect 1006 ''") == before + 2, "1006, twice")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (masked(1, b"\xff"), 1007), (masked(3, b""), 1002), (b"\x81\x01a", 1002),
        (masked(2, bytes((1 << 20) + 1)), 1009),
    ],
)  # fmt: skip
def test_a_client_that_does_wrong(site: Daemon, data: bytes, code: int) -> None:
    with raw(site) as client:
        client.sendall(data)
        assert struct.unpack("!H", read_all(client)[2:4]) == (code,)
    until(lambda: f"socket: websocket.disconnect {code}" in site.log(), "the application is told")


def test_frames_that_come_with_the_handshake(site: Daemon) -> None:
    early = masked(1, b"early", fin=False) + masked(9, b"!") + masked(0, b" bird")
    with raw(site, early) as client:
        read = b""
        while len(read) < 15:
            read += client.recv(100)
        assert read == b"\x8a\x01!\x81\x0aearly bird"


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_many_messages_keep_their_order(site: Daemon, count: int) -> None:
    """None is lost or doubled by a wait that ends early, whatever kind of wait it is."""
    chance = random.Random(count)
    with connect(site, f"counts?{chance.random()}") as client:
        for number in range(count):
            client.send(str(number))
            if chance.random() < 0.3:
                time.sleep(chance.random() * 0.001)
        client.send("end")
        assert client.recv() == f"{count} in order"


def test_an_application_that_does_not_receive_holds_its_client(site: Daemon) -> None:
    with raw(site, path="never-receives") as client:
        data = masked(2, bytes(65536)) * 400 + masked(2, b"last")
        sent = threading.Thread(target=lambda: client.sendall(data))
        sent.start()
        read = b""
        while b"\x81" not in read:  # beyond pings
            read = client.recv(100)
        assert read.endswith(b"401")
        sent.join()


def test_a_slow_reader_holds_the_application(site: Daemon) -> None:
    with raw(site, path="floods") as client:
        client.settimeout(10)
        before = -1
        while (now := int(site.get("/sent"))) != before:
            before = now
            time.sleep(0.2)
        assert 0 < now < 900
        count = 0
        while data := client.recv(1 << 20):
            count += len(data)
            if count > 1000 * 65536:
                break


def test_messages_out_of_place_are_exceptions_there(site: Daemon) -> None:
    with connect(site, "wrong") as client:
        assert client.recv() == "17 of 17"


def test_pings_keep_it_and_silence_ends_it(site: Daemon) -> None:
    with connect(site, "echo") as client:  # whose thread answers
        time.sleep(3)
        client.send("still there")
        assert client.recv() == "still there"
    with raw(site) as client:
        read = read_all(client)
    assert read.startswith(b"\x89\x00")
    assert read[2:] == b"\x88\x0e\x03\xf3ping timeout"


def test_a_client_that_is_not_read_is_not_judged_either(site: Daemon) -> None:
    """It owes no answer to a ping while nobody receives what it has sent."""
    with raw(site, masked(1, b"x") * 40, "sleeps?3.5") as client:
        assert read_all(client) == b"\x81\x05awake\x88\x02\x03\xe8"


def test_a_client_that_is_not_read_is_seen_to_leave(site: Daemon, request: pytest.FixtureRequest) -> None:
    """By a reset, also where nobody receives what it has sent; not with every io (docs/architecture.md)."""
    if request.node.callspec.params["site"] == "io_uring":
        pytest.skip("seen at the next send")
    with raw(site, masked(1, b"x") * 40, "sleeps?8") as client:
        until(lambda: websockets(site) == 1, "it is counted")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: websockets(site) == 0, "it is not any more", 5)


def websockets(service: Daemon) -> int:
    return sum(worker["websockets"] for worker in service.live()["workers"])


BROWSER = (
    "Sec-WebSocket-Version: 13", "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0",
    "Accept: */*", "Accept-Language: en-US,en;q=0.5", "Accept-Encoding: gzip, deflate, br, zstd",
    "Origin: http://127.0.0.1", "Pragma: no-cache", "Cache-Control: no-cache", "Cookie: id={}",
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
)  # fmt: skip


@pytest.mark.parametrize("flags", [["--ws-ping-interval", "9"], ["--ws-deflate"]], ids=" ".join)
def test_an_idle_one_holds_little(service: Daemon, flags: list[str]) -> None:
    """Beyond what is allocated once; with compression, the end of what its client has sent besides."""
    take(service, "asgi_site")
    service.start("-w", "1", "--worker-connections", "1000", *flags, app="asgi_site:app")
    worker, address = service.live()["workers"][0]["pid"], service.address
    deflates, data = "--ws-deflate" in flags, b""
    if deflates:
        squeeze = zlib.compressobj(wbits=-12)
        message = squeeze.compress(random.Random(1).randbytes(4096)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
        data = masked(2, message[:-4], reserved=0x40)

    def open_more(count: int) -> int:
        """Returns the memory of the worker."""
        clients = [held.enter_context(socket.create_connection(address, 10)) for _ in range(count)]
        for number, client in enumerate(clients):
            fields = [field.format(number) for field in BROWSER]
            client.sendall(handshake("echo", *fields) + data + masked(2, b"x"))
        for client in clients:
            came = b""
            while not came.endswith(b"\x82\x01x"):
                came += client.recv(8192)
        found = Path(f"/proc/{worker}/smaps_rollup").read_text()
        return 1024 * sum(int(line.split()[1]) for line in found.splitlines() if line.startswith("Private_"))

    with contextlib.ExitStack() as held:
        before = open_more(50)
        each = (open_more(250) - before) / 250
    assert each <= (16_000 if deflates else 8_000)


# ---- the end of a worker ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reload", "stop"])
def test_a_worker_that_ends_says_1012(service: Daemon, how: str) -> None:
    take(service, "asgi_site")
    service.start("-w", "1", "--drain-spread", "2", app="asgi_site:app")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(service, "echo")) for _ in range(20)]
        for client in clients:
            client.send("hello")
            assert client.recv() == "hello"
        if how == "reload":
            service.ok("reload", "--name", service.name, "--control", str(service.control))
        else:
            service.signal(signal.SIGTERM)
        for client in clients:
            with pytest.raises(exceptions.ConnectionClosed) as caught:
                client.recv(timeout=15)
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1012, "service restart")
    until(lambda: service.log().count("disconnect 1012 'service restart'") == 20, "the application is told")
    until(lambda: "the lifespan is over" in service.log(), "its lifespan ends")


def test_a_task_that_nobody_holds_receives(service: Daemon) -> None:
    """What waits in receive() is held by its connection, as by a transport of asyncio's."""
    service.write_app(UNHELD)
    service.start("-w", "1", "--lifespan", "off")
    with connect(service, "") as client:
        for text in "ab":
            client.send(text)
            assert client.recv(timeout=10) == text
    service.settles(0, "forkd_requests_in_flight")


def test_no_message_is_lost_at_a_reload(service: Daemon) -> None:
    """All that was sent before the client has seen the Close is answered, or was never taken: none is lost in
    between. A client that always has something to say is closed, too."""
    take(service, "asgi_site")
    service.start("-w", "1", "--graceful-timeout", "20", "--drain-spread", "1", app="asgi_site:app")
    with connect(service, "echo") as client:
        service.ok("reload", "--name", service.name, "--control", str(service.control))
        number = 0
        with pytest.raises(exceptions.ConnectionClosed) as caught:
            while True:
                client.send(str(number))
                assert client.recv(timeout=10) == str(number)
                number += 1
        assert caught.value.rcvd.code == 1012
    assert "answers cut" not in service.log()


def test_all_that_a_client_sends_before_it_closes_is_received(service: Daemon) -> None:
    take(service, "asgi_site")
    service.start("-w", "1", "--drain-spread", "0", app="asgi_site:app")
    chance, number = random.Random(5), 0
    with connect(service, "tallies") as client:
        service.ok("reload", "--name", service.name, "--control", str(service.control))
        with contextlib.suppress(exceptions.ConnectionClosed):
            while True:
                for _ in range(chance.randrange(1, 200)):
                    client.send(str(number))
                    number += 1
                time.sleep(chance.choice((0.001, 1.5)))
        assert client.protocol.close_rcvd.code == 1012
    until(lambda: f"tallies: {number} 1012" in service.log(), "none was lost")


@pytest.mark.parametrize("flag", ["--native", "--no-native"])
def test_an_application_that_answers_is_given_what_came_before_the_close(service: Daemon, flag: str) -> None:
    """What it answers then is sent to nobody, and is no error, which would end it."""
    take(service, "asgi_site")
    service.start("-w", "1", flag, "--drain-spread", "1", app="asgi_site:app")
    with connect(service, "answers-slowly") as client:
        service.ok("reload", "--name", service.name, "--control", str(service.control))
        for number in range(8):
            client.send(str(number))
        echoes = 0
        with pytest.raises(exceptions.ConnectionClosed) as caught:
            while client.recv(timeout=10):
                echoes += 1
        assert caught.value.rcvd.code == 1012
    until(lambda: "slowly: 8\n" in service.log(), "it has received all")
    assert echoes < 8


@pytest.mark.parametrize("seconds", ["3", "20"])
def test_a_client_that_does_not_answer_the_close(service: Daemon, seconds: str) -> None:
    """The task that receives is told before one that sends has an error."""
    take(service, "asgi_site")
    service.start("-w", "1", "--drain-spread", "0", "--graceful-timeout", seconds, app="asgi_site:app")
    with raw(service, path="ticks") as client:
        service.ok("reload", "--name", service.name, "--control", str(service.control))
        client.settimeout(15)
        assert b"service restart" in read_all(client)
    until(lambda: "ticks: 1012\n" in service.log(), "the application is told")
    assert "failed" not in service.log() and "cancelled" not in service.log()


def test_a_message_in_fragments_is_not_cut_through(service: Daemon) -> None:
    take(service, "asgi_site")
    service.start("-w", "1", "--drain-spread", "0", app="asgi_site:app")
    with raw(service, masked(1, b"in ", fin=False)) as client:
        service.ok("reload", "--name", service.name, "--control", str(service.control))
        client.settimeout(2.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.sendall(masked(0, b"two"))
        client.settimeout(15)
        assert read_all(client).startswith(b"\x81\x06in two\x88\x11\x03\xf4service restart")


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://a.example", 101), ("HTTP://B.example:8000", 101), ("https://c.example", 403), ("null", 403),
     ("http://a.example", 403), ("", 101), ("https://d.example", 101), ("https://d.example:80", 403)],
)  # fmt: skip
def test_origins(service: Daemon, origin: str, status: int) -> None:
    take(service, "asgi_site")
    origins = "https://a.example, http://b.example:8000, https://D.example:443"
    flags = ["--ws-origins", origins, "--lifespan", "on"]
    service.start("-w", "1", *flags, app="asgi_site:app")
    fields = ["Sec-WebSocket-Version: 13", *([f"Origin: {origin}"] if origin else [])]
    with dial(service) as client:
        client.sendall(handshake("echo", *fields))
        assert client.recv(1000).startswith(b"HTTP/1.1 %d " % status)


# ---- permessage-deflate -----------------------------------------------------------------------


@pytest.fixture(scope="module", params=[[], ["--no-native"], ["-m", "proactor", "--io", "io_uring"]])
def deflating(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    service = Daemon(tmp_path_factory.mktemp("deflate"))
    take(service, "asgi_site")
    service.expected_errors = list(ERRORS)
    service.start("-w", "1", "--ws-max-message", "1M", "--ws-deflate", *request.param, app="asgi_site:app")
    yield service
    service.finish()


@pytest.mark.parametrize("parameters", [{}, {"client_max_window_bits": None}, {"server_max_window_bits": 9}])
def test_compressed_messages_come_back(deflating: Daemon, parameters: dict[str, object]) -> None:
    offer = deflate.ClientPerMessageDeflateFactory(**{"client_max_window_bits": True} | parameters)
    with connect(deflating, "echo", extensions=[offer]) as client:
        assert "permessage-deflate" in client.response.headers["sec-websocket-extensions"]
        for message in ("é€" * 1000, "", "short", bytes(1 << 20), random.Random(1).randbytes(5000) * 20) * 2:
            client.send(message)
            assert client.recv() == message


def test_nothing_is_compressed_for_a_client_that_does_not_offer_it(deflating: Daemon, site: Daemon) -> None:
    for service, options in ((deflating, {}), (site, {"compression": "deflate"})):
        with connect(service, "echo", **options) as client:
            assert "sec-websocket-extensions" not in client.response.headers
            client.send("x" * 1000)
            assert client.recv() == "x" * 1000


def test_a_bomb_is_closed_with_1009(deflating: Daemon) -> None:
    with connect(deflating, "echo", compression="deflate") as client:
        client.send(bytes((1 << 20) + 1))  # 1 KiB on the wire
        with pytest.raises(exceptions.ConnectionClosed) as caught:
            client.recv()
        assert caught.value.rcvd.code == 1009


def test_many_long_messages_in_a_few_bytes_are_inflated_as_they_are_received(deflating: Daemon) -> None:
    """1 MiB each, of 1 KiB: an application that does not receive them holds no more than one."""
    before = rss(deflating)
    with connect(deflating, "never-receives", compression="deflate") as client:
        for _ in range(300):
            client.send(bytes(1 << 20))
        client.send(b"last")
        most, answer = 0, ""
        while not answer:
            most = max(most, rss(deflating))
            with contextlib.suppress(TimeoutError):
                answer = client.recv(timeout=0.05)
        assert answer == "301"
    assert most - before < 40 << 20


def rss(service: Daemon) -> int:
    """Bytes, of the worker."""
    status = Path(f"/proc/{service.get('/pid')}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def test_a_client_that_does_not_answer_a_close_is_not_waited_for(site: Daemon) -> None:
    """Its messages are more than are read ahead, and nobody receives them any more."""
    with raw(site, b"", "floods-and-returns") as client:
        client.sendall(masked(2, b"x") * 100)
        assert read_all(client) == b"\x88\x02\x03\xe8"
    with raw(site, b"", "closes-and-stays") as client:
        client.sendall(masked(2, b"x") * 100)
        assert read_all(client) == b"\x88\x02\x03\xe8"
