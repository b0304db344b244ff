"""The sample of an nginx in front: what the application learns of the client, and which requests wait."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import Daemon, until
from .nginx import SAMPLE, command, configured, nginx, with_keepalive

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx (scripts/apt nginx)")

ECHO = """
import json
def app(environ, start):
    told = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
"""

#: `/slow` is answered once the gate is there.
GATE = """
import time
from pathlib import Path
def app(environ, start):
    while environ["PATH_INFO"] == "/slow" and not Path(__file__).with_name("gate").exists():
        time.sleep(0.01)
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def ask(address: object, head: str) -> tuple[str, str]:
    """Head and body of the answer to one request."""
    with socket.create_connection(address) as sock:  # type: ignore[arg-type]
        sock.settimeout(10)
        sock.sendall(head.encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    first, _, rest = answer.partition("\r\n\r\n")
    return first, rest


@pytest.mark.parametrize("keep", [False, True])
def test_nginx_takes_the_sample(tmp_path: Path, keep: bool) -> None:
    sample = with_keepalive(SAMPLE.read_text()) if keep else SAMPLE.read_text()
    text = configured(sample, tmp_path, ("127.0.0.1", 8080), "127.0.0.1:8000")
    (tmp_path / "nginx.conf").write_text(text)
    done = subprocess.run([*command(tmp_path), "-t"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_application_learns_what_the_client_asked_for(service: Daemon, kind: str) -> None:
    service.write_app(ECHO)
    path = service.dir / "s.sock"
    service.start("-w", "1", *(["-b", f"unix:{path}"] if kind == "unix" else []))
    back = f"unix:{path}" if kind == "unix" else f"127.0.0.1:{service.address[1]}"
    with nginx(service.dir, back) as front:
        fields = "Connection: close\r\nX-Request-Id: theirs\r\nX-Forwarded-For: 192.0.2.7\r\n"
        fields += "X-Forwarded-Port: 7\r\nX-Forwarded-Prefix: /theirs\r\nForwarded: for=192.0.2.7\r\n"
        told = json.loads(ask(front, f"GET / HTTP/1.1\r\nHost: Hello.example:8443\r\n{fields}\r\n")[1])
        number = told.pop("HTTP_X_REQUEST_ID")
        assert re.fullmatch("[0-9a-f]{32}", number)
        assert told == {
            "HTTP_HOST": "hello.example:8443",
            "HTTP_CONNECTION": "close",
            "HTTP_X_FORWARDED_HOST": "hello.example:8443",
            "HTTP_X_FORWARDED_PROTO": "http",
            "HTTP_X_FORWARDED_FOR": "192.0.2.7, 127.0.0.1",
        }
        told = json.loads(ask(front, "GET / HTTP/1.0\r\n\r\n")[1])
        assert (told["HTTP_HOST"], told["HTTP_X_FORWARDED_HOST"]) == ("hello.example", "hello.example")
        assert told["HTTP_X_REQUEST_ID"] != number
        # nginx has chosen the server by the target: Host is no way around that one's rules.
        fields = "Host: internal.example:81\r\nConnection: close\r\n"
        told = json.loads(ask(front, f"GET http://hello.example/ HTTP/1.1\r\n{fields}\r\n")[1])
        assert (told["HTTP_HOST"], told["HTTP_X_FORWARDED_HOST"]) == ("hello.example:81",) * 2


@pytest.mark.parametrize("keep", [False, True])
def test_no_fast_request_waits_for_a_slow_one(service: Daemon, keep: bool) -> None:
    """48 of them, beside one that holds a worker until all of them are answered. Connections that nginx
    keeps are for workers with threads."""
    service.write_app(GATE)
    service.start("-w", "4", *(["--threads", "4"] if keep else []))
    sample = with_keepalive(SAMPLE.read_text()) if keep else SAMPLE.read_text()

    def get(front: object, path: str = "/fast") -> str:
        return ask(front, f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")[0].split("\r\n")[0]

    ok, back = "HTTP/1.1 200 OK", f"127.0.0.1:{service.address[1]}"
    with nginx(service.dir, back, sample) as front, ThreadPoolExecutor(49) as pool:
        for _ in range(2):  # nginx has as many connections then as it keeps
            assert list(pool.map(get, [front] * 48)) == [ok] * 48
        slow = pool.submit(get, front, "/slow")
        try:
            begun = lambda: [r for w in service.workers() if (r := w["request"])] == ["GET /slow HTTP/1.1"]  # noqa: E731
            until(begun, "the slow one to begin")
            assert list(pool.map(get, [front] * 48)) == [ok] * 48
            assert not slow.done()
        finally:
            (service.dir / "gate").touch()
        assert slow.result() == ok
