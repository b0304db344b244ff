"""Flask and Django, two workers, driven by httpx."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from .conftest import Site

PAGES = 25


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    host, port = site.address
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=20) as client:
        yield client


def test_a_session_is_kept_by_whichever_worker(client: httpx.Client) -> None:
    assert client.get("/me").status_code == 403
    answer = client.post("/login", data={"user": "Zoë"}, follow_redirects=True)
    assert answer.text == "Zoë 1"
    assert [x.status_code for x in answer.history] == [303]
    cookies = dict(client.cookies)
    for number in range(2, 6):  # fresh connections, which go to either worker
        answer = httpx.get(client.base_url.join("/me"), cookies=cookies, timeout=20)
        assert answer.text == "Zoë 2"
        assert client.get("/me").text == f"Zoë {number}"


def test_an_upload_of_50_mb_arrives_whole(site: Site, client: httpx.Client) -> None:
    with site.big.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        answer = client.post("/upload", files={"file": file}, data={"title": "large"})
    assert answer.text == f"big.bin large {site.big.stat().st_size} {digest}"
    assert client.get("/").status_code == 200


def test_a_chunked_upload_arrives_whole(client: httpx.Client) -> None:
    pieces = [bytes([n]) * (n * 997 + 1) for n in range(256)]
    answer = client.post("/raw", content=iter(pieces))
    assert "chunked" in answer.request.headers["transfer-encoding"]
    assert answer.text == f"{sum(map(len, pieces))} {hashlib.sha256(b''.join(pieces)).hexdigest()}"
    assert client.post("/raw", content=iter([])).text.startswith("0 ")


def test_a_stream_arrives_piece_by_piece(site: Site, client: httpx.Client) -> None:
    gate = site.dir / "gate"
    gate.unlink(missing_ok=True)
    with client.stream("GET", "/stream") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        lines = answer.iter_lines()
        assert next(lines) == "first"
        gate.touch()  # the rest is made only now
        assert list(lines) == [str(n) for n in range(1000)]


def test_a_static_file_is_sent_whole(site: Site, client: httpx.Client) -> None:
    answer = client.get("/page.txt")
    assert answer.content == site.page.read_bytes()
    assert answer.headers["content-type"].startswith("text/plain")
    assert int(answer.headers["content-length"]) == site.page.stat().st_size


def test_a_piece_of_a_file_and_a_file_that_has_not_changed(
    site: Site, client: httpx.Client
) -> None:
    """Django's FileResponse has neither, and may answer with the whole."""
    page = site.page.read_bytes()
    part = client.get("/page.txt", headers={"Range": "bytes=1000-2999"})
    assert part.content == (page[1000:3000] if part.status_code == 206 else page)
    again = client.get("/page.txt", headers={"If-None-Match": part.headers.get("etag", '"-"')})
    assert again.content == (b"" if again.status_code == 304 else page)
    assert client.get("/page.txt").content == page


@pytest.mark.parametrize("path", ["/", "/page.txt", "/stream", "/nowhere"])
def test_head_is_get_without_a_body(site: Site, client: httpx.Client, path: str) -> None:
    (site.dir / "gate").touch()
    head, get = client.head(path), client.get(path)
    assert head.content == b""
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers.get("content-length") in (get.headers.get("content-length"), None)


def test_error_pages_are_the_applications(client: httpx.Client) -> None:
    missing = client.get("/nowhere")
    assert (missing.status_code, missing.text) == (404, "our own 404")
    broken = client.get("/fail")
    assert (broken.status_code, broken.text) == (500, "our own 500")
    assert client.get("/").status_code == 200


def test_a_redirect_is_followed(client: httpx.Client) -> None:
    answer = client.post("/login", data={"user": "a"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/me")


def test_many_clients_at_once_get_each_its_own(site: Site, client: httpx.Client) -> None:
    def one(number: int) -> list[str]:
        with httpx.Client(base_url=client.base_url, timeout=20) as mine:
            mine.post("/login", data={"user": f"user{number}"})
            return [mine.get("/me").text for _ in range(PAGES)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(8)))
    for number, texts in enumerate(answers):
        assert texts == [f"user{number} {visit}" for visit in range(1, PAGES + 1)]


def test_both_workers_serve(site: Site) -> None:
    url = f"http://{site.address[0]}:{site.address[1]}/"
    clients = [httpx.Client(timeout=20) for _ in range(8)]
    seen = {client.get(url).text for client in clients}
    for client in clients:
        client.close()
    assert seen == {f"hello from {pid}\n" for pid in site.worker_pids()}
