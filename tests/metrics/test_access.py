"""The rules of who sees the pages of the admin endpoint, and what of them, without a daemon."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from forkd.config import Config
from forkd.errors import StartError
from forkd.http.request import Refused, Request, RequestParser
from forkd.metrics.access import Access, without_queries
from forkd.system.hosts import Hosts

TOKEN = "r2Jb0-xQ.7~k+9/aa=="


def request(*fields: str, target: str = "/metrics", version: str = "1.1") -> Request:
    head = "\r\n".join([f"GET {target} HTTP/{version}", *fields, "", ""])
    found = RequestParser().feed(head.encode())
    assert found is not None
    return found


def status(answer: bytes | None) -> int:
    return 200 if answer is None else int(answer.split()[1])


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1", 200), ("127.0.0.1:9464", 200), ("192.0.2.7:80", 200), ("[::1]", 200), ("[::1]:", 200),
        ("[2001:db8::1]:9464", 200), ("[::ffff:192.0.2.7]:9464", 200),
        ("localhost", 200), ("LocalHost:9464", 200), ("localhost.", 200),
        ("metrics.example", 200), ("METRICS.example.:9464", 200), ("second.example", 200),
        ("evil.metrics.example", 421), ("metrics.example.evil.example", 421), ("localhost.evil.example", 421),
        ("evil.localhost", 421), ("127.0.0.1.evil.example", 421), ("127.0.0.1.", 421), ("1.2.3", 421),
        ("1.2.3.4.5", 421), ("0x7f.1", 421), ("2130706433", 421), ("[::1.2]", 421), ("[]", 400),
        ("forkd", 421),
        ("metrics.example..", 421), ("metrics%2eexample", 421), ("second.example,localhost", 421),
    ],
)  # fmt: skip
def test_which_hosts_are_known(host: str, code: int) -> None:
    access = Access(hosts=Hosts.parse(["metrics.example", "second.example"]))
    try:
        found = status(access.refusal(request(f"Host: {host}")))
    except Refused as refused:  # by the parser of requests, before a page is asked for
        found = refused.status
    assert found == code


def test_the_host_in_the_target_counts() -> None:
    """RFC 9112 3.2.2: an absolute target wins over Host."""
    mine, other = "http://127.0.0.1/metrics", "http://rebound.example/metrics"
    assert status(Access().refusal(request("Host: 127.0.0.1", target=other))) == 421
    assert status(Access().refusal(request("Host: rebound.example", target=mine))) == 200


def test_who_names_no_host_is_no_browser() -> None:
    assert status(Access().refusal(request(version="1.0"))) == 200


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([f"Authorization: Bearer {TOKEN}"], 200), ([f"authorization:bearer  {TOKEN} "], 200),
        ([f"Authorization: Bearer {TOKEN}x"], 401), ([f"Authorization: Bearer {TOKEN[:-1]}"], 401),
        (["Authorization: Bearer"], 401), (["Authorization: Bearer "], 401), ([], 401),
        ([f"Authorization: Basic {TOKEN}"], 401), ([f"Authorization: {TOKEN}"], 401),
        ([f"Authorization: Bearer {TOKEN} {TOKEN}"], 401), ([f"Authorization: Bearer {TOKEN.lower()}"], 401),
        (["Authorization: Bearer wrong", f"Authorization: Bearer {TOKEN}"], 401),
        ([f"Authorization: Bearer {TOKEN}", f"Authorization: Bearer {TOKEN}"], 401),
        ([f"X-Authorization: Bearer {TOKEN}"], 401),
    ],
)  # fmt: skip
def test_what_is_the_token(tmp_path: Path, fields: list[str], code: int) -> None:
    access = Access.of(Config(admin_token_file=str(write(tmp_path / "token"))))
    answer = access.refusal(request("Host: localhost", *fields))
    assert status(answer) == code
    if answer is not None:
        assert b'\r\nWWW-Authenticate: Bearer realm="forkd"' in answer
        # RFC 6750 3: an error is named where a token was given, and only there.
        assert (b'error="invalid_token"' in answer) == (b"the token is wrong" in answer)
    # The right token does not make up for the wrong Host.
    assert status(access.refusal(request("Host: a.example", *fields))) == 421


def write(path: Path, text: str = TOKEN + "\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (TOKEN, 0o644, "has mode 0644"), (TOKEN, 0o604, "has mode 0604"), (TOKEN, 0o660, "has mode 0660"),
        (TOKEN, 0o602, "has mode 0602"), (TOKEN, 0o620, "has mode 0620"), (TOKEN, 0o601, "has mode 0601"),
        ("", 0o600, "must hold the token"), (" \n", 0o600, "must hold the token"),
        ("a b\n", 0o600, "must hold the token"), ("a\nb\n", 0o600, "must hold the token"),
        ("x" * 4097, 0o600, "must hold the token"), ("\u00e9", 0o600, "must hold the token"),
    ],
)  # fmt: skip
def test_which_files_keep_no_secret(tmp_path: Path, text: str, mode: int, why: str) -> None:
    path = write(tmp_path / "token", text, mode)
    with pytest.raises(StartError, match=f"admin-token-file: {path} {why}"):
        Access.of(Config(admin_token_file=str(path)))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
@pytest.mark.parametrize("text", [TOKEN, f" {TOKEN}\r\n\n"])
def test_which_files_do(tmp_path: Path, text: str, mode: int) -> None:
    access = Access.of(Config(admin_token_file=str(write(tmp_path / "token", text, mode))))
    assert access.token == hashlib.sha256(TOKEN.encode()).digest()


def test_the_mode_is_that_of_the_file_behind_a_link(tmp_path: Path) -> None:
    """Secrets of Kubernetes are links."""
    (tmp_path / "link").symlink_to(write(tmp_path / "token", mode=0o644))
    with pytest.raises(StartError, match="has mode 0644"):
        Access.of(Config(admin_token_file=str(tmp_path / "link")))


def test_a_missing_file_and_one_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"admin-token-file: read\(.*token\): ENOENT"):
        Access.of(Config(admin_token_file=str(tmp_path / "token")))
    os.mkfifo(tmp_path / "token", 0o600)  # which is not waited for
    with pytest.raises(StartError, match="is not a regular file"):
        Access.of(Config(admin_token_file=str(tmp_path / "token")))
    with pytest.raises(StartError, match=r"admin-token-file"):
        Access.of(Config(admin_token_file=str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /a?t=1 HTTP/1.1", "GET /a?... HTTP/1.1"),
        ("GET /a?t=1&u=?%20 HTTP/1.1", "GET /a?... HTTP/1.1"),
        ('GET /a"b?t="1" HTTP/1.1', 'GET /a"b?... HTTP/1.1'),
        ("M-SEARCH /a?t HTTP/1.1", "M-SEARCH /a?... HTTP/1.1"),
        ("OPTIONS http://a/b?t HTTP/1.0", "OPTIONS http://a/b?... HTTP/1.0"),
        ("GET /a?cut-by-the-scoreb", "GET /a?..."),
        ("GET /a? HTTP/1.1", "GET /a?... HTTP/1.1"),
        ("GET /a HTTP/1.1", "GET /a HTTP/1.1"),
        ('killed: "GET /a?t=1 HTTP/1.1" for 1 s, eh?', 'killed: "GET /a?... HTTP/1.1" for 1 s, eh?'),
        ('"GET /a?t HTTP/1.1", "POST /b?u HTTP/1.1"', '"GET /a?... HTTP/1.1", "POST /b?... HTTP/1.1"'),
        ("thread 12: PUT /a?t HTTP/1.1", "thread 12: PUT /a?... HTTP/1.1"),
        ("NameError: name 'x'. Did you mean: 'y'?z", "NameError: name 'x'. Did you mean: 'y'?z"),
        ("paused? no", "paused? no"),
    ],
)  # fmt: skip
def test_what_a_query_string_is(text: str, shown: str) -> None:
    assert without_queries(text) == shown


def test_they_are_hidden_at_any_depth() -> None:
    report = {
        "master": {"why": 'the last error: "GET /a?t HTTP/1.1"', "pid": 1},
        "workers": [{"request": "GET /a?t HTTP/1.1", "busy_for": 1.5}, {"request": None}],
        "departures": [{"requests": ({"line": "GET /b?u HTTP/1.1"},)}],
    }
    assert Access().shown(report) == {
        "master": {"why": 'the last error: "GET /a?... HTTP/1.1"', "pid": 1},
        "workers": [{"request": "GET /a?... HTTP/1.1", "busy_for": 1.5}, {"request": None}],
        "departures": [{"requests": [{"line": "GET /b?... HTTP/1.1"}]}],
    }
    assert Access(queries=True).shown(report) == report
