"""The same applications under uvicorn and under forkd: what differs is listed here, with its reason."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import Daemon, until

from .conftest import FAILURES, HERE, take

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed"
)

#: Fields of answers that are each server's own.
OWN = ("date", "server", "connection", "transfer-encoding", "content-length")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    directory = tmp_path_factory.mktemp("uvicorn")
    for name in ("asgi_site", "frameworks/starlette_site", "frameworks/fastapi_site"):
        (directory / f"{Path(name).name}.py").write_text((HERE / f"{name}.py").read_text())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "asgi_site:app", "--fd", str(listener.fileno())],
            cwd=directory, pass_fds=[listener.fileno()], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        where = listener.getsockname()
        try:
            until(lambda: _answers(where), "uvicorn serves")
            yield where
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    service = Daemon(tmp_path_factory.mktemp("forkd"))
    take(service, "asgi_site")
    service.expected_errors = [*FAILURES, "the application (failed on|returned without)", "SystemExit"]
    service.start("-w", "1", app="asgi_site:app")
    yield service.address
    service.finish()


def _answers(where: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError):
        return get(where, "GET", "/hello")[0] == 200
    return False


def get(
    where: tuple[str, int], method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, list[tuple[str, str]], bytes]:
    client = http.client.HTTPConnection(*where, timeout=10)
    with contextlib.closing(client):
        client.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = client.getresponse()
        fields = sorted((k.lower(), v) for k, v in answer.getheaders() if k.lower() not in OWN)
        try:
            read = answer.read()
        except http.client.IncompleteRead as partial:
            read = b"broken off after " + partial.partial
        return answer.status, fields, read


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/hello", None), ("HEAD", "/hello", None), ("GET", "/stream", None),
        ("HEAD", "/stream", None),
        ("POST", "/echo", b"body"), ("POST", "/echo", b""), ("PUT", "/echo", bytes(300_000)),
        ("POST", "/echo", iter([b"in ", b"pieces"])),
        ("GET", "/status/204", None), ("GET", "/status/304", None), ("GET", "/status/404", None),
        ("GET", "/status/299", None), ("GET", "/tasks", None), ("GET", "/variables/1", None),
        ("GET", "/sleeps/0.01", None), ("GET", "/background/0", None), ("GET", "/whole", None),
        ("POST", "/cancelled-receive", bytes(100_000)), ("GET", "/breaks-off", None),
    ],
)  # fmt: skip
def test_answers(theirs: tuple[str, int], ours: tuple[str, int], method: str, path: str, body: Any) -> None:
    if body is not None and not isinstance(body, bytes):
        pieces = list(body)
        assert get(ours, method, path, iter(pieces)) == get(theirs, method, path, iter(pieces))
    else:
        assert get(ours, method, path, body) == get(theirs, method, path, body)


def _fails(answer: tuple[int, list[tuple[str, str]], bytes]) -> bool:
    return answer[0] == 500 or answer[2].startswith(b"broken off")


@pytest.mark.parametrize("path", ["fails", "fails-later", "nothing"])
def test_failures(theirs: tuple[str, int], ours: tuple[str, int], path: str) -> None:
    """uvicorn sends a head at once; forkd with the first body, so that what comes between is a 500."""
    assert get(ours, "GET", f"/{path}")[0] == 500
    assert _fails(get(theirs, "GET", f"/{path}"))


@pytest.mark.parametrize(
    "path", ["/facts", "/facts/%C3%A9%20x?a=%20b", "/facts//a/../b", "/facts/%2F", "/facts/%FF"]
)
def test_scopes(theirs: tuple[str, int], ours: tuple[str, int], path: str) -> None:
    found = [json.loads(get(where, "GET", path, X_Name="value")[2]) for where in (ours, theirs)]
    for facts in found:
        facts["client"][1] = 0
        facts["server"][1] = facts["server"][1] > 0
        facts["headers"] = [[k, re.sub(r"\d{4,}", "PORT", v)] for k, v in facts["headers"]]
        facts.pop("extensions", None)  # uvicorn has none
        facts.pop("setting")  # context variables of the lifespan are set in forkd's requests alone
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("body-first", True), ("start-twice", True), ("unknown", True), ("too-long", True),
        ("too-short", True),
        # uvicorn sends these, or fails of them by chance.
        ("newline", False), ("text", False), ("status", False), ("informational", False),
        ("no-bytes", False),
    ],
)  # fmt: skip
def test_messages_out_of_place(
    theirs: tuple[str, int], ours: tuple[str, int], path: str, same: bool
) -> None:
    assert get(ours, "GET", f"/wrong/{path}/raise")[0] == 500
    if same:
        assert _fails(get(theirs, "GET", f"/wrong/{path}/raise"))
