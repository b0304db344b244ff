"""Real applications behind a real daemon, and curl.

The applications are the files `*_site.py` and `*_handlers.py` beside this one, copied to the
daemon's directory: they know nothing of forkd.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import pytest

from tests.process.conftest import ASGI_MODE, Daemon, service

__all__ = ["service"]  # the fixture, for the tests here

LOOPS = (ASGI_MODE.partition("-")[2],) if ASGI_MODE else ("asyncio", "uvloop")


@pytest.fixture(params=["one of them"] if os.environ.get("TESTS_SAMPLED") else LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """An event loop, for --loop: each of them; in a run of all, one that follows from the test's name."""
    found: str = request.param
    return found if found in LOOPS else LOOPS[crc32(request.node.nodeid.encode()) % len(LOOPS)]


HERE = Path(__file__).parent
SITES = ("flask_site", "django_site")

#: What an application that fails on purpose leaves in the log.
FAILURES = ["Traceback", "failed on purpose", "failed; its connection from .* is closed"]


def take(service: Daemon, *modules: str) -> None:
    """Give the daemon's directory these applications."""
    for module in modules:
        shutil.copy(HERE / f"{module}.py", service.dir)


class Site(Daemon):
    """A daemon that serves a site over TCP and over a unix socket."""

    unix: Path
    page: Path  # a static file
    big: Path  # 50 MB of noise to upload


@pytest.fixture(scope="package")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("big") / "big.bin"
    path.write_bytes(random.Random(1).randbytes(50_000_000))
    yield path
    path.unlink()


@pytest.fixture(scope="package", params=SITES)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, big: Path
) -> Iterator[Site]:
    """Both frameworks, same pages, for all the tests that ask for it."""
    module = request.param
    made = Site(tmp_path_factory.mktemp(module))
    take(made, module)
    made.unix, made.page, made.big = made.dir / "site.sock", made.dir / "page.txt", big
    made.page.write_bytes(b"".join(b"line %d of a static file\n" % n for n in range(20_000)))
    made.expected_errors = FAILURES
    made.start("-b", "127.0.0.1:0", "-b", f"unix:{made.unix}", app=f"{module}:app")
    yield made
    made.finish()
    assert not made.unix.exists()


Curl = Callable[..., tuple[str, bytes]]


@pytest.fixture(params=["tcp", "unix"])
def curl(request: pytest.FixtureRequest, site: Site, tmp_path: Path) -> Curl:
    """curl with the site's address: `curl("-d", "a=b", "/login")` returns (heads, body)."""
    host, port = site.address
    where = ["--unix-socket", str(site.unix)] if request.param == "unix" else []

    def run(*arguments: str) -> tuple[str, bytes]:
        *options, path = arguments
        head, body = tmp_path / "head", tmp_path / "body"
        body.write_bytes(b"")  # curl makes no file for an empty body
        done = subprocess.run(
            [
                "curl", "--silent", "--show-error", "--max-time", "20", *where, *options,
                "--dump-header", str(head), "--output", str(body), f"http://{host}:{port}{path}",
            ],
            capture_output=True, text=True, timeout=30, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, f"curl: {done.stderr}{site.log()}"
        return head.read_text(), body.read_bytes()

    return run


def dial(service: Daemon) -> socket.socket:
    """A connection to the first listener, which is a TCP one, whatever the interface."""
    host, _, port = service.live()["listeners"][0]["address"].rpartition(":")
    return socket.create_connection((host, int(port)), 10)


def read_all(client: socket.socket) -> bytes:
    """Until the server closes."""
    pieces = []
    while data := client.recv(1 << 20):
        pieces.append(data)
    return b"".join(pieces)
