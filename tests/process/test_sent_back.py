"""What an operator has forkd send back or keep out, with real daemons: in each model, over TCP and unix
sockets, with and without native code.
"""

from __future__ import annotations

import json
import socket

import pytest

from forkd.models import registry

from .conftest import Daemon, until
from .test_forwarded import connect

APP = """
    def app(environ, start):
        start("200 OK", [("Content-Type", "text/plain")])
        return [environ["HTTP_HOST"].encode()]
"""
GRID = pytest.mark.parametrize(
    ("model", "native"), [(row.name, native) for row in registry.MODELS for native in (True, False)]
)


def started(service: Daemon, model: str, native: bool, *flags: str, app: str = APP) -> list[object]:
    """The addresses of a new daemon."""
    service.write_app(app)
    path = service.dir / "s.sock"
    given = ["-b", "127.0.0.1:0", "-b", f"unix:{path}", "-m", model, *flags]
    service.start(*given, *([] if native else ["--no-native"]))
    return [service.address, str(path)]


def head(sock: socket.socket) -> bytes:
    """That of the next answer, or what came instead of one."""
    data = b""
    while b"\r\n\r\n" not in data and (byte := sock.recv(1)):
        data += byte
    return data


def ask(address: object, host: str) -> tuple[bytes, bytes]:
    """The heads of two answers on one connection; the second is empty if that was closed."""
    with connect(address) as sock:
        request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        sock.sendall(request)
        first = head(sock)
        size = int(first.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while size:
            size -= len(sock.recv(size))
        try:
            sock.sendall(request)
            return first, head(sock)
        except ConnectionError:
            return first, b""


@GRID
def test_hosts_and_the_field_server(service: Daemon, model: str, native: bool) -> None:
    flags = ["--allowed-hosts", "*.example.org,b\xfccher.example", "--server-header", "shop"]
    for address in started(service, model, native, *flags):
        for host in ("www.example.org", "XN--BCHER-KVA.example:80"):
            for answer in ask(address, host):
                assert answer.startswith(b"HTTP/1.1 200 ") and b"\r\nServer: shop\r\n" in answer
        for host in ("example.org", "evil"):
            first, second = ask(address, host)
            assert first.startswith(b"HTTP/1.1 421 ") and b"\r\nServer: shop\r\n" in first
            assert second == b""
    until(lambda: service.metric("forkd_requests_refused_total", reason="host") == 4, "all counted")
    assert "none of --allowed-hosts, is answered 421" in service.log()


HINTING = """
    import os, time
    from pathlib import Path

    def app(environ, start):
        hints = environ.get("wsgi.early_hints")
        if hints is None:
            start("200 OK", [])
            return [b"none"]
        hints([("Link", "</a.css>; rel=preload; as=style")])
        while environ["PATH_INFO"] == "/wait" and not Path("go").exists():
            time.sleep(0.01)
        hints([("Link", "</b.js>; rel=preload"), ("X-More", "1")])
        start("200 OK", [("Content-Type", "text/plain")])
        try:
            hints([("Link", "<late>")])
        except RuntimeError as error:
            return [str(error).encode()]
"""
FIRST = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload; as=style\r\n\r\n"
SECOND = b"HTTP/1.1 103 Early Hints\r\nLink: </b.js>; rel=preload\r\nX-More: 1\r\n\r\n"
LATE = b"wsgi.early_hints was called after start_response"


def whole(sock: socket.socket, body: bytes) -> bytes:
    data = head(sock)
    while not data.endswith(body) and (more := sock.recv(1)):
        data += more
    return data


@GRID
def test_early_hints(service: Daemon, model: str, native: bool) -> None:
    flags = ["--early-hints", "--chdir", str(service.dir)]
    for address in started(service, model, native, *flags, app=HINTING):
        with connect(address) as sock:
            # The first is there while the application has not answered.
            sock.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            assert head(sock) == FIRST
            (service.dir / "go").write_text("")
            assert head(sock) == SECOND
            assert whole(sock, LATE).startswith(b"HTTP/1.1 200 OK\r\n")
            # Several requests at once, of other kinds, on the same connection.
            sock.sendall(
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"
                b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
                b"GET / HTTP/1.0\r\n\r\n"
            )
            for body in (LATE, LATE, b""):
                assert head(sock) == FIRST
                assert head(sock) == SECOND
                assert whole(sock, body).startswith(b"HTTP/1.1 200 OK\r\n")
            assert whole(sock, b"none").startswith(b"HTTP/1.1 200 OK\r\n")
        (service.dir / "go").unlink()


def test_without_the_option_there_are_no_early_hints(service: Daemon) -> None:
    started(service, "leader-followers", True, "--chdir", str(service.dir), app=HINTING)
    assert service.get() == "none"


NAMED = """
    import time
    from pathlib import Path

    def app(environ, start):
        while environ["PATH_INFO"] == "/wait" and not Path("go").exists():
            time.sleep(0.01)
        start("200 OK", [("Content-Type", "text/plain")])
        return [environ["forkd.request_id"].encode()]
"""


@GRID
def test_names_of_requests_and_server_timing(service: Daemon, model: str, native: bool) -> None:
    log = service.dir / "access.log"
    flags = ["--request-ids", "--server-timing", "--access-log", str(log), "--chdir", str(service.dir)]
    names = set()
    for address in started(service, model, native, *flags, app=NAMED):
        with connect(address) as sock:
            for given in ("", "mine-1"):
                field = f"X-Request-ID: {given}\r\n" if given else ""
                sock.sendall(f"GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n".encode())
                answer = head(sock).decode()
                name = answer.partition("\r\nX-Request-ID: ")[2].partition("\r\n")[0]
                assert "\r\nServer-Timing: queue;dur=" in answer
                assert name == given if given else len(name) == 36
                assert sock.recv(len(name), socket.MSG_WAITALL).decode() == name
                names.add(name)
    assert len(names) == 3
    until(lambda: log.exists() and log.read_text().count("\n") == 4, "all lines")
    assert {line.split(" ")[-1] for line in log.read_text().splitlines()} == names


@GRID
def test_the_report_of_a_dead_worker_names_its_requests(
    service: Daemon, model: str, native: bool
) -> None:
    service.expected_errors = ["timeout", "killed", "SIGKILL"]
    log = service.dir / "access.log"
    flags = ["--request-ids", "--timeout", "0.5", "--access-log", str(log), "--chdir", str(service.dir)]
    flags += ["--access-log-format", "%{client} via %{peer}: %{status} %{request_id}"]
    address, _ = started(service, model, native, *flags, app=NAMED)
    with connect(address) as sock:
        sock.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\nX-Request-ID: lost-1\r\n\r\n")
        answer = head(sock)
        assert answer.startswith(b"HTTP/1.1 504 ") and answer.count(b"\r\nX-Request-ID: lost-1\r\n") == 1
    until(lambda: log.exists() and log.read_text(), "the line of the request")
    # Its process had the address of the peer, and nobody has it now.
    assert log.read_text() == "127.0.0.1 via -: 504 lost-1\n"
    until(lambda: "lost-1" in service.log(), "the report")


@GRID
def test_lines_of_the_access_log_have_the_form_that_is_given(
    service: Daemon, model: str, native: bool
) -> None:
    log = service.dir / "access.log"
    form = '%{client} via %{peer}: "%{method} %{target}" %{status}'
    flags = ["--access-log", str(log), "--access-log-format", form]
    for address in started(service, model, native, *flags):
        with connect(address) as sock:
            sock.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
            head(sock)
        with connect(address) as sock:
            sock.sendall(b"GET /y HTTP/1.1\r\n\r\n")
            head(sock)
    wanted = {
        f'{client} via {peer}: "GET {line}'
        for peer in ("127.0.0.1", "unix:") for client, line in (("1.2.3.4", '/x" 200'), (peer, '/y" 400'))
    }  # fmt: skip
    until(lambda: log.exists() and set(log.read_text().splitlines()) == wanted, "all lines")


def behind_a_proxy(address: object, path: str) -> None:
    with connect(address) as sock:
        header = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"
        sock.sendall(header + f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\nGET /bad HTTP/1.1\r\n\r\n".encode())
        whole(sock, b"\r\nConnection: close\r\n")


@GRID
def test_the_access_log_has_the_proxy_that_has_sent_a_header(
    service: Daemon, model: str, native: bool
) -> None:
    log = service.dir / "access.log"
    form = "%{client} via %{peer}: %{target} %{status}"
    flags = ["--proxy-protocol", "--access-log", str(log), "--access-log-format", form]
    for address in started(service, model, native, *flags):
        behind_a_proxy(address, "/x")
    wanted = {
        f"192.0.2.7 via {peer}: {line}" for peer in ("127.0.0.1", "unix:") for line in ("/x 200", "/bad 400")
    }
    until(lambda: log.exists() and set(log.read_text().splitlines()) == wanted, "all lines")


ASGI = """
    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        fields = dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert fields[b"x-request-id"].decode() == scope["extensions"]["forkd"]["request_id"]
        await send({"type": "http.response.body", "body": fields[b"x-request-id"]})
"""


def test_an_asgi_application_has_the_same(service: Daemon) -> None:
    log = service.dir / "access.log"
    flags = ["--request-ids", "--server-timing", "--access-log", str(log), "--allowed-hosts", "a"]
    flags += ["--server-header", "shop", "--access-log-format", "%{client} %{peer} %{status} %{request_id}"]
    address, _ = started(service, "leader-followers", True, *flags, app=ASGI)
    with connect(address) as sock:
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: n1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
        )
        answer = whole(sock, b"\r\n\r\n")
        for line in (b"Server: shop", b"X-Request-ID: n1", b"Server-Timing: queue;dur="):
            assert answer.count(b"\r\n" + line) == 1
        assert answer.startswith(b"HTTP/1.1 200 ")
    with connect(address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: b\r\nX-Request-ID: n2\r\n\r\n")
        assert head(sock).startswith(b"HTTP/1.1 421 ")
    wanted = {"1.2.3.4 127.0.0.1 200 n1", "127.0.0.1 127.0.0.1 421 n2"}
    until(lambda: log.exists() and set(log.read_text().splitlines()) == wanted, "both lines")


def test_so_has_its_line_the_proxy(service: Daemon) -> None:
    log = service.dir / "access.log"
    flags = ["--request-ids", "--proxy-protocol", "--access-log", str(log), "--log-format", "json"]
    address, _ = started(service, "leader-followers", True, *flags, app=ASGI)
    behind_a_proxy(address, "/x")
    until(lambda: log.exists() and log.read_text().count("\n") == 2, "both lines")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["client"], line["peer"]) for line in lines] == [("192.0.2.7", "127.0.0.1")] * 2


def test_check_says_what_follows(service: Daemon) -> None:
    flags = ["--forwarded-allow", "127.0.0.1", "--allowed-hosts", "example.org"]
    service.start(*flags)
    with connect(service.address) as sock:
        fields = "X-Real-IP: 1.2.3.4\r\nX-Forwarded-User: a\r\nX-Forwarded-Proto: ftp\r\n"
        sock.sendall(f"GET / HTTP/1.1\r\nHost: example.org\r\n{fields}\r\n".encode())
        head(sock)
    done = service.run("check", *service.flags(*flags))
    assert "note: allowed-hosts: a request for a host that is none of example.org is answered" in done.stdout
    assert "note: keep-alive = 75 s: it has to be longer than" in done.stdout
    assert (
        "x-forwarded-… of another name (1), x-real-ip (1) are none of --forwarded-fields; "
        "x-forwarded-proto (1) were malformed" in done.stdout
    ), done.stdout


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "\xfcb", "x" * 129])
def test_a_value_that_cannot_be_sent_is_refused_at_the_start(service: Daemon, value: str) -> None:
    done = service.run("check", *service.flags("--server-header", value))
    assert done.returncode != 0 and "server-header" in done.stderr
