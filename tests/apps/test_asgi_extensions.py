"""ASGI's extensions over real sockets: who is offered which, files, trailers, early hints."""

from __future__ import annotations

import gzip
import importlib.util
import os
import random
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.process.conftest import Daemon, until

from .conftest import dial, read_all, take

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("starlette") is None, reason="Starlette is not installed"
)

WAYS = {
    "native": [], "twin": ["--no-native"], "poll": ["--io", "poll"], "select": ["--io", "select"],
    "sigio": ["--io", "sigio"], "half-sync-half-async": ["-m", "half-sync-half-async"],
    "io_uring": ["-m", "proactor", "--io", "io_uring"],
}  # fmt: skip
BIG = random.Random(1).randbytes(6_000_000)
EXPECTED = ["Traceback", "the application (failed on|returned without)", "Error: ", "the file became shorter"]


def prepared(directory: Path) -> Daemon:
    service = Daemon(directory)
    take(service, "asgi_files")
    (service.dir / "file").write_bytes(b"0123456789\n")
    (service.dir / "empty").write_bytes(b"")
    (service.dir / "page.txt").write_bytes(b"page " * 1000)
    (service.dir / "big").write_bytes(BIG)
    os.mkfifo(service.dir / "fifo")
    service.expected_errors = list(EXPECTED)
    return service


@pytest.fixture(scope="module", params=WAYS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    service = prepared(tmp_path_factory.mktemp("files"))
    service.start(
        "-w", "1", "--early-hints", "--access-log", str(service.dir / "access.log"), *WAYS[request.param],
        app="asgi_files:app",
    )  # fmt: skip
    yield service
    service.finish()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Daemon]:
    service = prepared(tmp_path)
    yield service
    service.finish()


def ask(service: Daemon, path: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """The whole answer."""
    with dial(service) as client:
        lines = [f"{method} {path} HTTP/{version}", "Host: a", "Connection: close", *fields, "", ""]
        client.sendall("\r\n".join(lines).encode())
        return read_all(client)


def split(answer: bytes) -> tuple[bytes, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def sizes(service: Daemon, line: str) -> list[int]:
    """Of the answers to that request line, in the access log."""
    lines = (service.dir / "access.log").read_text().splitlines()
    return [int(each.split('" ')[1].split()[1]) for each in lines if f'"{line}"' in each]


# ---- what is offered --------------------------------------------------------------------------


def test_a_request_is_offered_what_it_can_carry(site: Daemon) -> None:
    te, every = "TE: trailers", "early_hint pathsend trailers zerocopysend"
    for fields, version, expected in [
        ((), "1.1", "early_hint pathsend zerocopysend"), ((te,), "1.1", every),
        (("TE: deflate", "te: x;q=0.5, Trailers"), "1.1", every),
        (("TE: trailers;q=1",), "1.1", "early_hint pathsend zerocopysend"),
        ((te,), "1.0", "pathsend zerocopysend"),
    ]:
        names = split(ask(site, "/offered", *fields, version=version))[1].decode()
        assert names.replace("http.response.", "") == expected


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("!http.response.pathsend", "http.response.trailers http.response.zerocopysend"),
        ("http.response.trailers, http.response.pathsend", "http.response.pathsend http.response.trailers"),
        ("http.response.pathsend, !http.response.pathsend", ""),
        ("websocket.http.response", ""),
        ("http.response.early_hint", ""),
    ],
)  # fmt: skip
def test_an_extension_is_taken_away(other: Daemon, flag: str, expected: str) -> None:
    other.start("-w", "1", "--asgi-extensions", flag, app="asgi_files:app")
    assert split(ask(other, "/offered", "TE: trailers"))[1].decode() == expected
    if "pathsend" not in expected:
        assert ask(other, "/path/file").startswith(b"HTTP/1.1 500")


def test_a_name_that_is_none_is_refused(other: Daemon) -> None:
    done = other.run("check", *other.flags("--asgi-extensions", "pathsend", app="asgi_files:app"))
    assert done.returncode != 0
    assert "must be some of http.response." in done.stderr


# ---- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "head", "body"),
    [
        ("/path/file", b"Content-Length: 11", b"0123456789\n"),
        ("/path/file?11", b"Content-Length: 11", b"0123456789\n"),
        ("/path/file?4", b"Content-Length: 4", b"0123"),  # it has grown since the application looked
        ("/path/empty", b"Content-Length: 0", b""),
        ("/path/empty?0", b"Content-Length: 0", b""),
        ("/path/file?0", b"Content-Length: 0", b""),
        ("/path/empty-status", b"204 No Content", b""),
        ("/path/file?12", b"500 Internal", b"the application failed; see the error log\n"),  # has shrunk
        ("/path/nothing", b"500 Internal", b"the application failed; see the error log\n"),
        ("/path/fifo", b"500 Internal", b"the application failed; see the error log\n"),
        ("/path/.", b"500 Internal", b"the application failed; see the error log\n"),
        ("/pieces/24", b"Content-Length: 24", b"<56789|012312123456789\n>"),
    ],
)  # fmt: skip
def test_a_file(site: Daemon, path: str, head: bytes, body: bytes) -> None:
    got, read = split(ask(site, path))
    assert head in got + b"\r\n"
    assert read.endswith(body) and bool(read) is bool(body)


