"""nginx's uwsgi_pass in front of forkd, by the sample of etc/: what comes through, what is refused and by
whom, and requests that go on while workers are replaced and killed."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Daemon, until
from .nginx import SAMPLE, nginx

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx (scripts/apt nginx)")

UWSGI = SAMPLE.with_name("nginx-uwsgi.conf")
APP = """
    import hashlib, json
    from pathlib import Path

    def app(environ, start):
        path, body = environ["PATH_INFO"], environ["wsgi.input"].read()
        if path == "/old" and environ.get("HTTP_IF_MODIFIED_SINCE"):
            start("304 Not Modified", [("ETag", '"a"')])
            return []
        if path == "/pieces":
            start("200 OK", [("X-Sum", "none")])
            return (b"piece %d;" % n * 1000 for n in range(300))
        if path == "/large":
            start("200 OK", [("Content-Length", "5000000")])
            return [b"l" * 5000000]
        if path == "/file":
            start("200 OK", [])
            return environ["wsgi.file_wrapper"](open(Path(__file__).with_name("file"), "rb"))
        if path == "/short":
            start("200 OK", [("Content-Length", "100")])
            return [b"short"]
        names = "PATH_INFO", "SCRIPT_NAME", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"
        told = {name: environ[name] for name in names if name in environ}
        told |= {"sum": hashlib.sha256(body).hexdigest(), "x": len(environ.get("HTTP_X", ""))}
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(told).encode()]
"""


class Client:
    """One connection to nginx, kept as long as nginx keeps it."""

    def __init__(self, front: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*front, timeout=30)

    def ask(self, method: str, path: str, body: Any = None, **fields: str) -> tuple[int, Any, bytes]:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        self._connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()


def sample(*swaps: tuple[str, str]) -> str:
    text = UWSGI.read_text()
    for found, wanted in swaps:
        assert text.count(found) == 1, found
        text = text.replace(found, wanted)
    return text


@contextlib.contextmanager
def served(
    service: Daemon, *flags: str, unix: bool = False, text: str = ""
) -> Iterator[tuple[str, int]]:
    service.write_app(APP)
    (service.dir / "file").write_bytes(b"f" * 3_000_000)
    where = f"unix:{service.dir}/s" if unix else "127.0.0.1:0"
    service.start("-b", f"{where}?protocol=uwsgi", "-w", "2", *flags)
    back = where if unix else f"127.0.0.1:{service.address[1]}"
    with nginx(service.dir, back, text or sample()) as front:
        yield front


@pytest.mark.parametrize("flags", [
    ["--native"], ["--no-native"], ["--threads", "4"], ["-m", "process-per-connection"], ["-m", "proactor"],
    ["-m", "half-sync-half-async"],
], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_what_comes_through(service: Daemon, flags: list[str], unix: bool) -> None:
    def same(found: tuple[int, Any, bytes], body: bytes) -> dict[str, Any]:
        assert found[0] == 200
        told: dict[str, Any] = json.loads(found[2])
        assert told.pop("sum") == hashlib.sha256(body).hexdigest()
        return told

    with served(service, *flags, unix=unix) as front:
        client = Client(front)  # one connection, and nginx keeps it
        for _ in range(2):
            assert same(client.ask("GET", "/a%20b"), b"")["PATH_INFO"] == "/a b"
            assert same(client.ask("POST", "/", b"small"), b"small")["CONTENT_LENGTH"] == "5"
            large = os.urandom(3_000_000)
            assert same(client.ask("PUT", "/", large), large)["CONTENT_LENGTH"] == "3000000"
            pieces = [os.urandom(100_000) for _ in range(9)]
            told = same(client.ask("POST", "/", iter(pieces), Transfer_Encoding="chunked"), b"".join(pieces))
            assert told["CONTENT_LENGTH"] == "900000" and "HTTP_TRANSFER_ENCODING" not in told
            told = same(client.ask("POST", "/", iter([]), Transfer_Encoding="chunked"), b"")
            assert told.get("CONTENT_LENGTH", "0") == "0"
            assert same(client.ask("POST", "/", b"hi", Expect="100-continue"), b"hi")
            assert same(client.ask("GET", "/", b"unusual"), b"unusual")
            for path in ("/", "/pieces", "/large", "/file"):
                status, _, body = client.ask("HEAD", path)
                assert (status, body) == (200, b"")
            status, fields, body = client.ask("GET", "/old", If_Modified_Since=email.utils.formatdate(0))
            assert (status, fields["ETag"], body) == (304, '"a"', b"")
            assert client.ask("GET", "/pieces")[2] == b"".join(b"piece %d;" % n * 1000 for n in range(300))
            assert client.ask("GET", "/large")[2] == b"l" * 5_000_000
            assert client.ask("GET", "/file")[2] == b"f" * 3_000_000
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                client.ask("GET", "/short")
            client = Client(front)
        service.expected_errors = ["bytes short of its Content-Length"]


@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_requests_have_the_front_s_names_and_are_for_allowed_hosts(service: Daemon, native: str) -> None:
    flags = ["--request-ids", "--allowed-hosts", "hello.example", "--access-log", str(service.dir / "access")]
    with served(service, *flags, native) as front:
        client = Client(front)
        for _ in range(2):
            status, fields, _ = client.ask("GET", "/", Host="hello.example:8443")
            assert (status, bool(re.fullmatch("[0-9a-f]{32}", fields["X-Request-ID"]))) == (200, True)
        assert Client(front).ask("GET", "/", Host="evil.example")[0] == 421
    log = service.dir / "access"
    until(lambda: log.read_text().count("\n") == 3, "three lines")  # each worker writes when it has time
    lines = log.read_text().splitlines()
    assert sorted(line.split('" ')[1].split()[0] for line in lines) == ["200", "200", "421"]
    assert {line.split()[0] for line in lines} == {"127.0.0.1"}


def test_below_a_prefix(service: Daemon) -> None:
    shop = r"(?m)^        # (?=(location /shop/|    (include|uwsgi)|\}))"
    text = re.sub(shop, "        ", UWSGI.read_text())
    assert "        location /shop/ {" in text
    with served(service, text=text) as front:
        told = Client(front).ask("GET", "/shop/a%2Fb?c")[2]
        assert b'"SCRIPT_NAME": "/shop"' in told and b'"PATH_INFO": "/a/b"' in told


def test_limits(service: Daemon) -> None:
    """Ours are answers, and nginx's own are above 65,535 bytes."""
    text = sample(("large_client_header_buffers 4 8k", "large_client_header_buffers 8 64k"))
    flags = ["--limit-request-field-size", "64k", "--limit-request-body", "1000"]
    with served(service, *flags, text=text) as front:
        status, _, body = Client(front).ask("GET", "/", X="a" * 64_000)
        assert (status, b'"x": 64000' in body) == (200, True)
        sizes = {size: Client(front).ask("GET", "/", X="a" * size)[0] for size in range(64_500, 65_400, 100)}
        assert set(sizes.values()) == {200, 500}  # a block of 65,535 bytes, and what nginx does not send
        assert list(sizes.values()) == sorted(sizes.values())
        for more in range(2, 6):  # where older ones would have sent the size without its 17th bit
            fields = {f"X{n}": "b" * 30_000 for n in range(more)}
            assert Client(front).ask("POST", "/", b"hello", X="a", **fields)[0] == (200 if more == 2 else 500)
        assert Client(front).ask("POST", "/", b"a" * 1001)[0] == 413
    assert "uwsgi request is too big" in (service.dir / "nginx.log").read_text()


