"""Listeners for a host name: one at its IPv4 address and one at its IPv6 address, with the same port. Called
by the master; `forkd check` asks only for the addresses.

A family that this machine does not have, or has turned off, is left out with a line, as long as the other is
there. `localhost` is both loopback addresses, whatever /etc/hosts says (RFC 6761, 6.3).
"""

from __future__ import annotations

import errno
import re
from dataclasses import replace

from forkd.errors import BindError
from forkd.system import sockets
from forkd.system.address import Address
from forkd.system.originals import socket
from forkd.system.socket_files import PUBLIC, Permissions
from forkd.system.sockets import Listener

#: What bind(2) and socket(2) say where a family is off, or the address of a name is another machine's.
_OFF_ERRNOS = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT}
#: Times that another port is asked for which is free in both families.
_MAX_PORT_TRIES = 20


def expand(address: Address) -> list[Address]:
    """The addresses that it stands for, the first of each family, IPv4 before IPv6. Raises OSError
    (gaierror) for a name that is not known, UnicodeError for what is not a name."""
    if address.kind != "tcp" or re.fullmatch(r"[0-9.]+", address.host):
        return [address]
    if address.host == "localhost":
        return [_v4(address, "127.0.0.1"), _v6(address, "::1")]
    found = socket.getaddrinfo(address.host, address.port, 0, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    hosts: dict[int, str] = {}
    for family, _, _, _, where in found:
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        hosts.setdefault(family, socket.getnameinfo(where, numeric)[0])  # with the scope of a link's address
    made = [_v4(address, hosts[socket.AF_INET])] if socket.AF_INET in hosts else []
    return made + ([_v6(address, hosts[socket.AF_INET6])] if socket.AF_INET6 in hosts else [])


def listen(
    address: Address, backlog: int, copies: int = 0, permissions: Permissions = PUBLIC
) -> tuple[list[Listener], list[str]]:
    """As `sockets.listen`, for each of the addresses; with a line for each that is left out."""
    try:
        addresses = expand(address)
    except OSError as error:
        raise sockets.bind_error(address, error) from error
    if addresses == [address]:
        return [sockets.listen(address, backlog, copies, permissions)], []
    for left in reversed(range(_MAX_PORT_TRIES)):
        try:
            return _listen(address, addresses, backlog, copies)
        except BindError as error:
            taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if address.port or not taken or not left:
                raise
    raise AssertionError("not reached")


def _listen(
    address: Address, addresses: list[Address], backlog: int, copies: int
) -> tuple[list[Listener], list[str]]:
    made: list[Listener] = []
    left_out: list[str] = []
    port = address.port
    try:
        for one in addresses:
            try:
                listener = sockets.listen(replace(one, port=port), backlog, copies)
            except BindError as error:
                if not is_off(error):
                    raise
                left_out.append(without(address, error))
                continue
            listener.wanted = address
            port = listener.sockets[0].getsockname()[1]
            made.append(listener)
    except BaseException:
        for listener in made:
            listener.close()
        raise
    if not made:
        raise BindError("\n".join(left_out))
    return made, left_out


def is_off(error: BindError) -> bool:
    """Whether there is no such family here."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _OFF_ERRNOS


def without(address: Address, error: BindError) -> str:
    call = str(error).partition("; ")[0]  # without the remedies, for an address that was configured
    return f"{address} is listened on without one of its families: {call}"


def _v4(name: Address, host: str) -> Address:
    return replace(name, kind="tcp", host=host)


def _v6(name: Address, host: str) -> Address:
    return replace(name, kind="tcp6", host=host)