def test_pieces_of_files_in_chunks(site: Daemon) -> None:
    chunks = (b"<", b"567", b"89", b"|", b"0123", b"12", b"123456789\n", b">")
    framed = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n"
    head, body = split(ask(site, "/pieces"))
    assert b"Transfer-Encoding: chunked" in head
    assert body == framed
    assert split(ask(site, "/pieces", version="1.0"))[1] == b"".join(chunks)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("twice", "after the last one"), ("mixed", "comes now, not 'http.response.pathsend'"),
        ("pipe", "is no regular file"), ("closed", "Bad file descriptor"), ("offset", "offset -1"),
        ("no-file", "AttributeError"), ("long", "more bytes than its Content-Length"),
        ("trailers-early", "comes now, not"), ("trailers-none", "after the last one"),
        ("trailers-field", "RFC 9110, 6.5.1"), ("trailers-line", "bad value of header"),
        ("trailers-body", "the last http.response.trailers comes now, not 'http.response.body'"),
    ],
)  # fmt: skip
def test_a_message_out_of_place_is_an_exception_there(site: Daemon, case: str, said: str) -> None:
    ask(site, f"/wrong/{case}", "TE: trailers")
    lines = until(lambda: re.findall(f"wrong {case}: .*", site.log()), "it is an exception")
    assert said in lines[-1]


def test_head_is_offered_no_files(site: Daemon) -> None:
    ask(site, "/wrong/head", method="HEAD")
    said = "wrong head: RuntimeError the last http.response.body comes now"
    until(lambda: said in site.log(), "it is an exception")


def test_a_file_without_permission(site: Daemon) -> None:
    secret = site.dir / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0)
    expected = b"HTTP/1.1 200" if os.access(secret, os.R_OK) else b"HTTP/1.1 500"  # root may read it
    assert ask(site, "/path/secret").startswith(expected)


