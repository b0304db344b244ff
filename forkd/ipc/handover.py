"""What passes from a master to the one that replaces it: at its start descriptors and facts, in an
environment variable; while both run words and counters, over a socketpair.

The old master writes it (master/upgrade.py), and the new one reads it, which may be of another version: names
and shapes are only added to. What a newer one passes on and this one lacks is refused. In both masters.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from forkd.config.sources import Sources
from forkd.errors import ForkdError
from forkd.ipc.manager import Manager
from forkd.system.address import Address
from forkd.system.socket_files import PUBLIC, Permissions
from forkd.system.sockets import Listener

VARIABLE = "FORKD_INTERNAL_UPGRADE"

T = TypeVar("T")


class HandoverChannel:
    """One end of the socketpair between the two masters: lines of JSON."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._partial = b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: dict[str, Any]) -> None:
        try:
            self._sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # the other master is gone; its pidfd or EOF says so

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """(messages, whether the other side is gone)."""
        try:
            data = self._sock.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return [], False
        except OSError:
            data = b""
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [json.loads(line) for line in lines], not data

    def close(self) -> None:
        self._sock.close()


@dataclass(frozen=True)
class Inheritance:
    """What a new master was handed by the old one."""

    sources: Sources
    generation: int
    listeners: list[Listener]
    control: int
    admin: int | None
    health: int | None
    own_files: dict[str, int]  # the inodes of the socket files of these two
    pidfile: int
    link: HandoverChannel
    activated: tuple[Address, ...]
    manager: Manager
    storage: dict[str, Any] = field(default_factory=dict)  # see master/storage.py
    first: int | None = None  # pidfd of the process that stays in the foreground, with which the service ends


def inherited(environ: MutableMapping[str, str]) -> Inheritance | None:
    """Take the variable out of `environ`, so that no application sees it, and read it. Raises ForkdError
    where a newer forkd passes on what this one lacks: the old master goes on."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    found = json.loads(text)
    made = Inheritance(
        sources=_made(Sources, found["sources"], "configuration"),
        generation=found["generation"],
        listeners=[_listener(item) for item in found["listeners"]],
        control=found["control"],
        admin=found["admin"],
        health=found.get("health"),  # an older forkd has no such listener
        own_files=found.get("own_files", {}),  # an older forkd does not say
        pidfile=found["pidfile"],
        link=HandoverChannel(socket.socket(fileno=found["link"])),
        activated=tuple(_made(Address, item, "address") for item in found["activated"]),
        manager=_made(Manager, found["manager"], "service manager"),
        storage=found.get("storage", {}),  # an older forkd has none
        first=_own(found.get("first")),  # an older forkd has none
    )
    if "stderr" in found:  # an older forkd has left that as it is
        os.dup2(found["stderr"], 2)
        os.close(found["stderr"])
    return made


def _made(kind: Callable[..., T], values: dict[str, Any], what: str) -> T:
    known = {row.name for row in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        shown = ", ".join(f"{name} = {values[name]!r}" for name in unknown)
        raise ForkdError(
            f"the forkd that runs is newer than this one: its {what} has {shown}, which this version does "
            "not have; do without it there first (forkd reload), or restart"
        )
    return kind(**values)


def _own(fd: int | None) -> int | None:
    if fd is not None:
        os.set_inheritable(fd, False)
    return fd


def _listener(item: dict[str, Any]) -> Listener:
    sockets = [socket.socket(fileno=fd) for fd in item["fds"]]
    for sock in sockets:
        sock.set_inheritable(False)
        sock.setblocking(False)
    made = Listener(
        _made(Address, item["wanted"], f"listener {item['name']}"), item["name"], item["backlog"], sockets,
        private=item.get("private", False),  # an older forkd does not say whose workers have it
        permissions=(
            _made(Permissions, item["permissions"], "socket file") if "permissions" in item else PUBLIC
        ),
    )  # fmt: skip
    made.file_inode = item["file"] if "file" in item else made.found_inode()
    return made
