"""Answers that forkd makes itself: their line in the access log and their counts, under every model."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from tests.process.conftest import Daemon, until

from .conftest import cells

APP = r"""
    import tempfile
    tempfile.tempdir = "/nonexistent"  # no body can be spooled

    def pieces():
        yield b"begun"
        raise ValueError("in the middle")

    class Closes(list):
        def close(self):
            raise ValueError("behind the answer")

    def app(environ, start):
        path = environ["PATH_INFO"]
        if path == "/raises":
            raise ValueError("before start_response")
        start("200 OK", [("Content-Type", "text/plain")])
        if path == "/raises-later":
            raise ValueError("after start_response")
        if path == "/breaks":
            return pieces()
        if path == "/closes":
            return Closes([b"all ", b"of it"])
        if path == "/large":
            return (bytes(65536) for _ in range(300))
        return [b"ok"]
"""
FLAGS = [
    "--header-timeout", "1", "--body-timeout", "1", "--access-log", "access.log", "--body-buffer", "1k",
    "--write-timeout", "1", "--limit-request-fields", "20",
    "--limit-request-head", "16k", "--limit-request-body", "8k",
]  # fmt: skip
ERRORS = ["application failed", "Traceback", "ValueError", "spooling to disk"]

HOST = b"Host: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xe9\x80\"\\\x7f"

#: What is sent; the status; the reason that is counted; the request line in the log.
CASES: list[tuple[bytes, int, str, str]] = [
    (TLS, 400, "malformed", r"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xe9\x80\x22\x5c\x7f"),
    (b"GET /a\"b\\c d HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed", r"GET /a\x22b\x5cc d HTTP/1.1"),
    (b"GET /lf HTTP/1.1\nHost: a\n\n", 400, "malformed", "GET /lf HTTP/1.1"),
    (b"GET /cr\rGET /forged HTTP/1.1\r\n", 400, "malformed", r"GET /cr\x0dGET /forged HTTP/1.1"),
    (b"GET /nohost HTTP/1.1\r\n\r\n", 400, "malformed", "GET /nohost HTTP/1.1"),
    (b"\r\n" * 9, 400, "malformed", "-"),
    (b"GET /half HTTP/1.1\r\nHost: a\r\nUser-Ag", 408, "head-timeout", "GET /half HTTP/1.1"),
    (b"GET /half-a-lin", 408, "head-timeout", "GET /half-a-lin"),
    (
        b"POST /half-a-body HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc",
        408, "body-timeout", "POST /half-a-body HTTP/1.1",
    ),
    (
        b"POST /half-a-chunk HTTP/1.1\r\n" + HOST + CHUNKED + b"9\r\nabc",
        408, "body-timeout", "POST /half-a-chunk HTTP/1.1",
    ),
    (
        b"POST /large HTTP/1.1\r\n" + HOST + b"Content-Length: 8193\r\n\r\n",
        413, "body-too-large", "POST /large HTTP/1.1",
    ),
    (
        b"POST /large-chunks HTTP/1.1\r\n" + HOST + CHUNKED + b"1\r\na\r\n2000\r\nab",
        413, "body-too-large", "POST /large-chunks HTTP/1.1",
    ),
    (
        b"POST /bad-chunk HTTP/1.1\r\n" + HOST + CHUNKED + b"1\r\na\r\nx",
        400, "malformed", "POST /bad-chunk HTTP/1.1",
    ),
    (
        b"GET /" + b"u" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        414, "line-too-long", "GET /" + "u" * 1019 + "...",
    ),
    (
        b"GET /expect HTTP/1.1\r\n" + HOST + b"Expect: tea\r\n\r\n",
        417, "expectation", "GET /expect HTTP/1.1",
    ),
    (
        b"GET /field HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 8200 + b"\r\n\r\n",
        431, "head-too-large", "GET /field HTTP/1.1",
    ),
    (
        b"GET /fields HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 20 + b"\r\n",
        431, "head-too-large", "GET /fields HTTP/1.1",
    ),
    (
        b"GET /head HTTP/1.1\r\n" + HOST + (b"X: " + b"x" * 8000 + b"\r\n") * 3 + b"\r\n",
        431, "head-too-large", "GET /head HTTP/1.1",
    ),
    (b"BREW /pot HTTP/1.1\r\n" + HOST + b"\r\n", 501, "not-implemented", "BREW /pot HTTP/1.1"),
    (b"HEAD /none HTTP/1.1\r\n" + HOST + b"Expect: x\r\n\r\n", 417, "expectation", "HEAD /none HTTP/1.1"),
    (b"GET /three HTTP/3.0\r\n" + HOST + b"\r\n", 505, "http-version", "GET /three HTTP/3.0"),
    (
        b"POST /disk HTTP/1.1\r\n" + HOST + CHUNKED + b"800\r\n" + b"d" * 2048 + b"\r\n0\r\n\r\n",
        503, "no-room", "POST /disk HTTP/1.1",
    ),
    (b"GET /raises HTTP/1.1\r\n" + HOST + b"\r\n", 500, "application-failed", "GET /raises HTTP/1.1"),
    (
        b"GET /raises-later HTTP/1.1\r\n" + HOST + b"\r\n",
        500, "application-failed", "GET /raises-later HTTP/1.1",
    ),
    (b"HEAD /raises HTTP/1.1\r\n" + HOST + b"\r\n", 500, "application-failed", "HEAD /raises HTTP/1.1"),
]  # fmt: skip

LINE = re.compile(rb'127\.0\.0\.1 - - \[[^]]+\] "([^"]*)" (\d{3}) (\d+) "([^"]*)" "([^"]*)" \d+\.\d{6}\n')


def answers(daemon: Daemon, requests: list[bytes]) -> list[bytes]:
    """All that each of these clients gets, who send at the same time."""
    clients = [daemon.connect() for _ in requests]
    found = []
    for client, request in zip(clients, requests, strict=True):
        client.sendall(request)
    for client in clients:
        answer = b""
        with client:
            while data := client.recv(65536):
                answer += data
        found.append(answer)
    return found


def logged(path: Path, count: int) -> list[bytes]:
    until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, f"{count} lines")
    return path.read_bytes().splitlines(keepends=True)


def size_of(answer: bytes) -> int:
    return len(answer.partition(b"\r\n\r\n")[2])


def is_reset(client: socket.socket) -> bool:
    with client:
        try:
            while client.recv(65536):
                pass
        except ConnectionResetError:
            return True
    return False


def check(daemon: Daemon) -> None:
    """Each case once, on a daemon that has served no client yet."""
    slow = daemon.connect()
    slow.sendall(b"GET /large HTTP/1.0\r\n\r\n")
    found = answers(daemon, [request for request, *_ in CASES])
    (whole,) = answers(daemon, [b"GET /closes HTTP/1.0\r\n\r\n"])
    assert whole.endswith(b"\r\n\r\nall of it")
    # Of neither of these does the end say where it is, but that of the connection.
    broken = daemon.connect()
    broken.sendall(b"GET /breaks HTTP/1.0\r\n\r\n")
    assert is_reset(broken)
    until(lambda: b'"GET /large ' in (daemon.dir / "access.log").read_bytes(), "it is given up")
    assert is_reset(slow)
    wanted = []
    for (request, status, _, line), answer in zip(CASES, found, strict=True):
        assert answer.startswith(b"HTTP/1.1 %d " % status), (request, answer)
        assert (size_of(answer) == 0) == request.startswith(b"HEAD "), answer
        wanted.append((line.encode(), b"%d" % status, b"%d" % size_of(answer), b"-", b"-"))
    wanted.append((b"GET /closes HTTP/1.0", b"200", b"9", b"-", b"-"))
    wanted.append((b"GET /breaks HTTP/1.0", b"200", b"5", b"-", b"-"))
    lines = logged(daemon.dir / "access.log", len(wanted) + 1)
    seen = [match.groups() for line in lines if (match := LINE.fullmatch(line))]
    assert len(seen) == len(lines), lines
    (large,) = [line for line in seen if line[0] == b"GET /large HTTP/1.0"]
    assert large[1] == b"200" and int(large[2]) < 300 * 65536
    seen.remove(large)
    assert sorted(seen) == sorted(wanted)

    def counted(name: str, **labels: str) -> int:
        return int(daemon.metric(name, **labels))

    for reason in (
        "malformed", "head-timeout", "body-timeout", "body-too-large", "line-too-long", "expectation",
        "head-too-large", "not-implemented", "http-version", "no-room", "application-failed",
    ):  # fmt: skip
        times = sum(case[2] == reason for case in CASES)
        assert counted("forkd_requests_refused_total", reason=reason) == times > 0, reason
    assert counted("forkd_requests_refused_total", reason="broken-off") == 2
    assert counted("forkd_requests_refused_total", reason="overload") == 0
    assert counted("forkd_requests_refused_total") == len(CASES) + 2
    for status in {case[1] for case in CASES}:
        times = sum(case[1] == status for case in CASES)
        assert counted("forkd_requests_total", code=str(status)) == times, status
    assert counted("forkd_requests_total") == len(CASES) + 3
    assert counted("forkd_requests_in_flight") == 0
    # Nor does a thread seem to be held, for which its worker would be killed after --timeout.
    until(lambda: all(w["request"] is None for w in daemon.live()["workers"]), "nobody is held", 3)


@pytest.mark.parametrize("daemon", cells("wsgi"), indirect=True)
def test_each_has_its_line_and_its_counts(daemon: Daemon) -> None:
    check(daemon)


@pytest.mark.parametrize("flags", [["--no-native"], ["--threads", "4", "--no-native"]], ids=" ".join)
def test_each_has_its_line_and_its_counts_without_native_code(
    service: Daemon, flags: list[str]
) -> None:
    service.write_app(APP)
    service.expected_errors = ERRORS
    service.start(*FLAGS, *flags)
    check(service)


@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_a_client_that_speaks_tls_is_one_line_of_json(service: Daemon, native: str) -> None:
    service.start(*FLAGS, native, "--log-format", "json")
    (answer,) = answers(service, [TLS + b"\n\xff\n"])
    line, *more = logged(service.dir / "access.log", 1)
    found = json.loads(line)
    assert not more
    assert found["request"] == '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\xe9\x80"\\\x7f'
    assert (found["status"], found["bytes"]) == (400, size_of(answer))


@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_a_request_line_of_8190_bytes_is_served_and_one_more_is_too_long(
    service: Daemon, native: str
) -> None:
    """As Apache has it, and more than the 8000 of RFC 9112 3."""
    service.start("--access-log", "access.log", native)
    lines = ["GET /" + "u" * (size - 16) + " HTTP/1.1" for size in (7900, 8190, 8191)]
    found = answers(
        service, [f"{line}\r\nHost: a\r\nConnection: close\r\n\r\n".encode() for line in lines]
    )
    assert [int(answer.split()[1]) for answer in found] == [200, 200, 414]
    seen = [LINE.fullmatch(line) for line in logged(service.dir / "access.log", 3)]
    shown = {match[1].decode() for match in seen if match}
    assert shown == {*lines[:2], "GET /" + "u" * 1019 + "..."}


@pytest.mark.parametrize("native", ["--native", "--no-native"])
@pytest.mark.parametrize(
    ("limits", "sizes", "statuses"),
    [
        ([], (8190, 8191), [200, 431]),
        # A Kerberos ticket that has gone through Base64.
        (["--limit-request-field-size", "48k"], (49152, 49153), [200, 431]),
        (["--limit-request-field-size", "100"], (100, 101), [200, 431]),
        (
            ["--limit-request-field-size", "200k", "--limit-request-head", "300k"],
            (204800, 204801), [200, 431],
        ),
    ],
)
def test_a_header_field_has_as_many_bytes_as_its_limit_says(
    service: Daemon, native: str, limits: list[str], sizes: tuple[int, int], statuses: list[int]
) -> None:
    service.start(*limits, native)
    heads = [
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: " + b"c" * (size - 10) + b"\r\n\r\n"
        for size in sizes
    ]
    assert [int(answer.split()[1]) for answer in answers(service, heads)] == statuses


@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_who_was_refused_for_a_body_is_shown_as_any_client_is(service: Daemon, native: str) -> None:
    service.start(*FLAGS, native)
    head = b"POST /who HTTP/1.1\r\nHost: a\r\nReferer: http://r/\r\nUser-Agent: curl/8\r\n" + CHUNKED
    (answer,) = answers(service, [head + b"zz"])
    match = LINE.fullmatch(logged(service.dir / "access.log", 1)[0])
    assert match is not None
    size = b"%d" % size_of(answer)
    assert match.groups() == (b"POST /who HTTP/1.1", b"400", size, b"http://r/", b"curl/8")


def test_a_short_body_is_an_answer_that_broke_off(service: Daemon) -> None:
    service.write_app("""
        def app(environ, start):
            start("200 OK", [("Content-Length", "10")])
            return [b"abc"]
    """)
    service.expected_errors = ["bytes short of its Content-Length"]
    service.start(*FLAGS)
    (answer,) = answers(service, [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
    assert answer.endswith(b"\r\n\r\nabc")
    assert service.metric("forkd_requests_refused_total", reason="broken-off") == 1
    assert service.metric("forkd_requests_refused_total") == 1
