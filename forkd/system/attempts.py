"""Tries, without a change, whether an address can be listened on and a file be made, for `forkd check`. The
calls themselves are in system/sockets.py."""

from __future__ import annotations

import errno
import os

from forkd.errors import BindError, SystemCallError
from forkd.system import host_names
from forkd.system.address import Address
from forkd.system.socket_files import require_free
from forkd.system.sockets import ANOTHER_PATH, bind_error, bind_tcp, inherited, no_socket, sockaddr


def try_name(address: Address, copies: int = 0) -> list[str]:
    """As `try_listen`, for all that a host's name stands for: a line for each that would be left out."""
    try:
        addresses = host_names.expand(address)
    except OSError as error:
        raise bind_error(address, error) from error
    left_out = []
    for one in addresses:
        try:
            try_listen(one, copies)
        except BindError as error:
            if one == address or not host_names.is_off(error):
                raise
            left_out.append(host_names.without(address, error))
    if len(left_out) == len(addresses):
        raise BindError("\n".join(left_out))
    return left_out


def try_listen(address: Address, copies: int = 0) -> None:
    """Raises BindError where `listen` would, as far as that can be seen without a change: a TCP address is
    bound, and not listened on; in place of a socket file its directory is looked at."""
    if address.kind == "fd":
        try:
            copy = os.dup(address.fd)
        except OSError as error:
            raise no_socket(address, error) from error
        with inherited(address, copy):
            return
    try:
        if address.kind == "unix":
            require_free(address.path, f"bind {address}", ANOTHER_PATH)
            try_directory("bind", address.path)
            return
        bind_tcp(address, reuseport=copies > 0).close()
    except OSError as error:
        raise bind_error(address, error) from error


def try_directory(call: str, path: str) -> None:
    """Raises BindError where a file could not be made there."""
    directory = os.path.dirname(path)
    try:
        os.stat(directory)
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise OSError(number, os.strerror(number))
    except OSError as error:
        raise BindError(str(SystemCallError(call, path, error))) from error


def clash(first: Address, second: Address) -> bool:
    """Whether two TCP addresses cannot be listened on at a time, without SO_REUSEPORT. Raises OSError for a
    host that is not known."""
    return any(_clash(one, other) for one in host_names.expand(first) for other in host_names.expand(second))


def _clash(first: Address, second: Address) -> bool:
    if first.kind != second.kind or not first.kind.startswith("tcp") or not first.port == second.port != 0:
        return False
    hosts = [sockaddr(address)[0] for address in (first, second)]
    return hosts[0] == hosts[1] or bool({"0.0.0.0", "::"} & set(hosts))
