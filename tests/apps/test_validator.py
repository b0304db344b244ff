"""An application wrapped in wsgiref.validate.validator: a fault of the server's would be a 500."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.process.conftest import Daemon

from .conftest import HERE, take


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    service = Daemon(tmp_path_factory.mktemp("checked"))
    take(service, "checked_site")
    service.start("-k", "wsgi", app="checked_site:app")
    yield service
    service.finish()


@pytest.fixture
def client(checked: Daemon) -> Iterator[httpx.Client]:
    host, port = checked.address
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=10) as client:
        yield client


SOURCE = (HERE / "checked_site.py").read_text()


@pytest.mark.parametrize(
    "method, path, body, status, text",
    [
        ("GET", "/a/b?c=d&e", None, 200, "GET /a/b c=d&e "),
        ("GET", "/%C3%A9%20?%20", None, 200, "GET /é  %20 "),
        ("HEAD", "/", None, 200, ""),
        ("POST", "/", b"body", 200, "POST /  body"),
        ("POST", "/", [b"in ", b"chunks"], 200, "POST /  in chunks"),
        ("PUT", "/", b"x" * 300_000, 200, "PUT /  " + "x" * 300_000),
        ("OPTIONS", "/", None, 200, "OPTIONS /  "),
        ("GET", "/empty", None, 204, ""),
        ("GET", "/unchanged", None, 304, ""),
        ("GET", "/written", None, 200, "written, and returned"),
        ("GET", "/file", None, 200, SOURCE),
        ("HEAD", "/file", None, 200, ""),
        ("GET", "/memory", None, 200, "x" * 5000),
        ("GET", "/lines", None, 200, "".join(f"{n}\n" for n in range(100))),
        ("GET", "/replaced", None, 410, "gone"),
    ],
)
def test_the_validator_finds_nothing(
    client: httpx.Client, method: str, path: str, body: object, status: int, text: str
) -> None:
    content = iter(body) if isinstance(body, list) else body
    answer = client.request(method, path, content=content)
    assert (answer.status_code, answer.content.decode()) == (status, text)


def test_expect_100_continue(checked: Daemon) -> None:
    with checked.connect() as client:
        file = client.makefile("rb")
        client.sendall(
            b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert file.readline() == b"\r\n"
        client.sendall(b"late")
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"
        file.close()


def test_options_of_the_server_as_a_whole(checked: Daemon) -> None:
    with checked.connect() as client:
        client.sendall(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_that_leaves_in_the_middle(checked: Daemon) -> None:
    for _ in range(5):
        with checked.connect() as client:
            client.sendall(b"GET /lines HTTP/1.1\r\nHost: a\r\n\r\n")
    assert checked.get("/") == "GET /  "
