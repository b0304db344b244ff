"""What proxies say of a client, with real daemons: in each model, over TCP and unix sockets, with and without
native code, over connections of one request and of several.
"""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from forkd.models import registry

from .conftest import Daemon, until

ECHO = """
    import json

    KEYS = (
        "REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SCRIPT_NAME",
        "forkd.peer", "HTTP_X_REAL_IP", "HTTP_X_FORWARDED_FOR",
    )

    def app(environ, start):
        start("200 OK", [])
        return [json.dumps({key: environ[key] for key in KEYS if key in environ}).encode()]
"""
TOLD = (
    "X-Forwarded-For: 6.6.6.6, 2001:DB8::7, 127.0.0.9\r\nX-Forwarded-Proto: https\r\n"
    "X-Forwarded-Host: eggs\r\nX-Forwarded-Prefix: /ham\r\nX-Real-IP: 6.6.6.6\r\n"
)
SEEN = {
    "REMOTE_ADDR": "2001:db8::7", "REMOTE_PORT": "0", "wsgi.url_scheme": "https", "HTTP_HOST": "eggs",
    "SERVER_NAME": "eggs", "SCRIPT_NAME": "/ham", "HTTP_X_FORWARDED_FOR": "6.6.6.6, 2001:DB8::7, 127.0.0.9",
}  # fmt: skip


def ask(sock: socket.socket, fields: str, last: bool = False) -> dict[str, Any]:
    end = "Connection: close\r\n" if last else ""
    sock.sendall(f"GET /a HTTP/1.1\r\nHost: spam\r\n{fields}{end}\r\n".encode())
    answer = b""
    while b"}" not in answer:
        answer += sock.recv(65536) or b"}"
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


def connect(address: object) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.settimeout(10)
    sock.connect(address)  # type: ignore[arg-type]
    return sock


@pytest.mark.parametrize("native", ["native", "no-native"])
@pytest.mark.parametrize("model", [row.name for row in registry.MODELS])
def test_each_model(service: Daemon, model: str, native: str) -> None:
    service.write_app(ECHO)
    path, log = service.dir / "s.sock", service.dir / "access.log"
    flags = ["-b", "127.0.0.1:0", "-b", f"unix:{path}", "-m", model, "--access-log", str(log)]
    service.start(*flags, *(["--no-native"] if native == "no-native" else []))
    peers = {service.address: "127.0.0.1", str(path): ""}
    for address, peer in peers.items():
        for last in (True, False):
            with connect(address) as sock:
                assert ask(sock, TOLD, last) == SEEN | {"forkd.peer": peer}
                if not last:
                    assert ask(sock, "")["REMOTE_ADDR"] == peer
                    assert ask(sock, "X-Forwarded-For: 1.2.3.4\r\n")["REMOTE_ADDR"] == "1.2.3.4"
    dropped = {"field": "x-real-ip", "reason": "not-chosen"}
    until(lambda: service.metric("forkd_forwarded_fields_dropped_total", **dropped) == 4, "all counted")
    until(lambda: log.exists() and log.read_text().count("\n") == 8, "all lines")
    clients = sorted(line.split(" ")[0] for line in log.read_text().splitlines())
    assert clients == sorted(["2001:db8::7"] * 4 + ["1.2.3.4"] * 2 + ["127.0.0.1", "unix:"])


def test_a_reload_changes_who_is_trusted(service: Daemon) -> None:
    service.write_app(ECHO)
    config = service.dir / "forkd.toml"
    base = 'app = "app:app"\nbind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nworkers = 1\n'
    base += f'chdir = "{service.dir}"\n'
    config.write_text(base)
    service.start("-c", str(config), app=None)
    with connect(service.address) as sock:
        assert ask(sock, TOLD, True)["REMOTE_ADDR"] == "2001:db8::7"
    config.write_text(base + 'forwarded-allow = ["10.0.0.0/8", "unix"]\nlog-level = "debug"\n')
    service.ok("reload")
    with connect(service.address) as sock:
        seen = ask(sock, TOLD, True)
        assert (seen["REMOTE_ADDR"], seen["HTTP_HOST"]) == ("127.0.0.1", "spam")
        assert "HTTP_X_FORWARDED_FOR" not in seen
    until(lambda: "127.0.0.1: x-forwarded-for is dropped: untrusted" in service.log(), "a line")
