"""The samples of etc/ behind which an application sees its clients, with the fronts that they are for."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from .canary import APP, requests, seen
from .conftest import Daemon, until
from .fronts import BY_NAME, ETC, KINDS, Front, Kind, front, reserved
from .haproxy import HAProxy

#: Fields with which a client claims to be another.
SPOOFED = {
    "X-Forwarded-For": "192.0.2.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "theirs.example",
    "X-Forwarded-Port": "7",
    "X-Forwarded-Prefix": "/theirs",
    "X-Real-IP": "192.0.2.7",
    "Forwarded": "for=192.0.2.7;proto=https;host=theirs.example",
    "X-Request-ID": "theirs",
}
MIB = 1 << 20


class Behind(NamedTuple):
    service: Daemon
    front: Front


def kinds(*wanted: Kind) -> list[Any]:
    return [
        pytest.param(
            kind, id=kind.name,
            marks=pytest.mark.skipif(not kind.there, reason=f"needs {kind.program}: scripts/apt"),
        )
        for kind in wanted
    ]  # fmt: skip


REQUESTS = [kind for kind in KINDS if not kind.connections]
CONNECTIONS = [kind for kind in KINDS if kind.connections]


@pytest.fixture(scope="module", params=kinds(*REQUESTS))
def behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    service = Daemon(tmp_path_factory.mktemp("f"))
    service.write_app(APP)
    try:
        flags = ["--health", "127.0.0.1:0", "--forwarded-allow", "127.0.0.1"]  # 127.0.0.9 is a client
        service.start("-w", "1", "--threads", "4", *flags, "-b", request.param.bind)
        with front(request.param, service.dir / "front", service) as made:
            (made.directory / "static").mkdir()
            (made.directory / "static/a.txt").write_text("from a file")
            service.open_up(made.directory)
            yield Behind(service, made)
    finally:
        service.finish()


def changed(kind: Kind, *changes: tuple[str, str]) -> str:
    """The sample, with what it has as a comment in force."""
    text = (ETC / kind.sample).read_text()
    for found, wanted in changes:
        assert text.count(found) == 1, found
        text = text.replace(found, wanted)
    return text


def connect(front: Front, source: str = "127.0.0.1") -> http.client.HTTPConnection:
    return http.client.HTTPConnection(*front.address, timeout=20, source_address=(source, 0))


def ask(client: http.client.HTTPConnection, method: str, target: str, **more: Any) -> tuple[int, bytes]:
    client.request(method, target, **more)
    answer = client.getresponse()
    return answer.status, answer.read()


def told(client: http.client.HTTPConnection, method: str, target: str, **more: Any) -> dict[str, Any]:
    """What the application has seen of the request."""
    status, body = ask(client, method, target, **more)
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def test_the_application_sees_the_client(behind: Behind) -> None:
    """And nothing of what it claims to be."""
    client = connect(behind.front, "127.0.0.9")
    for claimed in ({}, SPOOFED):
        seen = told(client, "GET", "/a%2Fb?c=%20", headers={"Host": "hello.example:8443", **claimed})
        assert seen["REMOTE_ADDR"] == "127.0.0.9"
        assert seen["forkd.peer"] == "127.0.0.1"
        assert seen["wsgi.url_scheme"] == "http"
        assert (seen["HTTP_HOST"], seen["SERVER_NAME"]) == ("hello.example:8443", "hello.example")
        uwsgi = "uwsgi" in behind.front.kind.bind  # nginx says its own port then
        port = behind.front.address[1] if uwsgi else 8443
        assert (seen["SERVER_PORT"], seen["SCRIPT_NAME"]) == (str(port), "")
        assert (seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/a/b", "c=%20")
        assert seen["RAW_URI"] == "/a%2Fb?c=%20"
        assert not {"HTTP_X_REAL_IP", "HTTP_FORWARDED"} & set(seen)
        assert seen.get("HTTP_X_REQUEST_ID") != "theirs"
    client.close()


@pytest.mark.parametrize("kind", kinds(*(kind for kind in REQUESTS if "uwsgi" not in kind.bind)))
def test_an_asgi_application_sees_the_client(service: Daemon, kind: Kind) -> None:
    service.write_app(APP)
    flags = ["--health", "127.0.0.1:0", "--forwarded-allow", "127.0.0.1"]
    service.start("-w", "1", *flags, app="app:asgi")
    with front(kind, service.dir / "front", service) as made:
        client = connect(made, "127.0.0.9")
        for claimed in ({}, SPOOFED):
            seen = told(client, "POST", "/a%2Fb", body=b"abc", headers={"Host": "hello.example", **claimed})
            assert (seen["REMOTE_ADDR"], seen["forkd.peer"]) == ("127.0.0.9", "127.0.0.1")
            assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("http", "hello.example")
            assert (seen["SERVER_NAME"], seen["SCRIPT_NAME"]) == ("hello.example", "")
            assert (seen["PATH_INFO"], seen["size"]) == ("/a/b", 3)
        client.close()


#: What brings TLS into a sample: lines that it has as comments, with a port and a certificate of the test.
#: Varnish has none: what does it for Varnish speaks the PROXY protocol to another port.
BY_TLS = {
    "nginx": (
        ("# listen 443 ssl;", "listen 127.0.0.1:{tls} ssl;"),
        ("# ssl_certificate     /etc/ssl/hello.pem;", "ssl_certificate {pem};"),
        ("# ssl_certificate_key /etc/ssl/hello.key;", "ssl_certificate_key {key};"),
    ),
    "HAProxy": (("# bind :443 ssl crt /etc/ssl/hello.pem", "bind 127.0.0.1:{tls} ssl crt {pem}"),),
    "Apache": (
        ("<VirtualHost *:80>", "Listen 127.0.0.1:{tls}\n<VirtualHost *:80 *:{tls}>"),
        ("# SSLEngine on", "SSLEngine on"),
        ("# SSLCertificateFile    /etc/ssl/hello.pem", "SSLCertificateFile {pem}"),
        ("# SSLCertificateKeyFile /etc/ssl/hello.key", "SSLCertificateKeyFile {key}"),
    ),
    "Varnish": (("local.ip) == 8443", "local.ip) == {tls}"),),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("kind", kinds(*(BY_NAME[name] for name in BY_TLS)))
def test_the_scheme_is_https(service: Daemon, kind: Kind) -> None:
    pem, key = service.dir / "hello.pem", service.dir / "hello.pem.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=hello.example"]
    command += ["-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    pem.write_text(pem.read_text() + key.read_text())
    service.write_app(APP)
    service.start("-w", "1", "--health", "127.0.0.1:0", "--forwarded-allow", "127.0.0.1")
    text = changed(kind, *BY_TLS[kind.name])
    with reserved() as tls:
        for name, value in (("tls", tls), ("pem", pem), ("key", key)):
            text = text.replace(f"{{{name}}}", str(value))
        if kind.name == "Varnish":
            kind = kind._replace(command=(*kind.command, "-a", f"127.0.0.1:{tls},PROXY"))
        fields = {"Host": "hello.example", **SPOOFED, "X-Forwarded-Proto": "http"}
        with front(kind, service.dir / "front", service, text=text):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            source = ("127.0.0.9", 0)
            client = http.client.HTTPConnection("127.0.0.1", tls, timeout=20, source_address=source)
            client.connect()
            if kind.name == "Varnish":
                client.sock.sendall(b"PROXY TCP4 127.0.0.9 127.0.0.1 40000 443\r\n")
            else:
                client.sock = context.wrap_socket(client.sock, server_hostname="hello.example")
            seen = told(client, "GET", "/a", headers=fields)
            client.close()
    assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("https", "hello.example")
    assert (seen["REMOTE_ADDR"], seen["SERVER_PORT"]) == ("127.0.0.9", "443")


def test_bodies_up_to_the_limit_come_through(behind: Behind) -> None:
    client = connect(behind.front)
    assert told(client, "POST", "/", body=bytes(3 * MIB))["size"] == 3 * MIB
    pieces = iter([bytes(70_000)] * 10)
    assert told(client, "POST", "/", body=pieces, encode_chunked=True)["size"] == 700_000
    client.close()
    with socket.create_connection(behind.front.address, 20) as sock:
        fields = f"Host: a\r\nContent-Length: {100 * MIB + 1}"
        sock.sendall(f"POST /big HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_connections_to_forkd_are_kept(behind: Behind) -> None:
    """By those that can, and whose sample has it so: nginx.conf tells why it has none by default."""
    client = connect(behind.front)
    told(client, "GET", "/")
    before = behind.service.metric("forkd_connections_accepted_total")
    for _ in range(20):
        told(client, "GET", "/")
        told(client, "POST", "/", body=b"abc")
    client.close()
    made = behind.service.metric("forkd_connections_accepted_total") - before
    if behind.front.kind.name in ("nginx", "nginx, uwsgi", "lighttpd"):
        assert made == 40
    else:
        assert made <= 2


#: What a sample tells to change for the other way to connect to forkd, and whether connections are kept then.
OTHER_WAY = {
    "nginx": (("# keepalive 32;", "keepalive 32;"), ('close;  # with keepalive: ""', '"";')),
    "HAProxy": (("# option http-server-close", "option http-server-close"),),
    "Apache": (("ttl=60", "disablereuse=on"),),
    "Varnish": (('# set bereq.http.Connection = "close";', 'set bereq.http.Connection = "close";'),),
}


@pytest.mark.parametrize("kind", kinds(*(kind for kind in REQUESTS if kind.name in OTHER_WAY)))
def test_the_other_way_to_connect(service: Daemon, kind: Kind) -> None:
    service.write_app(APP)
    service.start("-w", "1", "--threads", "4", "--health", "127.0.0.1:0")
    with front(kind, service.dir / "front", service, text=changed(kind, *OTHER_WAY[kind.name])) as made:
        client = connect(made)
        for _ in range(10):
            told(client, "GET", "/")
            told(client, "POST", "/", body=b"abc")
        client.close()
    count = service.metric("forkd_connections_accepted_total")
    assert count == 1 if kind.name == "nginx" else count >= 20


def test_apache_behind_another_proxy(service: Daemon) -> None:
    """mod_remoteip makes a client of what that says, and forkd is told of the client."""
    kind = BY_NAME["Apache"]
    if not kind.there:
        pytest.skip("needs apache2: scripts/apt")
    service.write_app(APP)
    service.start("-w", "1", "--health", "127.0.0.1:0")
    text = changed(kind, ("# RemoteIPHeader", "RemoteIPHeader"),
                   ("# RemoteIPInternalProxy 10.0.3.0/24", "RemoteIPInternalProxy 127.0.0.1"))  # fmt: skip
    with front(kind, service.dir / "front", service, text=text) as made:
        for source, client in (("127.0.0.1", "192.0.2.7"), ("127.0.0.9", "127.0.0.9")):
            connection = connect(made, source)
            assert told(connection, "GET", "/", headers=SPOOFED)["REMOTE_ADDR"] == client
            connection.close()


def test_events_come_at_once(behind: Behind) -> None:
    gate = behind.service.dir / "gate"
    gate.unlink(missing_ok=True)
    client = connect(behind.front)
    client.request("GET", "/events")
    answer = client.getresponse()
    assert answer.read(9) == b"data: 1\n\n"
    gate.touch()
    assert answer.read() == b"data: 2\n\n"
    client.close()


def test_files_are_the_front_s(behind: Behind) -> None:
    if "/static/" not in (behind.front.directory / behind.front.kind.sample).read_text():
        pytest.skip(f"{behind.front.kind.name} serves no files")
    client = connect(behind.front)
    assert ask(client, "GET", "/static/a.txt") == (200, b"from a file")
    client.close()


UPGRADES = """
    class Echo:
        def connection_made(self, transport):
            self.transport, self.head = transport, b""

        def data_received(self, data):
            if self.head is None:
                self.transport.write(data.upper())
                return
            self.head += data
            if b"\\r\\n\\r\\n" in self.head:
                head, self.head = self.head.lower(), None
                assert b"\\r\\nupgrade: websocket\\r\\n" in head, head
                self.transport.write(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\n"
                                     b"Connection: Upgrade\\r\\n"
                                     b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\\r\\n\\r\\n")

        def eof_received(self):
            pass

        def connection_lost(self, error):
            pass

        def pause_writing(self):
            pass

        resume_writing = pause_writing
"""


@pytest.mark.parametrize("kind", kinds(*(kind for kind in REQUESTS if "uwsgi" not in kind.bind)))
def test_a_websocket_comes_through(service: Daemon, kind: Kind) -> None:
    service.write_app(UPGRADES)
    service.start("-w", "1", "--health", "127.0.0.1:0", "--interface", "stream", app="app:Echo")
    with front(kind, service.dir / "front", service) as made:
        upgrade(made.address)


def upgrade(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 20) as sock:
        fields = "Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        fields += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        sock.sendall(f"GET /chat HTTP/1.1\r\n{fields}Sec-WebSocket-Version: 13\r\n\r\n".encode())
        got = b""
        while b"\r\n\r\n" not in got:
            got += sock.recv(65536) or b"\r\n\r\n"
        assert got.startswith(b"HTTP/1.1 101 "), got
        for text in (b"one", b"two"):
            sock.sendall(text)
            assert sock.recv(65536) == text.upper()


# ---- fronts that pass on connections ----------------------------------------------------------


@pytest.mark.parametrize("kind", kinds(*CONNECTIONS))
def test_the_client_comes_by_the_proxy_protocol(service: Daemon, kind: Kind) -> None:
    service.write_app(APP)
    service.start("-w", "1", "--health", "127.0.0.1:0", "--proxy-protocol", "--forwarded-allow", "127.0.0.1")
    with front(kind, service.dir / "front", service) as made:
        client = connect(made, "127.0.0.9")
        for claimed in ({}, SPOOFED):
            seen = told(client, "GET", "/a", headers={"Host": "hello.example", **claimed})
            assert (seen["REMOTE_ADDR"], seen["forkd.peer"]) == ("127.0.0.9", "127.0.0.1")
            assert (seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("http", "hello.example")
            assert not {"HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED"} & set(seen)
        assert ("unique_id" in seen["forkd.proxy"]) == (kind.program == "haproxy")
        client.close()
        if kind.program == "haproxy":
            state = lambda: HAProxy(made.directory, {}).state("forkd", "one")  # noqa: E731
            until(lambda: state() == ("UP", "L7OK"), "a check without a header", 20)
    assert service.metric("forkd_proxy_headers_refused_total") == 0


@pytest.mark.parametrize("kind", kinds(*CONNECTIONS))
def test_a_stream_comes_through(service: Daemon, kind: Kind) -> None:
    service.write_app(UPGRADES)
    flags = ["--health", "127.0.0.1:0", "--proxy-protocol", "--interface", "stream"]
    service.start("-w", "1", *flags, app="app:Echo")
    with front(kind, service.dir / "front", service) as made:
        upgrade(made.address)


PROBE = """
    .proxy_header = {};
    .probe = {{ .url = "/probe"; .interval = 0.1s; .window = 1; .threshold = 1; }}
"""


@pytest.mark.parametrize("kind", kinds(BY_NAME["Varnish"]))
@pytest.mark.parametrize(("version", "probes"), [(1, "tcp4"), (2, "local")])
def test_varnish_sends_the_proxy_protocol(service: Daemon, kind: Kind, version: int, probes: str) -> None:
    """With its probes: the client is Varnish itself, or none."""
    service.write_app(APP)
    flags = ["--health", "127.0.0.1:0", "--proxy-protocol", "--forwarded-allow", "127.0.0.1"]
    service.start("-w", "1", *flags)
    host = '.host = "127.0.0.1";'
    text = changed(kind, (host, host + PROBE.format(version)))
    with front(kind, service.dir / "front", service, text=text) as made:
        client = connect(made, "127.0.0.9")
        assert told(client, "GET", "/a", headers=SPOOFED)["REMOTE_ADDR"] == "127.0.0.9"
        client.close()
        until(lambda: requests(service.dir)["GET", "probe"] >= 3, "three probes")
    found = [each for each in seen(service.dir) if each["PATH_INFO"] == "/probe"]
    assert {(each["REMOTE_ADDR"], probes in each["forkd.proxy"]) for each in found} == {("127.0.0.1", True)}
    assert service.metric("forkd_proxy_headers_refused_total") == 0
