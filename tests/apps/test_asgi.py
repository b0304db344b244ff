"""ASGI over real sockets: each rule of the interface as a client sees it, and as the application does."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.process.conftest import Daemon, until

from .conftest import FAILURES, dial, read_all, take

#: uvloop where nothing is said.
WAYS = {
    "native": [], "asyncio": ["--loop", "asyncio"], "twin": ["--no-native", "--loop", "asyncio"],
    "poll": ["--io", "poll"], "select": ["--io", "select", "--loop", "asyncio"],
    "sigio": ["--io", "sigio"], "half-sync-half-async": ["-m", "half-sync-half-async", "--loop", "asyncio"],
    "io_uring": ["-m", "proactor", "--io", "io_uring"],
}  # fmt: skip


@pytest.fixture(scope="module", params=WAYS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    service = Daemon(tmp_path_factory.mktemp("asgi"))
    take(service, "asgi_site")
    service.expected_errors = [*FAILURES, "the application (failed on|returned without)", "SystemExit"]
    service.start("-w", "1", *WAYS[request.param], app="asgi_site:app")
    yield service
    service.finish()
    assert "the lifespan is over" in service.log()


def get(service: Daemon, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
    host, port = service.address
    client = http.client.HTTPConnection(host, port, timeout=10)
    client.request(method, path, body)
    answer = client.getresponse()
    read = answer.read()
    client.close()
    return answer.status, read


def exchange(service: Daemon, data: bytes, half_close: bool = False) -> bytes:
    """All that comes back, until the server closes."""
    with dial(service) as client:
        client.sendall(data)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        return read_all(client)


def request(path: str, *fields: str, method: str = "GET", body: bytes = b"", last: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *fields, *(["Connection: close"] if last else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_a_scope(site: Daemon) -> None:
    raw = exchange(site, request("/facts/%C3%A9%20x%2Fy?a=b%20c", "X-Two: 1", "X-TWO: 2", method="PUT"))
    facts = json.loads(raw.partition(b"\r\n\r\n")[2])
    assert facts["path"] == "/facts/é x/y"
    assert facts["raw_path"] == "/facts/%C3%A9%20x%2Fy"
    assert facts["query_string"] == "a=b%20c"
    assert (facts["method"], facts["scheme"], facts["http_version"]) == ("PUT", "http", "1.1")
    assert (facts["type"], facts["root_path"]) == ("http", "")
    assert facts["asgi"] == {"version": "3.0", "spec_version": "2.3"}
    assert facts["headers"] == [["host", "a"], ["x-two", "1"], ["x-two", "2"], ["connection", "close"]]
    assert facts["client"][0] == "127.0.0.1"
    assert facts["client"][1] > 0
    assert tuple(facts["server"]) == site.address
    assert facts["state"] == ["at startup"]
    assert facts["setting"] == "of the lifespan"
    assert facts["extensions"] == {
        "forkd": {"worker": 1, "peer": "127.0.0.1"},
        "http.response.pathsend": {}, "http.response.zerocopysend": {},
    }  # fmt: skip


def test_what_proxies_say(site: Daemon) -> None:
    fields = [
        "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.org:8443",
        "X-Forwarded-Prefix: /mounted",
    ]  # fmt: skip
    # The prefix is part of the path, as ASGI has it.
    facts = json.loads(exchange(site, request("/facts", *fields)).partition(b"\r\n\r\n")[2])
    assert (facts["root_path"], facts["path"]) == ("/mounted", "/mounted/facts")
    assert (facts["scheme"], facts["client"]) == ("https", ["192.0.2.7", 0])
    assert facts["server"] == ["example.org", 8443]
    assert ["host", "example.org:8443"] in facts["headers"]


@pytest.mark.parametrize(
    ("raw", "head", "body"),
    [
        (request("/hello"), b"content-type: text/plain", b"hello"),
        (request("/hello"), b"Content-Length: 5", b"hello"),
        (request("/hello", method="HEAD"), b"Content-Length: 5", b""),
        (request("/stream"), b"Transfer-Encoding: chunked", b"3\r\nend\r\n0\r\n\r\n"),
        (request("/stream", method="HEAD"), b"200 OK", b""),
        (request("/stream").replace(b"1.1", b"1.0"), b"Connection: close", b"0,1,2,3,4,end"),
        (request("/status/204"), b"204 No Content", b""), (request("/status/304"), b"304 Not Modified", b""),
        (request("/status/299"), b"299 \r\n", b"body"),
        (request("/headers"), b"x-latin: \xe9", b"x"),
        (request("/echo", "Content-Length: 4", method="POST", body=b"body"), b"200 OK", b"body"),
        (request("/echo", "Transfer-Encoding: chunked", method="POST", body=b"4\r\nbody\r\n0\r\n\r\n"),
         b"200 OK", b"body"),
        (request("/fails"), b"500 Internal", b"the application failed; see the error log\n"),
        (request("/fails-later"), b"500 Internal", b"the application failed; see the error log\n"),
        (request("/leaves"), b"500 Internal", b"the application failed; see the error log\n"),
        (request("/cancels-itself"), b"500 Internal", b"the application failed; see the error log\n"),
        (request("/nothing"), b"500 Internal", b"the application failed; see the error log\n"),
        (request("/tasks"), b"200 OK", b"[True, True, True, True] inner thread"),
        (request("/forks"), b"200 OK", b"parent"),
    ],
)  # fmt: skip
def test_an_answer(site: Daemon, raw: bytes, head: bytes, body: bytes) -> None:
    got_head, _, got_body = exchange(site, raw).partition(b"\r\n\r\n")
    assert head in got_head + b"\r\n"
    assert got_body.endswith(body) and bool(got_body) is bool(body)


def test_hop_by_hop_fields_are_the_servers(site: Daemon) -> None:
    head = exchange(site, request("/headers")).partition(b"\r\n\r\n")[0]
    assert head.lower().count(b"set-cookie: ") == 2
    assert b"chunked" not in head and b"timeout=5" not in head
    assert head.endswith(b"Connection: close")
    assert b"Connection: close" in exchange(site, request("/closes", last=False))


@pytest.mark.parametrize("path", ["breaks-off", "stops"])
def test_an_answer_that_breaks_off_is_seen_to(site: Daemon, path: str) -> None:
    body = exchange(site, request(f"/{path}", last=False)).partition(b"\r\n\r\n")[2]
    assert body == b"4\r\nhalf\r\n"


@pytest.mark.parametrize(
    "case",
    [
        "body-first", "start-twice", "newline", "text", "status", "informational", "too-long", "too-short",
        "unknown", "no-bytes",
    ],
)  # fmt: skip
def test_a_message_out_of_place_is_an_exception_there(site: Daemon, case: str) -> None:
    assert get(site, f"/wrong/{case}")[0] == 500
    assert get(site, "/sent")[1] == b"1"
    assert get(site, f"/wrong/{case}/raise")[0] == 500


def test_what_is_sent_after_the_end(site: Daemon) -> None:
    assert get(site, "/after")[1] == b"all"
    until(lambda: "after: http.disconnect" in site.log(), "receive() has said so")
    assert "after: http.response.body after the last one" in site.log()


def test_requests_that_came_together_are_answered_in_order(site: Daemon) -> None:
    paths = ["/hello", "/sleeps/0.05", "/echo", "/stream", "/hello"]
    raw = b"".join(request(path, last=path == paths[-1] and number == 4) for number, path in enumerate(paths))
    answers = re.findall(rb"hello|slept|0,|Content-Length: 0", exchange(site, raw))
    assert answers == [b"hello", b"slept", b"Content-Length: 0", b"0,", b"hello"]


@pytest.mark.parametrize(("left", "kept"), [(70_000, True), (300_000, False)])
def test_an_answer_before_a_long_body_says_whether_the_connection_is_kept(
    site: Daemon, left: int, kept: bool
) -> None:
    with dial(site) as client:
        head = f"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: {left}\r\n\r\n"
        client.sendall(head.encode() + bytes(6000))
        answer = client.recv(9999)
        assert answer.startswith(b"HTTP/1.1 200 ") and (b"Connection: close" in answer) is not kept
        if kept:
            client.sendall(bytes(left - 6000) + request("/hello"))
            assert read_all(client).count(b"HTTP/1.1 200 ") == 1


def test_one_that_is_refused_behind_one_that_is_answered(site: Daemon) -> None:
    for before in ("/hello", "/echo"):
        raw = request(before, last=False) + request("/hello", "Expect: tea", last=False)
        answers = exchange(site, raw)
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"417"]
        assert answers.count(b"expectation not met") == 1


def test_a_connection_is_kept_through_bodies_that_nobody_reads(site: Daemon) -> None:
    with dial(site) as client:
        for _ in range(3):
            client.sendall(request("/unread", "Content-Length: 5", method="POST", last=False))
            read = b""
            while not read.endswith(b"not read"):
                read += client.recv(1000)
            client.sendall(b"later")
        client.sendall(request("/hello"))
        assert read_all(client).endswith(b"hello")


def test_a_large_body_that_nobody_reads_ends_the_connection(site: Daemon) -> None:
    with dial(site) as client:
        client.sendall(request("/unread", f"Content-Length: {50 << 20}", method="POST", last=False))
        until(lambda: client.recv(1000).endswith(b"not read"), "the answer")
        client.sendall(bytes(1 << 20))
        assert client.recv(1000) == b""


def test_uploads(site: Daemon) -> None:
    size = 20_000_000
    for path in ("/size", "/size/slowly"):
        status, body = get(site, path, "POST", bytes(size))
        total, most = map(int, body.split())
        assert (status, total) == (200, size)
        assert most <= 2 * 65536 + 65536


def test_a_body_is_read_as_it_is_asked_for(site: Daemon) -> None:
    with dial(site) as client:
        client.settimeout(1)
        client.sendall(request("/waits", f"Content-Length: {100 << 20}", method="POST", last=False))
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100 << 20:
                sent += client.send(bytes(1 << 20))
        assert sent < 50 << 20  # what the kernel's buffers hold
        client.settimeout(10)
        assert get(site, "/release")[1] == b"so"
        assert b"released" in client.recv(10_000)


def test_a_slow_reader_holds_the_application(site: Daemon) -> None:
    with dial(site) as client:
        get(site, "/wrong/unknown")  # empties the count
        client.sendall(request("/big"))
        head = client.recv(1000)
        before = -1
        while (now := int(get(site, "/sent")[1])) != before:
            before = now
            get(site, "/sleeps/0.2")
        assert 0 < now < 600
        body = read_all(client)
        assert len(head + body) > 40 << 20
    assert len(exchange(site, request("/whole"))) > 10_000_000


def test_expect(site: Daemon) -> None:
    with dial(site) as client:
        client.sendall(request("/echo", "Content-Length: 4", "Expect: 100-continue", method="POST"))
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        assert read_all(client).endswith(b"body")
    # Whether a body follows that was not asked for, nobody can tell: the connection ends.
    fields = ["Content-Length: 4", "Expect: 100-continue"]
    answer = exchange(site, request("/unread", *fields, method="POST", last=False))
    assert answer.startswith(b"HTTP/1.1 401") and b"Connection: close" in answer


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("/echo", "Transfer-Encoding: chunked", method="POST", body=b"zz\r\n"), b"400"),
        (request("/echo", "Transfer-Encoding: chunked", method="POST", body=b"7fffffff\r\n"), b"413"),
        (request("/echo", f"Content-Length: {1 << 40}", method="POST"), b"413"),
    ],
)  # fmt: skip
def test_a_body_that_is_refused(site: Daemon, raw: bytes, status: bytes) -> None:
    assert exchange(site, raw).startswith(b"HTTP/1.1 " + status)


def test_a_client_that_leaves_is_told_of(site: Daemon) -> None:
    before = site.log().count("seen: http.disconnect")
    with dial(site) as client:
        client.sendall(request("/disconnect", last=False))
        until(lambda: site.log().count("waits for the client") > before, "the application waits")
    until(lambda: site.log().count("seen: http.disconnect") > before, "it sees the end")


def test_a_client_that_resets_is_told_of(site: Daemon) -> None:
    before = site.log().count("seen: http.disconnect"), site.log().count("waits for the client")
    client = dial(site)
    client.sendall(request("/disconnect", last=False))
    until(lambda: site.log().count("waits for the client") > before[1], "the application waits")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    until(lambda: site.log().count("seen: http.disconnect") > before[0], "it sees the end")


def test_a_half_closed_client_gets_its_answer(site: Daemon) -> None:
    assert exchange(site, request("/sleeps/0.05", last=False), half_close=True).endswith(b"slept")
    assert exchange(site, request("/disconnect", last=False), half_close=True).endswith(b"whoever is left")


def test_a_body_that_ends_early_is_told_of(site: Daemon) -> None:
    """By http.disconnect in place of the rest, at which this application fails."""
    raw = request("/echo", "Content-Length: 10", method="POST", body=b"abc", last=False)
    assert exchange(site, raw, half_close=True).startswith(b"HTTP/1.1 500 ")
    assert "a session failed" not in site.log()


def test_a_stream_whose_client_leaves_is_over(site: Daemon) -> None:
    before = site.log().count("forever is over")
    with dial(site) as client:
        client.sendall(request("/forever"))
        while b"piece" not in client.recv(1000):
            pass
    until(lambda: site.log().count("forever is over") > before, "the application has seen it")


def test_a_wait_that_is_cancelled_loses_nothing(site: Daemon) -> None:
    body = bytes(range(256)) * 200
    with dial(site) as client:
        client.sendall(request("/cancelled-receive", f"Content-Length: {len(body)}", method="POST"))
        for at in range(0, len(body), 1000):
            client.sendall(body[at : at + 1000])
        assert read_all(client).endswith(b"\r\n\r\n" + body)


def test_context_variables_are_of_one_request(site: Daemon) -> None:
    raw = b"".join(request(f"/variables/{number}", last=number == 9) for number in range(10))
    assert re.findall(rb"\|/variables/(\d)", exchange(site, raw)) == [b"%d" % number for number in range(10)]
    assert b"/|" not in exchange(site, raw)


def test_many_at_once(site: Daemon) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(get(site, "/sleeps/0.5")[1])) for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"slept"] * 50


def test_the_books(site: Daemon) -> None:
    ok, failed = (site.metric("forkd_requests_total", code=code) for code in ("200", "500"))
    assert get(site, "/hello")[0] == 200
    assert get(site, "/fails")[0] == 500
    site.settles(ok + 1, "forkd_requests_total", code="200")
    site.settles(failed + 1, "forkd_requests_total", code="500")
    site.settles(0, "forkd_requests_in_flight")
