"""What an application does to its environ ends no worker, and does not change the access log."""

from __future__ import annotations

import re

import pytest

from .conftest import Daemon, until

APP = r"""
    class Wild:
        def __str__(self):
            raise RuntimeError("str")
        __repr__ = __hash__ = __len__ = __bool__ = __str__

    SPOIL = {
        "/int": lambda e: e.update(HTTP_USER_AGENT=5, HTTP_REFERER=5, REQUEST_METHOD=5),
        "/wild": lambda e: e.update(HTTP_USER_AGENT=Wild(), HTTP_REFERER=Wild()),
        "/bytes": lambda e: e.update(HTTP_USER_AGENT=b"x", HTTP_REFERER=b"y"),
        "/surrogate": lambda e: e.update(HTTP_USER_AGENT="\ud800", HTTP_REFERER="\ud800"),
        "/control": lambda e: e.update(HTTP_USER_AGENT="\n\x1b[31m", HTTP_REFERER="\0\n"),
        "/delete": lambda e: e.pop("REQUEST_METHOD"),
        "/clear": lambda e: e.clear(),
        "/detach": lambda e: setattr(e["wsgi.input"], "close", 5),
        "/hold": lambda e: e.update(kept=e["wsgi.input"].getbuffer()),
    }

    def broken(kind):
        if kind == "/syntax":
            error = SyntaxError("no")
            error.text, error.lineno, error.filename = 5, 1, "x"   # traceback cannot format it
            raise error
        if kind == "/str":
            class Error(Exception):
                def __str__(self): raise SystemExit
            raise Error
        class Error(Exception):
            @property
            def __notes__(self): raise SystemExit
        raise Error

    def app(environ, start):
        if environ["PATH_INFO"] in ("/syntax", "/str", "/notes"):
            broken(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/file":
            import io
            class Tell:
                def __call__(self): return -1.5
            file = io.FileIO(__file__)
            file.tell = file.fileno = Tell()
            start("200 OK", [("Content-Type", "text/plain")])
            return environ["wsgi.file_wrapper"](file)
        start("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/body":
            told = [environ.get(key) for key in ("CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING")]
            return [repr([*told, environ["wsgi.input"].read()]).encode()]
        if environ["PATH_INFO"] == "/proxy":
            return [environ.get("HTTP_PROXY", "none").encode()]
        SPOIL[environ["PATH_INFO"]](environ)
        return [b"ok"]
"""
PATHS = ["int", "wild", "bytes", "surrogate", "control", "delete", "clear", "detach", "hold"]
FIELDS = "Host: a\r\nReferer: http://r/\r\nUser-Agent: agent/1\r\n"


@pytest.mark.parametrize(
    "flags", [[], ["--no-native"], ["--threads", "4"], ["-m", "proactor"], ["--shed-after", "60"]],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("style", ["text", "json"])
def test_what_an_application_does_to_its_environ(
    service: Daemon, flags: list[str], style: str
) -> None:
    service.write_app(APP)
    service.start(*flags, "-w", "1", "--access-log", "access.log", "--log-format", style)
    workers = service.worker_pids()
    wanted = []
    with service.connect() as sock, sock.makefile("rb") as answers:
        for path in PATHS:
            for method, length, body in (
                ("GET", "", b""),
                ("POST", "Content-Length: 2\r\n", b"hi"),
            ):
                head = f"{method} /{path} HTTP/1.1\r\n{FIELDS}{length}\r\n".encode()
                sock.sendall(head + body)
                assert answers.readline() == b"HTTP/1.1 200 OK\r\n", path
                while answers.readline() != b"\r\n":
                    pass
                assert answers.read(2) == b"ok"
                if style == "json":
                    wanted.append(
                        f'"request": "{method} /{path} HTTP/1.1", "status": 200, "bytes": 2, '
                        '"referer": "http://r/", "user_agent": "agent/1"'
                    )
                else:
                    wanted.append(f'"{method} /{path} HTTP/1.1" 200 2 "http://r/" "agent/1"')
    log = service.dir / "access.log"
    until(lambda: log.read_bytes().count(b"\n") == len(wanted), "a line for each request")
    for line, content in zip(log.read_text().splitlines(), wanted, strict=True):
        assert re.search(re.escape(content), line), line
    assert service.worker_pids() == workers


@pytest.mark.parametrize("flags", [[], ["--no-native"]], ids=" ".join)
def test_proxy_does_not_reach_the_application(service: Daemon, flags: list[str]) -> None:
    service.write_app(APP)
    service.start(*flags)
    for fields in ("Proxy: http://evil/", "pRoXY:\t http://evil/ ", "Proxy: a\r\nproxy: b"):
        with service.connect() as sock:
            sock.sendall(
                f"GET /proxy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n\r\n".encode()
            )
            assert sock.makefile("rb").read().endswith(b"\r\n\r\nnone")


@pytest.mark.parametrize("flags", [[], ["--no-native"]], ids=" ".join)
def test_an_exception_that_cannot_be_shown_ends_no_worker(
    service: Daemon, flags: list[str]
) -> None:
    service.expected_errors = ["the application failed", "Traceback"]
    service.write_app(APP)
    service.start(*flags, "-w", "1")
    workers = service.worker_pids()
    for path in ("/syntax", "/str", "/notes"):
        with service.connect() as sock, sock.makefile("rb") as answer:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert answer.read().startswith(b"HTTP/1.1 500 "), path
    until(lambda: "the application failed on GET /syntax HTTP/1.1" in service.log(), "it is said")
    assert service.worker_pids() == workers


def test_a_file_is_sent_whatever_its_methods_say(service: Daemon) -> None:
    service.write_app(APP)
    service.start("-w", "1")
    assert service.get("/file") == (service.dir / "app.py").read_text()


@pytest.mark.parametrize("flags", [[], ["--no-native"], ["--shed-after", "60"]], ids=" ".join)
def test_a_chunked_body_has_its_length_however_the_coding_is_spelt(
    service: Daemon, flags: list[str]
) -> None:
    service.write_app(APP)
    service.start(*flags, "-w", "1")
    cases = {
        "Transfer-Encoding: chunked": "['5', None, b'hello']",
        "Transfer-Encoding: Chunked": "['5', None, b'hello']",  # CFNetwork's
        "transfer-encoding:\tCHUNKED \t": "['5', None, b'hello']",
        "TRANSFER-ENCODING: identity, chunked": "['5', None, b'hello']",
        "Transfer-Encoding: GZip, Chunked": "['5', 'gzip', b'hello']",
        "Transfer-Encoding: deflate,gzip\r\nTransfer-Encoding: cHUNKED": "['5', 'deflate, gzip', b'hello']",
    }
    for field, told in cases.items():
        head = f"POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}\r\n\r\n"
        with service.connect() as sock, sock.makefile("rb") as answer:
            sock.sendall(head.encode() + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n")
            assert answer.read().rpartition(b"\r\n")[2].decode() == told, field
