"""The end of a connection from outside its session: by a reset, where its peer is to see an error and no end,
or by an answer that is short enough for any socket buffer.
"""

from __future__ import annotations

import ctypes
import sys

from forkd.system.originals import socket
from forkd.system.sigpipe import NO_SIGPIPE

_NOWHERE = int(socket.AF_UNSPEC).to_bytes(2, sys.byteorder) + bytes(14)  # a sockaddr


def reset(fd: int) -> None:
    """connect(2) to AF_UNSPEC: RST is sent at once, whoever else has the descriptor, and what was not sent
    is dropped. SO_LINGER would do so at the last close, which an io_uring or a forked process delays. The
    descriptor stays open. Nothing happens to a unix socket, which has no RST."""
    ctypes.CDLL(None).connect(fd, _NOWHERE, len(_NOWHERE))


def break_off(sock: socket.socket) -> None:
    """Reset it; whoever sends there gets an error, over a unix socket, too. Raises OSError."""
    reset(sock.fileno())
    sock.shutdown(socket.SHUT_RDWR)


def end_with(sock: socket.socket, answer: bytes) -> None:
    """Send that, and FIN; whoever sends there gets an error. Raises OSError."""
    sock.send(answer, NO_SIGPIPE | socket.MSG_DONTWAIT)
    sock.shutdown(socket.SHUT_WR)
