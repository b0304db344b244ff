"""Frameworks that speak ASGI, as their users write them, over real sockets."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator

import httpx
import pytest

from tests.process.conftest import Daemon, until

from .conftest import FAILURES, HERE

SITES = {
    "starlette": "starlette", "fastapi": "fastapi", "django_asgi": "django", "quart": "quart",
    "falcon": "falcon", "litestar": "litestar", "blacksheep": "blacksheep", "channels": "channels",
}  # fmt: skip


@pytest.fixture(scope="module", params=SITES)
def framework(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if importlib.util.find_spec(SITES[request.param]) is None:
        pytest.skip(f"{SITES[request.param]} is not installed")
    service = Daemon(tmp_path_factory.mktemp(request.param))
    shutil.copy(HERE / "frameworks" / f"{request.param}_site.py", service.dir)
    service.expected_errors = [*FAILURES, "the application failed on GET /fails", "Exception on request"]
    service.start("-w", "1", app=f"{request.param}_site:app")
    yield service
    service.finish()


@pytest.fixture
def client(framework: Daemon) -> Iterator[httpx.Client]:
    host, port = framework.address
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=20) as client:
        yield client


def test_a_view(client: httpx.Client) -> None:
    for _ in range(3):
        answer = client.get("/view", params={"name": "é"})
        assert (answer.status_code, answer.text) == (200, "view of é")
    assert client.get("/nothing").status_code == 404


def test_a_stream(client: httpx.Client) -> None:
    assert client.get("/stream").text == "0,1,2,3,4,"


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_an_upload(client: httpx.Client, size: int) -> None:
    answer = client.post("/upload", files={"file": ("name", bytes(size))})
    assert (answer.status_code, answer.text) == (200, str(size))


def test_a_background_task(client: httpx.Client) -> None:
    before = int(client.get("/done").text)
    assert client.get("/background").text == "answered"
    until(lambda: int(client.get("/done").text) == before + 1, "it has run")


def test_a_failure(client: httpx.Client) -> None:
    assert client.get("/fails").status_code == 500
    assert client.get("/view?name=a").text == "view of a"


def test_a_websocket(framework: Daemon) -> None:
    if not (framework.dir / "django_asgi_site.py").exists():  # which has none without Channels
        client_of = pytest.importorskip("websockets.sync.client")
        host, port = framework.address
        with client_of.connect(f"ws://{host}:{port}/echo") as client:
            for text in ("one", "é" * 10_000):
                client.send(text)
                assert client.recv() == f"echo of {text}"


def test_a_websocket_in_threads(framework: Daemon) -> None:
    """Each message is a call in a thread, as Channels' WebsocketConsumer has it."""
    if not (framework.dir / "channels_site.py").exists():
        pytest.skip("Channels alone has it")
    client_of = pytest.importorskip("websockets.sync.client")
    host, port = framework.address
    url = f"ws://{host}:{port}"
    with client_of.connect(f"{url}/threads") as one, client_of.connect(f"{url}/echo") as two:
        for number in range(50):
            one.send(f"{number}")
            two.send(f"{number}")
            assert one.recv() == two.recv() == f"echo of {number}"
