"""Flask and Django, driven by curl, over TCP and over a unix socket."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from .conftest import Curl, Site


def last(head: str) -> str:
    """The status line of the answer itself, after a 100 Continue or redirects."""
    return head.strip().split("\n\n")[-1].split("\n")[0].strip()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_page(curl: Curl) -> None:
    head, body = curl("/")
    assert last(head) == "HTTP/1.1 200 OK"
    assert body.startswith(b"hello from ")


def test_head(curl: Curl) -> None:
    head, _ = curl("--head", "/page.txt")
    assert last(head) == "HTTP/1.1 200 OK"


def test_http_1_0(site: Site, curl: Curl) -> None:
    (site.dir / "gate").touch()
    head, body = curl("--http1.0", "/stream")
    assert last(head).endswith(" 200 OK")
    assert "chunked" not in head
    assert body.endswith(b"\n999\n")


def test_a_session_with_cookies_and_a_redirect(curl: Curl) -> None:
    jar = ("--cookie", "jar", "--cookie-jar", "jar")
    head, body = curl(*jar, "--location", "--data", "user=curl", "/login")
    assert (last(head), body) == ("HTTP/1.1 200 OK", b"curl 1")
    assert curl(*jar, "/me")[1] == b"curl 2"
    assert last(curl("/me")[0]).split()[1] == "403"


def test_a_form_upload_of_50_mb(site: Site, curl: Curl) -> None:
    """curl sends Expect: 100-continue with it."""
    head, body = curl("--form", f"file=@{site.big}", "--form", "title=large", "/upload")
    assert "100 Continue" in head
    size = site.big.stat().st_size
    assert body.decode() == f"big.bin large {size} {sha256(site.big)}"


def test_a_put_of_50_mb(site: Site, curl: Curl) -> None:
    _, body = curl("--upload-file", str(site.big), "/raw")
    assert body.decode() == f"{site.big.stat().st_size} {sha256(site.big)}"


@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
def test_a_chunked_upload(site: Site, curl: Curl, expect: str) -> None:
    """`curl -T -` asks for 100 Continue by itself: what is sent has no length in advance."""
    chunked = ("--header", "Transfer-Encoding: chunked", "--header", expect)
    _, body = curl(*chunked, "--upload-file", str(site.page), "/raw")
    assert body.decode() == f"{site.page.stat().st_size} {sha256(site.page)}"


def test_a_stream(site: Site, curl: Curl) -> None:
    (site.dir / "gate").touch()
    head, body = curl("/stream")
    assert "transfer-encoding: chunked" in head.lower()
    assert body.decode().split() == ["first", *map(str, range(1000))]


def test_a_static_file(site: Site, curl: Curl) -> None:
    _, body = curl("/page.txt")
    assert body == site.page.read_bytes()


def test_error_pages(curl: Curl) -> None:
    head, body = curl("/nowhere")
    assert (last(head).split()[1], body) == ("404", b"our own 404")
    head, body = curl("/fail")
    assert (last(head).split()[1], body) == ("500", b"our own 500")


def test_one_connection_serves_many(site: Site) -> None:
    url = f"http://{site.address[0]}:{site.address[1]}/"
    done = subprocess.run(
        ["curl", "--silent", "--write-out", "%{num_connects} %{http_code}\n", *["-o/dev/null", url]
         * 5],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.split("\n") == ["1 200", *["0 200"] * 4, ""]
