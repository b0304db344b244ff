"""Which hosts a request may be for: the patterns, and what native code says yes to."""

from __future__ import annotations

import pytest

from forkd.config.lists import HostList
from forkd.native import native
from forkd.system.hosts import Hosts

#: Patterns, and for each Host that is in the set, or is not.
ROWS: list[tuple[tuple[str, ...], list[str], list[str]]] = [
    (("example.org",),
     ["example.org", "EXAMPLE.org", "example.org.", "example.org:8000", "example.org.:80", "example.org:"],
     ["", "www.example.org", "xexample.org", "example.org.evil", "example.com", "example.org..", ":80",
      "example.org:80:80", "example.org:0", "example.org:00", "example.org:65536", "example.org:99999",
      "example.org:100000", ".example.org"]),
    ((".example.org",),
     ["example.org", "www.example.org", "a.b.example.org:1", "A.Example.ORG."],
     ["xexample.org", "example.org.evil", "org", ".example.org", "..example.org", "a..example.org",
      "a..b.example.org", ".a.example.org", "a.example.org.."]),
    (("*.example.org",), ["www.example.org", "a.b.example.org:65535"],
     ["example.org", "xexample.org", ".example.org", "..example.org", ".a.example.org"]),
    (("example.org:8443", "a.example:443"),
     ["example.org:8443", "example.org:08443", "a.example", "a.example:443"],
     ["example.org", "example.org:443", "example.org:84430", "a.example:80", "a.example:4430"]),
    ((".example.org:80",), ["example.org", "a.example.org:80", "a.example.org"], ["a.example.org:8000"]),
    (("example.org:81", "example.org"), ["example.org", "example.org:81", "example.org:82"], []),
    (("[::1]", "[2001:DB8:0::1]:8000", "10.0.0.1"),
     ["[::1]", "[0:0::1]:80", "[2001:db8::1]:8000", "10.0.0.1:1"],
     ["[2001:db8::1]", "[::2]", "::1", "10.0.0.2", "[::1", "1.10.0.0.1"]),
    (("b\xfccher.example", "XN--BCHER-KVA.example2"),
     ["xn--bcher-kva.example", "xn--bcher-kva.example2"], ["b\xfccher.example", "bucher.example"]),
    (("localhost", "my_service"), ["localhost:80", "my_service"], ["host", "service"]),
    (("*",), ["", "a", "[::1]:80", "\xff"], []),
    ((), [], ["", "localhost", "127.0.0.1"]),
]  # fmt: skip


@pytest.mark.parametrize(("patterns", "within", "without"), ROWS, ids=[str(row[0]) for row in ROWS])
def test_what_is_in_the_set(patterns: tuple[str, ...], within: list[str], without: list[str]) -> None:
    hosts = Hosts.parse(patterns)
    assert Hosts.parse(hosts.patterns) == hosts
    assert [host for host in within if not hosts.has(host)] == []
    assert [host for host in without if hosts.has(host)] == []
    if native is None or hosts.every:
        return
    twin = native.Hosts(patterns=hosts.patterns)
    assert not [host for host in without if twin.has(host)]
    # The usual ones are not left to Python.
    assert not [host for host in within if not twin.has(host) and not host.startswith("[")]


@pytest.mark.parametrize(
    "text",
    ["", "a b", "a..b", "-a", "a-", ".", "*.", "*.*.a", "a.*", "http://a", "a/b", "a:b", "a:99999", "a:",
     "a:0", "a:00", "a:65536", "a:" + "9" * 5000,
     "[::1", "::1", "[1.2.3.4]", "[x]", ".10.0.0.1", "a" * 64 + ".\u0131\u0307" * 50, "x" * 254,
     "\ud800.example"],
)  # fmt: skip
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError):
        Hosts.parse([text])


def test_all_that_are_wrong_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"^'a b', 'c:d': allowed are host names"):
        HostList().read(["a b, good.example", "c:d"], "/")
    assert HostList().read("A.example, .b.example", "/").patterns == ("a.example", ".b.example")
