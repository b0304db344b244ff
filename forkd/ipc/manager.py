"""The service manager that has started this process: where it is told of the service, and what it passes
(sd_notify(3), sd_listen_fds(3)), without a library. In the command that starts; the master tells it
(master/systemd.py).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote

from forkd.system import sockets
from forkd.system.address import Address
from forkd.system.sockets import Listener

#: Descriptors that come back from the store are told from those of socket units by their names.
_OURS = "forkd-"
_TABLE = f"{_OURS}table="  # and the name of the unit; in that of a listener there is no "="
_SECOND = "#6"  # follows the name of a host at its IPv6 address
_FIRST_FD = 3  # sd_listen_fds(3)
#: Why it could not be said, for now: its queue (unix(7)), or this process or the kernel, has no room.
_NO_ROOM = {
    errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETOOMANYREFS,
}  # fmt: skip


@dataclass(frozen=True)
class Manager:
    """Where to say it. `path` is empty when there is nobody; `watchdog` is 0 when nobody counts."""

    path: str = ""
    watchdog: float = 0  # seconds within which to hear that all is well

    def send(self, text: str, fds: list[int] | None = None) -> bool:
        """Whether that is done. False: it reads too slowly, or something else has no room for it now."""
        if not self.path:
            return True
        # "@" stands for the NUL of an abstract address.
        target = "\0" + self.path[1:] if self.path.startswith("@") else self.path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(target)
                socket.send_fds(sock, [text.encode()], fds or [])
        except OSError as error:
            # Else it has gone, which is no reason to serve any worse.
            return error.errno not in _NO_ROOM
        return True


def manager_of(environ: MutableMapping[str, str]) -> Manager:
    """Who started this process, taken out of `environ`: it was not meant for the application."""
    path = environ.pop("NOTIFY_SOCKET", "")
    period, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    mine = period.isdigit() and pid in ("", str(os.getpid()))
    return Manager(path, int(period) / 1e6 if mine else 0.0)


class Passed(NamedTuple):
    """What systemd passed to this very process (sd_listen_fds(3))."""

    units: list[Address]  # sockets of its socket units, as fd:// addresses
    listeners: list[Listener]  # of ours, from its store
    tables: dict[str, int]  # likewise: memfds of shared memory, by the name of the storage unit


def passed(environ: MutableMapping[str, str], backlog: int) -> Passed:
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    if pid != str(os.getpid()) or not count.isdigit():
        return Passed([], [], {})
    units: list[Address] = []
    stored: list[Listener] = []
    tables: dict[str, int] = {}
    for index in range(int(count)):
        fd = _FIRST_FD + index
        name = names[index] if index < len(names) else ""
        if not name.startswith(_OURS):
            units.append(Address(kind="fd", fd=fd))
        elif name.startswith(_TABLE):
            tables[name.removeprefix(_TABLE)] = fd
        elif (listener := _stored(name, fd, backlog)) is not None:
            stored.append(listener)
    return Passed(units, stored, tables)


def stored_name(listener: Listener) -> str:
    """A host's name may be that of two."""
    also = _SECOND if listener.wanted.kind == "tcp" and listener.name.startswith("[") else ""
    return _OURS + quote(f"{listener.wanted}{also}", safe="")  # a colon would separate names


def table_name(unit: str) -> str:
    return _TABLE + unit


def _stored(name: str, fd: int, backlog: int) -> Listener | None:
    try:
        address = unquote(name.removeprefix(_OURS)).removesuffix(_SECOND)
        return sockets.restored(Address.parse(address), fd, backlog)
    except (ValueError, OSError):
        os.close(fd)  # of another version, or broken: the address is bound anew
        return None
