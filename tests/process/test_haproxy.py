"""HAProxy in front, which sends headers of the PROXY protocol."""

from __future__ import annotations

import ast
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import Daemon, until
from .haproxy import haproxy, needs_haproxy
from .nginx import nginx

pytestmark = needs_haproxy

APP = """
def app(environ, start):
    ends = [environ[name] for name in ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT")]
    start("200 OK", [("Content-Type", "text/plain")])
    return [repr((ends, environ["wsgi.url_scheme"], environ["forkd.proxy"])).encode()]
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
#: Ways to send a header, by the name of a frontend without TLS; "all" has one with TLS, too.
WAYS = {
    "one": "send-proxy",
    "two": "send-proxy-v2",
    "all": "send-proxy-v2-ssl-cn proxy-v2-options "
    "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,crc32c,unique-id,authority",
}
SENDER = """
frontend {0}
    mode tcp
    bind {{{0}}}
    bind unix@{{dir}}/{0}.sock
    unique-id-format %ci-%cp
    use_backend to_{0}
backend to_{0}
    mode tcp
    server s {1} {2}
"""
TLS = """
frontend tls
    mode tcp
    bind {{tls}} ssl crt {0} alpn h2,http/1.1 verify optional ca-file {0}.crt
    unique-id-format %ci-%cp
    use_backend to_all
"""
PROBER = """
listen {0}
    mode http
    bind {{{0}}}
    {1}
    server s {2} {3} check inter 100 rise 3 fall 1
"""
FIELDS = """
def app(environ, start):
    start("200 OK", [("Content-Type", "text/plain")])
    names = ("REMOTE_ADDR", "HTTP_X_FORWARDED_FOR", "wsgi.url_scheme", "forkd.peer")
    return [repr(tuple(map(environ.get, names))).encode()]
"""
MODELS = pytest.mark.parametrize(
    "flags",
    [
        ["-m", "leader-followers"],
        ["-m", "leader-followers", "--no-native"],
        ["-m", "leader-followers", "--threads", "4"],
        ["-m", "half-sync-half-reactive", "--threads", "4"],
        ["-m", "half-sync-half-async"],
        ["-m", "process-per-connection"],
        ["-m", "proactor"],
    ],
    ids=" ".join,
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With its key, signed by itself: of the server, and of a client."""
    made = tmp_path_factory.mktemp("certificate") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=client.example"]
    subprocess.run([*command, "-keyout", made, "-out", f"{made}.crt"], check=True, capture_output=True)
    made.write_text(made.read_text() + Path(f"{made}.crt").read_text())
    return made


def ask(sock: socket.socket, request: bytes = REQUEST) -> Any:
    """What the application has seen of the connection."""
    with sock:
        sock.settimeout(20)
        sock.sendall(request)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer
    return ast.literal_eval(body.decode())


