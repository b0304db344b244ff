"""Address: text to value and back, and what is refused."""

import pytest

from forkd.system.address import Address


@pytest.mark.parametrize(
    ("text", "kind", "canonical"),
    [
        ("127.0.0.1:8000", "tcp", "127.0.0.1:8000"),
        ("LocalHost:80", "tcp", "localhost:80"),
        ("my_host.example-1.org:0", "tcp", "my_host.example-1.org:0"),
        (":8000", "tcp", "0.0.0.0:8000"),
        ("8000", "tcp", "0.0.0.0:8000"),
        (" 1.2.3.4:0080 ", "tcp", "1.2.3.4:80"),
        ("h:65535", "tcp", "h:65535"),
        ("[::1]:80", "tcp6", "[::1]:80"),
        ("[0:0:0:0:0:0:0:1]:80", "tcp6", "[::1]:80"),
        ("[fe80::1%eth0]:80", "tcp6", "[fe80::1%eth0]:80"),
        ("10.0.0.7:80?freebind=on", "tcp", "10.0.0.7:80?freebind=on"),
        ("[::7]:80?freebind=on", "tcp6", "[::7]:80?freebind=on"),
        ("10.0.0.7:80?freebind=off", "tcp", "10.0.0.7:80"),
        ("h:80?proxy=on", "tcp", "h:80?proxy=on"),
        ("h:80?proxy=off", "tcp", "h:80?proxy=off"),
        ("[::7]:80?proxy=on&freebind=on", "tcp6", "[::7]:80?freebind=on&proxy=on"),
        ("fd://3?proxy=on", "fd", "fd://3?proxy=on"),
        ("unix:/run/a?proxy=on", "unix", "unix:/run/a?proxy=on"),
        ("unix:/run/a?b?proxy=off", "unix", "unix:/run/a?b?proxy=off"),
        ("h:80?protocol=uwsgi", "tcp", "h:80?protocol=uwsgi"),
        ("[::7]:80?protocol=uwsgi&proxy=on", "tcp6", "[::7]:80?proxy=on&protocol=uwsgi"),
        ("fd://3?protocol=uwsgi", "fd", "fd://3?protocol=uwsgi"),
        ("unix:/run/a?protocol=uwsgi", "unix", "unix:/run/a?protocol=uwsgi"),
        ("unix:/run/a?b?protocol=uwsgi&proxy=off", "unix", "unix:/run/a?b?proxy=off&protocol=uwsgi"),
        ("unix:/run/a?protocol=http", "unix", "unix:/run/a?protocol=http"),
        ("unix:/run/a?proxy=no", "unix", "unix:/run/a?proxy=no"),
        ("unix:/run/a?freebind=on", "unix", "unix:/run/a?freebind=on"),
        ("unix:/run/a.sock", "unix", "unix:/run/a.sock"),
        ("unix:///run/../run/a.sock", "unix", "unix:/run/a.sock"),
        ("fd://3", "fd", "fd://3"),
    ],
)
def test_parses(text: str, kind: str, canonical: str) -> None:
    address = Address.parse(text)
    assert address.kind == kind
    assert str(address) == canonical
    assert Address.parse(canonical) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no port"),
        ("localhost", "no port"),
        ("localhost:", "no port"),
        ("1.2.3.4", "no port"),
        ("h:http", "not a port"),
        ("h:65536", "0 to 65535"),
        ("65536", "0 to 65535"),
        ("h:-1", "not a port"),
        ("h:+1", "not a port"),
        ("h:1_0", "not a port"),
        ("h:\u0661", "not a port"),
        ("h:" + "9" * 5000, "not a port"),
        ("256.1.1.1:80", "not an IPv4 address"),
        ("a b:80", "not a host name"),
        ("-a:80", "not a host name"),
        ("http://h:80", "brackets"),
        ("::1:80", "needs brackets"),
        ("[::1]", "needs a port"),
        ("[::1:80", "needs a port"),
        ("[h]:80", "not an IPv6 address"),
        ("unix:run/a.sock", "absolute"),
        ("unix:", "absolute"),
        ("unix:/run/", "absolute"),
        ("unix:/a\0b", "absolute"),
        ("unix:/" + "x" * 107, "at most 107 bytes, this one 108"),
        ("unix:/" + "\u00e9" * 54, "this one 109"),
        ("h:80?", "'' is no option of such an address; there is freebind=on, proxy=on, protocol=uwsgi"),
        ("h:80?freebind", "'freebind' is no option"),
        ("h:80?freebind=on&proxy", "'proxy' is no option"),
        ("h:80?proxy=1", "'proxy=1' is no option"),
        ("h:80?proxy=on&proxy=off", "proxy is given twice"),
        ("unix:/a?proxy=on&protocol=uwsgi&proxy=on", "proxy is given twice"),
        ("h:80?protocol=scgi", "'protocol=scgi' is no option"),
        ("fd://3?freebind=on", "is no option of such an address; there is proxy=on, protocol=uwsgi"),
        ("fd://", "not a descriptor"),
        ("fd://x", "not a descriptor"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Address.parse(text)


def test_where_clients_connect_to_has_no_options() -> None:
    assert Address.parse("h:80?freebind=on&proxy=on").place == "h:80"
    assert Address.parse("unix:/a?proxy=on").place == "unix:/a"


@pytest.mark.parametrize(
    "text", ["h:80", "h:0", "[::1]:80", "unix:/a", "fd://3", "h:80?freebind=on", "h:80?freebind=off"]
)
def test_it_is_handed_over_in_the_fields_of_old_versions(text: str) -> None:
    """Unless it has an option that those lack."""
    address = Address.parse(text)
    assert set(address.fields()) <= {"kind", "host", "port", "path", "fd", "freebind"}
    assert Address(**address.fields()) == address
    assert Address.parse("unix:/a?proxy=off").fields() == {"kind": "unix", "path": "/a", "proxy": False}


def test_the_longest_unix_path() -> None:
    assert len(Address.parse("unix:/" + "x" * 106).path) == 107
