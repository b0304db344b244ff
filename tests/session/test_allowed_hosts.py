"""--allowed-hosts, as the application, the client, the logs and the counters have it; with and without native
code."""

from __future__ import annotations

import pytest

from forkd.http.limits import Refusal
from forkd.native import native as built
from forkd.system.cells import REFUSED
from forkd.system.hosts import Hosts
from tests.session.fronts import Row, Served

WAYS = [False] if built is None else [False, True]
TOLD = b"GET / HTTP/1.1\r\nHost: %b\r\nX-Forwarded-Host: %b\r\n\r\n"

#: Whether the request is served: its bytes, and the peer.
ROWS = [
    (b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n", "", True),
    (b"GET / HTTP/1.1\r\nHost: WWW.example.org.:8000\r\n\r\n", "", True),
    (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "", False),
    (b"GET http://www.example.org/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", "", True),
    (b"GET http://evil.example/ HTTP/1.1\r\nHost: www.example.org\r\n\r\n", "", False),
    (b"GET / HTTP/1.0\r\n\r\n", "", False),
    (b"GET / HTTP/1.0\r\nHost: www.example.org\r\n\r\n", "", True),
    (b"OPTIONS * HTTP/1.1\r\nHost: www.example.org\r\n\r\n", "", True),
    (b"CONNECT www.example.org:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n", "", True),
    (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "", True),
    # What a proxy says counts where it is believed, and Host then does not.
    (TOLD % (b"app:8000", b"www.example.org"), "127.0.0.1", True),
    (TOLD % (b"www.example.org", b"evil.example"), "127.0.0.1", False),
    (TOLD % (b"www.example.org", b"evil.example"), "192.0.2.1", True),
    (TOLD % (b"evil.example", b"www.example.org"), "192.0.2.1", False),
]


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize(("head", "peer", "served"), ROWS)
def test_requests(head: bytes, peer: str, served: bool, native: bool) -> None:
    of = Row("", [], {}, peer=peer or "127.0.0.1")
    hosts = Hosts.parse([".example.org", "[::1]"])
    found = Served(of, native, allowed_hosts=hosts)
    answer = found.send(head)
    assert bool(found.environs) is served
    assert answer.startswith(b"HTTP/1.1 200 " if served else b"HTTP/1.1 421 "), answer
    assert found.row.cells[REFUSED + Refusal.HOST] == (not served)
    if not served:
        assert b"\r\nConnection: close\r\n" in answer and b"evil" not in answer
        assert found.access.take().split(b'" ')[1].startswith(b"421 ")
        assert sum("none of --allowed-hosts" in line for line in found.log.lines) == 1


@pytest.mark.parametrize("native", WAYS)
def test_a_host_that_is_missing_or_malformed_stays_400(native: bool) -> None:
    for fields in (b"", b"Host: a b\r\n", b"Host: evil\r\nHost: evil\r\n"):
        found = Served(Row("", [], {}), native, allowed_hosts=Hosts.parse(["example.org"]))
        assert found.send(b"GET / HTTP/1.1\r\n" + fields + b"\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("native", WAYS)
def test_the_field_server(native: bool) -> None:
    """It has the operator's value in each answer, or is left out."""
    for name, line in (("shop/1", b"\r\nServer: shop/1\r\n"), (None, b"")):
        found = Served(Row("", [], {}), native, server_header=name)
        answers = [
            found.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            found.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
            found.send(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        ]
        assert [answer.count(b"Server: ") for answer in answers] == [1 if line else 0] * 3
        assert all(line in answer for answer in answers)