def test_a_field_that_is_too_long_is_431_with_a_line(service: Daemon) -> None:
    text = sample(("large_client_header_buffers 4 8k", "large_client_header_buffers 8 64k"))
    with served(service, text=text) as front:
        assert Client(front).ask("GET", "/", X="a" * 10_000)[0] == 431
        assert Client(front).ask("GET", "/" + "a" * 10_000)[0] == 414
        assert Client(front).ask("BREW", "/")[0] in (405, 501)
        until(lambda: "uwsgi: refused with 431: header line too long" in service.log(), "the line")


@pytest.mark.parametrize("model", ["leader-followers", "half-sync-half-async", "reactor"])
def test_no_request_fails_while_workers_are_replaced(service: Daemon, model: str) -> None:
    """By a reload and an upgrade none does. Where one is killed, its own do."""
    with served(service, "-m", model, "-w", "3") as front, asking(front) as found:
        for verb in ("reload", "upgrade", "reload"):
            so_far = sum(found.values())
            service.ok(verb)
            until(lambda so_far=so_far: sum(found.values()) > so_far + 50, "more answers")  # type: ignore[misc]
        assert set(found) == {200}, found
        service.expected_errors = ["gone: killed", "SIGKILL"]
        for _ in range(3):
            os.kill(service.worker_pids()[0], signal.SIGKILL)
            so_far = sum(found.values())
            until(lambda so_far=so_far: sum(found.values()) > so_far + 50, "more answers")  # type: ignore[misc]
    assert set(found) <= {200, 502}
    assert found[502] <= 3 * 4


@contextlib.contextmanager
def asking(front: tuple[str, int]) -> Iterator[Counter[int]]:
    """Four clients that ask all the time, and compare what they get; the statuses so far."""
    found: Counter[int] = Counter()
    wrong: list[str] = []
    over = threading.Event()

    def one(number: int) -> None:
        client = Client(front)
        while not over.is_set():
            body = b"%d" % number * 2000
            status, _, answer = client.ask("POST" if number % 2 else "GET", f"/{number}", body)
            found[status] += 1
            if status == 200 and f'"PATH_INFO": "/{number}"'.encode() not in answer:
                wrong.append(answer.decode())

    def kept(number: int) -> None:
        try:
            one(number)
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=kept, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert not wrong, wrong
