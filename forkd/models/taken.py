"""The client's socket in the hands of a blocking handler: it remembers how it failed.

A handler may use sockets of its own, and fail as they do: `ConnectionError` and `TimeoutError` alone
do not say who has left. Made by `Connection.take`.
"""

from __future__ import annotations

import functools
import socket
from typing import Any


class TakenSocket(socket.socket):
    """Takes over the descriptor of `sock`."""

    _failure: OSError | None = None

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, sock.detach())

    def caused(self, error: BaseException) -> bool:
        """Whether `error` says that the client has left or was idle."""
        if self.fileno() < 0:  # given away, to TLS for one: then only the kind of error is known
            return isinstance(error, (ConnectionError, TimeoutError))
        return error is self._failure


def _remembering(name: str) -> Any:
    method = getattr(socket.socket, name)

    @functools.wraps(method)
    def call(self: TakenSocket, *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except OSError as error:
            self._failure = error
            raise

    return call


for _name in (
    "recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into",
    "send", "sendall", "sendmsg", "sendfile", "shutdown",
):  # fmt: skip
    setattr(TakenSocket, _name, _remembering(_name))
