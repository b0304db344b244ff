"""Which addresses a host's name stands for, and what becomes of a family that is off."""

from __future__ import annotations

import errno
import os
import re
import socket

import pytest

from forkd.errors import BindError
from forkd.system import attempts, host_names, sockets
from forkd.system.address import Address

LOCALHOST = Address.parse("localhost:0")


def off(monkeypatch: pytest.MonkeyPatch, *kinds: str, number: int = errno.EAFNOSUPPORT) -> None:
    """Have bind(2) fail for these kinds of addresses."""
    bind = sockets.bind_tcp

    def bind_tcp(address: Address, reuseport: bool) -> socket.socket:
        if address.kind in kinds:
            raise OSError(number, os.strerror(number))
        return bind(address, reuseport)

    monkeypatch.setattr(sockets, "bind_tcp", bind_tcp)
    monkeypatch.setattr(attempts, "bind_tcp", bind_tcp)


def test_an_address_is_itself() -> None:
    for text in ("127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "unix:/run/x", "fd://3"):
        assert host_names.expand(Address.parse(text)) == [Address.parse(text)]


def test_a_name_is_the_first_of_each_family(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        found = [("2001:db8::1", 7), ("192.0.2.1",), ("192.0.2.2",), ("2001:db8::2", 7)]
        return [
            (socket.AF_INET6 if len(x) == 2 else socket.AF_INET, 1, 6, "",
             (x[0], 80, 0, 0) if len(x) == 2 else (x[0], 80))
            for x in found
        ]  # fmt: skip

    monkeypatch.setattr(host_names.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(host_names.socket, "getnameinfo", lambda where, _: (where[0], "80"))
    found = host_names.expand(Address.parse("www.example:80"))
    assert list(map(str, found)) == ["192.0.2.1:80", "[2001:db8::1]:80"]
    assert host_names.expand(Address.parse("localhost:80")) == [
        Address.parse("127.0.0.1:80"), Address.parse("[::1]:80"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize(("kind", "left"), [("tcp", "tcp6"), ("tcp6", "tcp")])
def test_a_family_that_is_off_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, number: int, kind: str, left: str
) -> None:
    off(monkeypatch, kind, number=number)
    [made], [line] = host_names.listen(LOCALHOST, 16)
    made.close()
    host = {"tcp": "127.0.0.1", "tcp6": "[::1]"}
    [checked] = attempts.try_name(LOCALHOST)
    for said in (line, checked):
        assert re.sub(r":\d+\)", ":N)", said) == (
            f"localhost:0 is listened on without one of its families: bind({host[kind]}:N): "
            f"{errno.errorcode[number]}: {os.strerror(number)}"
        )
    assert made.wanted == LOCALHOST and made.name.startswith(host[left])


def test_without_any_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    off(monkeypatch, "tcp", "tcp6")
    for attempt in (lambda: host_names.listen(LOCALHOST, 16), lambda: attempts.try_name(LOCALHOST)):
        with pytest.raises(BindError, match=r"127.0.0.1:0\): EAFNOSUPPORT(.|\n)*::1\]:0\): EAFNOSUPPORT"):
            attempt()


def test_another_error_is_one_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    off(monkeypatch, "tcp6", number=errno.EACCES)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BindError, match=r"bind\(\[::1\]:\d+\): EACCES"):
        host_names.listen(LOCALHOST, 16)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_name_that_is_not_known() -> None:
    address = Address.parse("there-is-no-such-host.invalid:80")
    for attempt in (lambda: host_names.listen(address, 16), lambda: attempts.try_name(address)):
        with pytest.raises(BindError, match=r"^bind\(there-is-no-such-host.invalid:80\): [A-Z]"):
            attempt()
