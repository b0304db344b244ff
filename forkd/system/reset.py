"""Resetting a TCP connection: its peer sees an error, and no end."""

from __future__ import annotations

import ctypes
import sys

from forkd.system.originals import socket

_NOWHERE = int(socket.AF_UNSPEC).to_bytes(2, sys.byteorder) + bytes(14)  # a sockaddr


def reset(fd: int) -> None:
    """connect(2) to AF_UNSPEC: RST is sent at once, whoever else has the descriptor, and what was not sent
    is dropped. SO_LINGER would do so at the last close, which an io_uring or a forked process delays. The
    descriptor stays open. Nothing happens to a unix socket, which has no RST."""
    ctypes.CDLL(None).connect(fd, _NOWHERE, len(_NOWHERE))
