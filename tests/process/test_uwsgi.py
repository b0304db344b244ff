"""Listeners that speak uwsgi in the life of a daemon: who may speak it, where it is refused, what a reload
and an upgrade make of it, and what the front gets when something goes wrong."""

from __future__ import annotations

import ast
import contextlib
import re
import socket

import pytest

from tests.session.packets import packet, params

from .clients import Address
from .conftest import Daemon, until
from .rebinding import rebound

APP = """
    import os, time
    def app(environ, start):
        path = environ["PATH_INFO"]
        if path == "/crash":
            os._exit(3)
        if path == "/hang":
            time.sleep(60)
        if path == "/fail":
            raise RuntimeError("on purpose")
        body = environ["REMOTE_ADDR"].encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""
SWITCH = "127.0.0.1:0?protocol=uwsgi"
MODELS = pytest.mark.parametrize(
    "model", ["leader-followers", "half-sync-half-async", "process-per-connection", "proactor"]
)


def ask(address: Address, path: str = "/a", source: str = "127.0.0.1") -> str:
    """The answer; empty when there is none."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        sock.settimeout(20)
        if not isinstance(address, str):
            sock.bind((source, 0))
        sock.connect(address)
        answer = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sock.sendall(packet(params("GET", path)))
            while data := sock.recv(65536):
                answer += data
    return answer.decode()


@MODELS
def test_only_a_trusted_peer_may_speak_it(service: Daemon, model: str) -> None:
    service.write_app(APP)
    path = f"{service.dir}/s"
    service.start(
        "-b", f"unix:{path}?protocol=uwsgi", "-b", SWITCH, "--forwarded-allow", "127.0.0.9/32", "-m", model
    )
    name = service.live()["listeners"][1]["address"]
    address = "127.0.0.1", int(name.rpartition(":")[2])
    assert ask(address, source="127.0.0.9").endswith("\r\n\r\n203.0.113.7")
    for number, where in enumerate((address, address, path), 1):
        assert ask(where) == ""
        service.settles(number, "forkd_uwsgi_connections_refused_total")
    for who in ("127.0.0.1", "unix"):
        line = f"{who}: not a peer of --forwarded-allow, and speaks uwsgi; closed"
        until(lambda line=line: line in service.log(), line)  # type: ignore[misc]
    assert service.metric("forkd_requests_total") == 1


@MODELS
def test_deadlines_and_clients_that_leave(service: Daemon, model: str) -> None:
    service.write_app(APP)
    service.start("-b", SWITCH, "--header-timeout", "0.3", "--body-timeout", "0.3", "-m", model)
    for part, status in (
        (b"", b""), (b"\0", b" 408 "), (packet(params())[:-1], b" 408 "),
        (packet(params("POST", "/", body=5)) + b"a", b" 408 "),
    ):  # fmt: skip
        with service.connect() as client:
            client.sendall(part)
            assert status in client.recv(1000)
            client.shutdown(socket.SHUT_WR)
    service.settles(0, "forkd_connections")
    assert ask(service.address).startswith("HTTP/1.1 200 ")


@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_what_goes_wrong(service: Daemon, native: str) -> None:
    """A front sees a connection without an answer, which is its 502, or an error of ours."""
    service.write_app(APP)
    service.expected_errors = ["the application failed on GET /fail", "gone: error", "gone: timeout",
                               "Traceback"]  # fmt: skip
    log = service.dir / "access.log"
    service.start("-b", SWITCH, "-w", "2", "--timeout", "1", "--access-log", str(log), native)
    assert re.search(r"serves app:app on 127.0.0.1:\d+ \(uwsgi\)\n", service.log())
    assert ask(service.address, "/fail").startswith("HTTP/1.1 500 ")
    assert ask(service.address, "/crash") == ""
    assert ask(service.address, "/hang").startswith("HTTP/1.1 504 ")
    until(lambda: "GET /hang HTTP/1.1" in service.log(), "the report of what hung")
    assert "203.0.113.7" in service.log()
    assert ask(service.address).startswith("HTTP/1.1 200 ")
    until(lambda: '"GET /a HTTP/1.1" 200' in log.read_text(), "the line")
    assert all(line.startswith("203.0.113.7 - - ") for line in log.read_text().splitlines())


def test_asgi(service: Daemon) -> None:
    service.write_app("""
        async def app(scope, receive, send):
            if scope["type"] != "http":
                return
            body = b""
            while (message := await receive()).get("more_body"):
                body += message["body"]
            names = "scheme path raw_path root_path query_string client server http_version".split()
            said = repr(([scope[name] for name in names], len(body + message["body"]))).encode()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": said[:9], "more_body": True})
            await send({"type": "http.response.body", "body": said[9:]})
    """)
    service.start("-b", SWITCH)
    given = ("PATH_INFO", "/aA%"), ("SCRIPT_NAME", "/app"), ("HTTPS", "on")
    ends = ("203.0.113.7", 4000), ("hello.example", 8080)
    for size in (None, 5, 300_000):
        with service.connect() as client:
            client.sendall(packet(params("POST", "/a%41%25?b=c", *given, body=size)) + b"x" * (size or 0))
            answer = b"".join(iter(lambda client=client: client.recv(65536), b""))  # type: ignore[misc]
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"chunked" not in head
        said = ["https", "/app/aA%", b"/app/aA%25", "/app", b"b=c", *ends, "1.0"]
        assert ast.literal_eval(body.decode()) == (said, size or 0)


def test_streams_are_refused_at_the_start(service: Daemon) -> None:
    service.write_app("""
        import socketserver, asyncio
        class Handler(socketserver.StreamRequestHandler): ...
        class Protocol(asyncio.Protocol): ...
    """)
    service.expected_errors = ["gone: boot", "the service did not start"]
    for app in ("app:Handler", "app:Protocol"):
        done = service.run("start", app, "-b", SWITCH)
        assert done.returncode != 0
        assert "requests come there by uwsgi, and the application makes streams" in done.stderr


def test_admin_and_health_speak_http(service: Daemon) -> None:
    service.write_app(APP)
    done = service.run("check", "app:app", "--admin", "127.0.0.1:0?protocol=uwsgi")
    assert done.returncode != 0
    assert "speaks HTTP, not uwsgi" in done.stderr + done.stdout


@pytest.mark.parametrize("place", ["127.0.0.1:{}", "unix:{}/s"])
@pytest.mark.parametrize("model", ["leader-followers", "half-sync-half-async"])
def test_a_reload_and_an_upgrade_turn_it_on_and_off(service: Daemon, place: str, model: str) -> None:
    service.write_app(APP)
    changes = [("reload", "?protocol=uwsgi"), ("reload", ""), ("upgrade", "?protocol=uwsgi")]
    for options, where in rebound(service, place, changes, "-m", model):
        status = "200 OK" if options else "400 Bad Request"
        assert ask(where).startswith(f"HTTP/1.1 {status}")
