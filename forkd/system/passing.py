"""Passing open sockets between processes: SCM_RIGHTS over a unix socket (unix(7)).

One datagram per socket: its descriptor, and a small number that says which listener it came from.
"""

from __future__ import annotations

import socket


def make_queue() -> tuple[socket.socket, socket.socket]:
    """(the master's end, the children's end) of a queue; both non-blocking, boundaries kept."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def send_socket(queue: socket.socket, sock: socket.socket, listener: int) -> bool:
    """Put `sock` into the queue; False when that is full. Raises OSError when nobody has the other
    end. The caller still has its own copy to close."""
    try:
        socket.send_fds(queue, [bytes([listener])], [sock.fileno()])
    except BlockingIOError:
        return False
    return True


def receive_socket(queue: socket.socket) -> tuple[socket.socket, int] | None:
    """The next (socket, number of its listener), or None when the queue is empty or closed."""
    try:
        data, fds, _, _ = socket.recv_fds(queue, 1, 1, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None
    if not data or not fds:
        return None
    return socket.socket(fileno=fds[0]), data[0]
