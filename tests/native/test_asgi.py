"""A request under ASGI in native code and in Python, by the same steps of the same application, drawn at
random: the clients get the same, and the application sees the same."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forkd.session.proxy_protocol import compose
from tests.apps.conftest import dial, read_all
from tests.native.scripted_site import BODIES, HEADERS, MADE
from tests.process.conftest import Daemon

FORWARDED = [f"X-Forwarded-{field}" for field in (
    "For: 192.0.2.7", "For: 192.0.2.7:99, 127.0.0.1", "For: unix", "For: nobody", "Proto: https",
    "Proto: wss", "Proto: gopher", "Host: example.net", "Host: example.net:81", "Host: example.org:80",
    "Port: 443", "Port: 81", "Prefix: /mounted", "Prefix: /a@b", "Prefix: /", "Prefix: /a/-._~/",
)] + ["X-Real-IP: 192.0.2.8", "Forwarded: for=192.0.2.9"]  # fmt: skip
NAMES = [f"X-Request-ID: {name}" for name in ("mine-1", "mine-1", "not one", "")]
SEEDS = 8
SCRIPTS_EACH = 25
OPTIONS = [
    "--request-ids", "--server-timing", "--request-timeout", "30", "--limit-concurrency", "50",
    "--proxy-protocol", "--forwarded-allow", "127.0.0.1,192.0.2.1",
]  # fmt: skip
OPTION_SEEDS = 3


@contextlib.contextmanager
def started(directories: pytest.TempPathFactory, *flags: str) -> Iterator[list[Daemon]]:
    made = []
    for way in ([], ["--no-native"], ["-m", "proactor", "--io", "io_uring"]):
        service = Daemon(directories.mktemp("scripted"))
        shutil.copy(Path(__file__).parent / "scripted_site.py", service.dir)
        service.expected_errors = ["."]
        service.start("-w", "1", "--root-path", "/mounted", *flags, *way, app="scripted_site:app")
        made.append(service)
    yield made
    for service in made:
        service.finish()


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    with started(tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="module")
def twins_with_options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    with started(tmp_path_factory, *OPTIONS) as made:
        yield made


def script(draw: random.Random) -> list[Any]:
    """Steps of an application, most of them in an order that makes sense."""
    sizes = [0, 1, 4, 4, 100, 16384, 16385, 70_000, 200_000]
    steps: list[Any] = []
    if draw.random() < 0.9:
        headers = draw.choice([0, 1, 2, 3, 4, draw.randrange(len(HEADERS))])
        status = draw.choice([200, 200, 200, 404, 204, 304, 299, 103, 1000, "200", True])
        steps.append(["start", status, headers])
    steps += [["body", draw.choice(sizes), draw.random() < 0.9] for _ in range(draw.randrange(4))]
    if draw.random() < 0.9:
        odd = ["odd", draw.randrange(len(BODIES))]
        steps.append(draw.choice([["body", draw.choice(sizes), False], ["empty"], odd]))
    others = [
        ["receive"], ["receive"], ["turn"], ["turn"], ["wait"], ["not-awaited"], ["twice"], ["cancelled"],
        ["raise", draw.choice(["error", "exit", "os"])], ["unknown", {"type": "http.response.nothing"}],
        ["unknown", {}], ["unknown", [1]], ["unknown", {"type": 3}], ["start", 200, 0],
    ]  # fmt: skip
    for _ in range(draw.randrange(4)):
        steps.insert(draw.randrange(len(steps) + 1), draw.choice(others))
    if draw.random() < 0.2:
        steps.insert(draw.randrange(len(steps) + 1), ["listens"])
    return [
        [draw.choice(["task", "beside"]), step]
        if draw.random() < 0.1 and step[0] not in ("raise", "listens") else step
        for step in steps
    ]


def request(draw: random.Random) -> bytes:
    body = b"" if draw.random() < 0.6 else bytes(draw.randrange(200))
    method = draw.choice(["POST", "PUT"]) if body else draw.choice(["GET", "GET", "DELETE", "HEAD"])
    path = draw.choice(["/", "/a/b", "/%C3%A9%20x%2Fy?q=%20", "/%ff", "/a?", "/?a=b&c"])
    lines = [f"{method} {path} HTTP/1.1", "Host: example.org:80"]
    if draw.random() < 0.3:
        lines.append("Connection: close")
    others = ["Accept: text/event-stream", "X-A: 1", "x-a: 2", "User-Agent: a", "X-Scribbles: a"]
    lines += draw.sample(others, 3)
    lines += draw.sample(FORWARDED, draw.choice([0, 0, 0, 1, 2, 4]))
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, f"X-Script: {json.dumps(script(draw))}", "", ""]).encode() + body


def played(service: Daemon, raw: bytes, step: int, header: bytes = b"") -> tuple[Any, ...]:
    """What comes back, less what differs by time; whether the connection goes on; and the notes of the
    application. The client sends `step` bytes at a time, behind a header of the PROXY protocol, if any."""
    notes = b"GET /notes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with dial(service) as client:
        behind = header + raw
        with contextlib.suppress(OSError):  # it may be answered before all has come
            for at in range(0, len(behind), step):
                client.sendall(behind[at : at + step])
        answer = http.client.HTTPResponse(client, method=raw.split(b" ")[0].decode())
        answer.begin()
        try:
            body, whole = answer.read(), True
        except http.client.IncompleteRead as error:
            body, whole = error.partial, False
        goes_on, noted = whole and not answer.will_close, b""
        if goes_on:
            with contextlib.suppress(OSError):  # an answer without a body may break off, too
                client.sendall(notes)
                noted = read_all(client)
        goes_on = bool(noted)
        if not goes_on:
            # Its application may go on behind its answer, and may wait for the client to leave: how soon that
            # is would be another race. So the client stays for it.
            service.settles(0, "forkd_requests_suspended")
    if not goes_on:
        with dial(service) as client:
            client.sendall(header + notes)
            noted = read_all(client)
    fields = [
        (name, re.sub(rf"^{MADE}$|(?<=dur=)[\d.]+$", "", value))
        for name, value in answer.getheaders() if name != "Date" or value == "today"
    ]  # fmt: skip
    return answer.status, answer.reason, fields, body, whole, goes_on, noted.partition(b"\r\n\r\n")[2]


def alike(ring: tuple[Any, ...], twin: tuple[Any, ...]) -> bool:
    """The answers of io_uring and epoll. Of one that breaks off the former may have sent less; when an
    application hears that its client has left, is not the same."""
    *head, body, whole, goes_on, notes = ring
    if not whole and twin[3].startswith(body):
        body = twin[3]
    return (*head, body, whole, goes_on) == twin[:-1] and (notes == twin[-1] or not goes_on)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_native_and_twin(twins: list[Daemon], seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(SCRIPTS_EACH):
        raw = request(draw)
        step = draw.choice([len(raw), len(raw), len(raw), 100, 1000])
        native, twin, ring = (played(service, raw, step) for service in twins)
        assert native == twin, raw
        assert alike(ring, twin), raw
    for service in twins:
        service.settles(0, "forkd_requests_in_flight")


def proxy_header(draw: random.Random) -> bytes:
    """One of the PROXY protocol: by text, or in bytes, with what it may have besides."""
    client = (draw.choice(["192.0.2.1", "203.0.113.7"]), 4000)
    if draw.random() < 0.3:
        return f"PROXY TCP4 {client[0]} 198.51.100.1 4000 443\r\n".encode()
    unique, ssl = (0x05, b"name"), (0x20, struct.pack("!BI", 1, 0) + b"\x21\0\x07TLSv1.3")
    more = draw.choice([[], [], [], [unique], [ssl], [ssl, unique]])
    return compose((client, ("198.51.100.1", 443)), more)


@pytest.mark.parametrize("seed", range(OPTION_SEEDS))
def test_so_with_options(twins_with_options: list[Daemon], seed: int) -> None:
    draw = random.Random(f"options {seed}")
    for _ in range(SCRIPTS_EACH):
        line, fields = request(draw).split(b"\r\n", 1)
        named = "\r\n".join([line.decode(), *draw.sample(NAMES, draw.choice([0, 0, 1, 1, 2])), ""])
        raw = named.encode() + fields
        step, header = draw.choice([10_000, 10_000, 10_000, 100, 1000]), proxy_header(draw)
        native, twin, ring = (played(service, raw, step, header) for service in twins_with_options)
        assert native == twin, (header, raw)
        assert alike(ring, twin), (header, raw)
    for service in twins_with_options:
        service.settles(0, "forkd_requests_in_flight")
