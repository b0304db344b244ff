"""The project's own raw HTTP cases on the wire: every model, native code and its twin."""

from __future__ import annotations

import base64
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from forkd.models import registry
from tests.http.cases import OWN
from tests.process.conftest import Daemon

#: Answers with the body that it was sent; what it must not see, it notes.
APP = """
    def app(environ, start):
        if environ["PATH_INFO"] == "/canary":
            open("canary", "a").write("served\\n")
        body = environ["wsgi.input"].read()
        start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
"""

WAYS = [
    *(["-m", row.name, "--io", row.ios[0]] for row in registry.MODELS),
    ["-m", "proactor", "--io", "aio"],
    ["-m", "leader-followers", "--threads", "4"],
    ["--no-native"],
]


def ask(address: tuple[str, int], raw: bytes) -> bytes:
    """All that is answered. The client sends nothing more, and ends its side."""
    with socket.create_connection(address, 20) as client:
        try:
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused, and closed, before all of it was sent
        data = b""
        try:
            while more := client.recv(65536):
                data += more
        except ConnectionResetError:
            pass  # closed with something unread
        return data


def statuses(data: bytes) -> list[int]:
    """Of the final answers; bodies of these cases look like no status line."""
    found = [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]
    return [code for code in found if code >= 200]


def fault(case: dict[str, Any], address: tuple[str, int]) -> str:
    answer = ask(address, base64.b64decode(case["b64"]))
    found, served = statuses(answer), [200] * case["ok"]
    if case["verdict"] == "accept":
        body = bytes.fromhex(case["body_hex"])
        right = found == served and answer.endswith(b"\r\n\r\n" + body)
    elif case["verdict"] == "reject":
        right = found[:-1] == served and found[len(served) :] >= [400]
    else:
        right = 200 not in found
    return "" if right else f"{case['id']}: {found} {answer[-200:]!r}"


@pytest.mark.parametrize("flags", WAYS, ids=" ".join)
def test_cases_of_our_own(service: Daemon, flags: list[str]) -> None:
    service.write_app(APP)
    service.start(*flags, "-w", "2")
    address = service.address
    with ThreadPoolExecutor(8) as threads:
        faults = list(filter(None, threads.map(lambda case: fault(case, address), OWN)))
    assert not faults, "\n".join(faults)
    assert not (service.dir / "canary").exists()