def test_large_files_arrive_whole_to_slow_and_fast_clients(site: Daemon) -> None:
    with dial(site) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.sendall(b"GET /path/big HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(3):
            assert split(ask(site, "/path/big"))[1] == BIG
        # What follows on the connection is answered after it.
        slow.sendall(b"GET /path/file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answers = read_all(slow)
    body = answers.partition(b"\r\n\r\n")[2]
    assert body[: len(BIG)] == BIG
    assert body[len(BIG) :].endswith(b"\r\n\r\n0123456789\n")
    until(lambda: sizes(site, "GET /path/big HTTP/1.1")[-4:] == [len(BIG)] * 4, "the sizes are in the log")


def held(service: Daemon, path: str) -> socket.socket:
    """A client that has the beginning of that answer, and reads no more of it."""
    client = dial(service)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    client.settimeout(20)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert client.recv(1000).startswith(b"HTTP/1.1 200")
    return client


def test_send_returns_when_the_file_is_sent(site: Daemon) -> None:
    before = site.log().count("path: big is sent")
    with held(site, "/path/big") as client:
        for _ in range(3):
            assert split(ask(site, "/path/file"))[1] == b"0123456789\n"
        assert site.log().count("path: big is sent") == before
        got = 0
        while got < len(BIG) - 2000:
            got += len(client.recv(65536))
        until(lambda: site.log().count("path: big is sent") > before, "the application goes on")


def test_no_disconnect_is_told_while_the_file_is_sent(site: Daemon) -> None:
    with held(site, "/listens") as client:
        assert split(ask(site, "/path/file"))[1] == b"0123456789\n"
        assert "listens: " not in site.log()
        got = 0
        while got < len(BIG) - 2000:
            got += len(client.recv(65536))
        until(lambda: "listens: http.disconnect" in site.log(), "it is told when the answer is over")
    assert "listens: sent first" in site.log()
    with held(site, "/listens"):
        pass
    until(lambda: site.log().count("listens: http.disconnect") == 2, "it is told when the client leaves")


@pytest.mark.parametrize("how", ["leaves", "resets"])
def test_a_client_that_leaves_in_the_middle(site: Daemon, how: str) -> None:
    line, sent = "GET /path/big?6000000 HTTP/1.1", "path: big is sent"
    before, done = len(sizes(site, line)), site.log().count(sent)
    client = held(site, "/path/big?6000000")
    if how == "resets":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    until(lambda: len(sizes(site, line)) > before, "it is over")
    assert 0 < sizes(site, line)[-1] < len(BIG)  # what was sent, and not what was to be
    until(lambda: site.log().count(sent) > done, "the application goes on")
    site.settles(0, "forkd_requests_in_flight")


def test_a_wait_that_is_cancelled_loses_nothing(site: Daemon) -> None:
    with held(site, "/cancelled") as client:
        until(lambda: "cancelled: the file is closed" in site.log(), "its waits are over")
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += client.recv(1 << 20)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (BIG, BIG, b"end"))
    whole = chunks + b"0\r\n\r\n"
    assert whole.endswith(body) and len(body) > len(whole) - 1000


def test_a_file_that_shrinks_while_it_is_sent(site: Daemon) -> None:
    path = site.dir / "shrinks"
    path.write_bytes(BIG)
    with held(site, "/path/shrinks") as client:
        os.truncate(path, 100)
        read = read_all(client)  # to the end of the connection
    assert len(read) < len(BIG)
    until(lambda: "GET /path/shrinks HTTP/1.1: the file became shorter" in site.log(), "it is in the log")
    until(lambda: sizes(site, "GET /path/shrinks HTTP/1.1"), "the access log has it")
    assert sizes(site, "GET /path/shrinks HTTP/1.1")[-1] < len(BIG)


def test_a_file_that_is_replaced_grows_and_vanishes_while_it_is_sent(site: Daemon) -> None:
    path = site.dir / "changes"
    path.write_bytes(BIG)
    with held(site, "/path/changes") as client:
        with path.open("ab") as file:
            file.write(b"more")
        path.unlink()
        got = 0
        while got < len(BIG) - 1000:
            got += len(client.recv(1 << 20))
        client.sendall(b"GET /path/file HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert read_all(client).endswith(b"\r\n\r\n0123456789\n")


def test_the_denial_of_a_websocket_is_offered(other: Daemon) -> None:
    upgrade = (
        "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    )  # fmt: skip
    with_it, without = ["", "418 "], ["!websocket.http.response", "500 Internal"]
    for flag, status in (with_it, without):
        other.ok("restart" if other.pidfile.exists() else "start", *other.flags(
            *(["--asgi-extensions", flag] if flag else []), "-w", "1", app="asgi_files:app"
        ))  # fmt: skip
        with dial(other) as client:
            client.sendall("\r\n".join(["GET /denies HTTP/1.1", "Host: a", *upgrade, "", ""]).encode())
            assert read_all(client).startswith(f"HTTP/1.1 {status}".encode())


def test_no_descriptor_is_left(site: Daemon) -> None:
    def held_open() -> int:
        (pid,) = site.worker_pids()
        found = [Path(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        return sum(os.path.exists(each) and site.dir / "big" == each.resolve() for each in found)

    threads = [threading.Thread(target=ask, args=(site, "/path/big")) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clients = [held(site, "/path/big") for _ in range(3)]
    assert held_open() == 3
    for client in clients:
        client.close()
    until(lambda: not held_open(), "all are closed")


def test_a_download_is_cut_at_nine_tenths_of_the_grace(other: Daemon) -> None:
    other.start("-w", "1", "--graceful-timeout", "2", app="asgi_files:app")
    with held(other, "/path/big") as client:
        other.signal(signal.SIGTERM)
        until(lambda: "answers cut: GET /path/big HTTP/1.1" in other.log(), "its time is over")
        assert len(read_all(client)) < len(BIG)
        other.gone()


def test_a_fast_download_lets_others_have_their_turn(other: Daemon) -> None:
    size = 1 << 36
    with (other.dir / "holes").open("wb") as file:
        file.truncate(size)
    other.start("-w", "1", app="asgi_files:app")
    got = [0]

    def download() -> None:
        with dial(other) as client:
            client.sendall(b"GET /path/holes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            while not enough.is_set():
                got[0] += client.recv_into(buffer)

    buffer, enough = bytearray(1 << 20), threading.Event()
    thread = threading.Thread(target=download)
    thread.start()
    until(lambda: got[0], "it has begun")
    for _ in range(5):
        assert split(ask(other, "/path/file"))[1] == b"0123456789\n"
    enough.set()
    thread.join()
    assert got[0] < size


def test_a_download_that_nobody_reads_is_given_up(other: Daemon) -> None:
    log = other.dir / "access.log"
    other.start("-w", "1", "--write-timeout", "1", "--access-log", str(log), app="asgi_files:app")
    line = "GET /path/big HTTP/1.1"
    with held(other, "/path/big"):
        until(lambda: sizes(other, line), "it is over")
        assert 0 < sizes(other, line)[-1] < len(BIG)
        until(lambda: "path: big is sent" in other.log(), "the application goes on")


def test_a_download_has_its_request_timeout(other: Daemon) -> None:
    other.start("-w", "1", "--request-timeout", "1", app="asgi_files:app")
    with held(other, "/path/big") as client:
        until(lambda: "it has taken longer than" in other.log(), "its time is over")
        with pytest.raises(ConnectionResetError):
            read_all(client)


# ---- Starlette's files, behind middlewares ------------------------------------------------------


MIDDLEWARES = ["plain", "base", "gzip", "counting", "all"]


@pytest.mark.parametrize("name", MIDDLEWARES)
def test_static_files(site: Daemon, name: str) -> None:
    host, port = site.address
    page = b"page " * 1000
    with httpx.Client(base_url=f"http://{host}:{port}/{name}", timeout=20) as client:
        plain = {"Accept-Encoding": "identity"}
        got = client.get("/page.txt", headers=plain)
        assert (got.status_code, got.content) == (200, page)
        assert got.headers["content-length"] == "5000"
        packed = client.get("/page.txt", headers={"Accept-Encoding": "gzip"})
        assert packed.content == page
        assert client.get("/download", headers=plain).content == BIG
        for wanted, status, body in [
            ("bytes=5-9", 206, b"page "), ("bytes=-5", 206, b"page "), ("bytes=0-", 206, page),
            ("bytes=9000-", 416, None), ("bytes=0-4,100-104", 206, None),
        ]:  # fmt: skip
            part = client.get("/page.txt", headers={**plain, "Range": wanted})
            assert part.status_code == status
            if body is not None:
                assert part.content == body
        head = client.head("/page.txt", headers=plain)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == "5000"
        fresh = client.get("/page.txt", headers={**plain, "If-None-Match": got.headers["etag"]})
        assert (fresh.status_code, fresh.content) == (304, b"")
        assert client.get("/nothing").status_code == 404
        assert client.get("/empty", headers=plain).content == b""
        assert client.get("/fifo").status_code in (404, 500)
        if name in ("base", "all"):
            assert got.headers["x-middleware"] == "was here"


def test_what_counts_bodies_counts_them_without_pathsend(other: Daemon) -> None:
    other.start("-w", "1", app="asgi_files:app")
    ask(other, "/counting/page.txt")
    until(lambda: "counted: 0" in other.log(), "it has seen no body")
    other.ok("restart", *other.flags("--asgi-extensions", "!http.response.pathsend", app="asgi_files:app"))
    assert split(ask(other, "/counting/page.txt"))[1] == b"page " * 1000
    until(lambda: "counted: 5000" in other.log(), "it has seen it")


# ---- trailers, early hints --------------------------------------------------------------------


def test_trailers(site: Daemon) -> None:
    head, body = split(ask(site, "/trailers", "TE: trailers"))
    assert b"Trailer: x-sum, X-Two" in head and b"chunked" in head and b"Content-Length" not in head
    assert body == b"2\r\nbo\r\n2\r\ndy\r\n0\r\nx-sum: 1\r\nX-Two: 2\r\n\r\n"
    head, body = split(ask(site, "/trailers"))
    assert b"Content-Length: 4" in head and b"Trailer" not in head and body == b"body"
    assert split(ask(site, "/trailers", "TE: trailers", version="1.0"))[1] == b"body"
    assert split(ask(site, "/trailers", "TE: trailers", method="HEAD"))[1] == b""
    # Those that do not come are seen to be missing.
    body = split(ask(site, "/trailers/forgets", "TE: trailers"))[1]
    assert body.startswith(b"2\r\nbo\r\n") and not body.endswith(b"0\r\n\r\n")
    body = split(ask(site, "/trailers-of-a-file", "TE: trailers"))[1]
    assert body == b"b\r\n0123456789\n\r\n0\r\n\r\n"


def test_early_hints_come_before_the_head_wherever_the_start_is(site: Daemon) -> None:
    answer = ask(site, "/hints")
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    assert answer.startswith(hint * 2 + b"HTTP/1.1 200 OK")
    assert answer.endswith(b"1\r\nx\r\n1\r\ny\r\n0\r\n\r\n")


def test_gzip_is_what_the_middleware_makes_of_small_files(site: Daemon) -> None:
    """GZipMiddleware does not look into files that are sent by path, and leaves them as they are."""
    body = split(ask(site, "/gzip/page.txt", "Accept-Encoding: gzip"))[1]
    assert (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body) == b"page " * 1000
