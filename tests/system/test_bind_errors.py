"""What is said when an address cannot be bound: the reason, and whose it is."""

from __future__ import annotations

import errno
import os

import pytest

from forkd.errors import BindError
from forkd.system import sockets
from forkd.system.address import Address


def test_a_name_that_is_unknown_is_said_in_words() -> None:
    with pytest.raises(BindError) as caught:
        sockets.listen(Address.parse("no-such-host.invalid:0"), 16)
    assert "no-such-host.invalid" in str(caught.value)
    assert "errno" not in str(caught.value) and "Unknown error" not in str(caught.value)


@pytest.mark.parametrize(
    ("port", "least", "said", "not_said"),
    [
        (80, 1024, "ports below 1024 need root or CAP_NET_BIND_SERVICE", "policy"),
        (1023, 1024, "ports below 1024 need root or CAP_NET_BIND_SERVICE", "policy"),
        (1024, 1024, "a policy of this system forbids that port", "CAP_NET"),
        (8103, 1024, "a policy of this system forbids that port", "CAP_NET"),
        (80, 80, "a policy of this system forbids that port", "CAP_NET"),
        (79, 80, "ports below 80 need root or CAP_NET_BIND_SERVICE", "policy"),
    ],
)
def test_a_port_that_is_forbidden_is_not_always_a_low_one(
    port: int, least: int, said: str, not_said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_first_unprivileged_port", lambda: least)
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES))
    text = str(sockets.bind_error(Address.parse(f"127.0.0.1:{port}"), denied))
    assert said in text and not_said not in text


def test_an_address_in_use_is_said_to_be_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a chroot the directory is not even there."""

    def absent(path: str) -> list[str]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(os, "listdir", absent)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    in_use = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    text = str(sockets.bind_error(Address.parse("127.0.0.1:80"), in_use))
    assert "EADDRINUSE: Address already in use; by whom cannot be seen without /proc" in text


def test_an_address_that_no_interface_has_names_the_option() -> None:
    absent = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    text = str(sockets.bind_error(Address.parse("[2001:db8::7]:80"), absent))
    assert "bind [2001:db8::7]:80?freebind=on to have it listened on now" in text