def by_tls(address: tuple[str, int], certificate: Path | None) -> tuple[ssl.SSLSocket, tuple[str, int]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if certificate is not None:
        context.load_cert_chain(certificate)
    raw = socket.create_connection(address, 20)
    source = raw.getsockname()
    return context.wrap_socket(raw, server_hostname="sni.example"), source


@MODELS
def test_what_it_sends_is_what_the_application_sees(
    service: Daemon, flags: list[str], certificate: Path
) -> None:
    service.write_app(APP)
    service.start("--proxy-protocol", *flags)
    back = "{}:{}".format(*service.address)
    text = "".join(SENDER.format(name, back, way) for name, way in WAYS.items()) + TLS.format(certificate)
    with haproxy(service.dir, text, *WAYS, "tls") as front:
        for name, version in (("one", 1), ("two", 2), ("all", 2)):
            address = front.addresses[name]
            sock = socket.create_connection(address, 20, ("127.0.0.9", 0))
            source = sock.getsockname()
            ends, scheme, facts = ask(sock)
            assert ends == [*map(str, (*source, *address))]
            assert (scheme, facts["version"], facts["transport"]) == ("http", version, "tcp4")
            assert (facts["source"], facts["destination"]) == (source, address)
            assert facts["peer"][0] == "127.0.0.1" and facts["peer"] != source
            unique = b"%s-%d" % (source[0].encode(), source[1])
            assert facts.get("unique_id") == (unique if name == "all" else None)
            assert facts.get("ssl") == (
                {"tls": False, "certificate": False, "verified": False} if name == "all" else None
            )
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(f"{service.dir}/{name}.sock")
            ends, scheme, facts = ask(sock)
            assert ends == [*map(str, (*facts["peer"], *service.address))]
            assert facts["transport"] == ("unknown" if version == 1 else "local")
        for given in (None, certificate):
            sock, source = by_tls(front.addresses["tls"], given)
            ends, scheme, facts = ask(sock)
            assert ends[:2] == [source[0], str(source[1])]
            assert (scheme, facts["alpn"], facts["authority"]) == ("https", "http/1.1", "sni.example")
            tls = facts["ssl"]
            assert tls["version"].startswith("TLSv1.") and tls["cipher"] and tls["signature_algorithm"]
            assert (tls["tls"], tls["key_algorithm"]) == (True, "RSA2048")
            assert (tls["certificate"], tls["verified"], tls.get("cn")) == (
                (True, True, "client.example") if given else (False, False, None)
            )
    assert service.metric("forkd_proxy_headers_refused_total") == 0


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_its_probes_are_served(service: Daemon, send: str) -> None:
    """Those that ask for a page, and those that only connect: they are of no client."""
    service.write_app(APP)
    service.start("--proxy-protocol", "--access-log", f"{service.dir}/access")
    back = "{}:{}".format(*service.address)
    kinds = {"page": "option httpchk GET /probe", "bare": ""}
    text = "".join(PROBER.format(name, kind, back, send) for name, kind in kinds.items())
    with haproxy(service.dir, text, "page", "bare") as front:
        until(lambda: (service.dir / "access").read_text().count("/probe") >= 5, "five probes", 20)
        until(lambda: front.state("bare", "s") == ("UP", "L4OK"), "one that only connects", 20)
        assert front.state("page", "s") == ("UP", "L7OK")
    log = (service.dir / "access").read_text()
    assert all(line.startswith("127.0.0.1 ") and '" 200 ' in line for line in log.splitlines())
    assert service.metric("forkd_proxy_headers_refused_total") == 0


@pytest.mark.parametrize("way", ["one", "two"])
@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_fields_are_believed_of_the_client_that_it_names(service: Daemon, way: str, native: str) -> None:
    """HAProxy passes on what its clients have written. Only one of them is trusted: a proxy, as nginx is."""
    service.write_app(FIELDS)
    service.start("--proxy-protocol", "--forwarded-allow", "127.0.0.1/32", native)
    fields = "X-Forwarded-For: 203.0.113.5\r\nX-Forwarded-Proto: https"
    request = f"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n\r\n".encode()
    text = SENDER.format(way, "{}:{}".format(*service.address), WAYS[way])
    with haproxy(service.dir, text, way) as front:
        for source, seen in (
            ("127.0.0.9", ("127.0.0.9", None, "http", "127.0.0.1")),
            ("127.0.0.1", ("203.0.113.5", "203.0.113.5", "https", "127.0.0.1")),
        ):
            assert ask(socket.create_connection(front.addresses[way], 20, (source, 0)), request) == seen
        # A unix client has no address: then the peer is HAProxy itself, which is trusted.
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(f"{service.dir}/{way}.sock")
        assert ask(sock, request) == ("203.0.113.5", "203.0.113.5", "https", "127.0.0.1")
        if shutil.which("nginx") is not None:
            with nginx(service.dir, "{}:{}".format(*front.addresses[way])) as address:
                sock = socket.create_connection(address, 20, ("127.0.0.9", 0))
                assert ask(sock, request)[0] == "127.0.0.9"
