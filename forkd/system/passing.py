"""Passing open sockets between processes: SCM_RIGHTS over a unix socket (unix(7)).

A queue is a socketpair. One datagram per connection: its descriptor, and the name and port of the
server that it was accepted for. The master puts them in; a child, or whichever of several is idle,
takes them out. Once nobody can put anything into it, and it is empty, it says so by EOF.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

#: (the master's end, the children's end)
Queue = tuple[socket.socket, socket.socket]
#: A connection, and the server's name and port.
Passed = tuple[socket.socket, tuple[str, int]]

_FD = struct.Struct("i")
_LONGEST = 300  # bytes of a server's name and port


def make_queue() -> Queue:
    """A new queue; both ends are non-blocking, and keep the boundaries of datagrams."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def send_socket(queue: socket.socket, passed: Passed) -> bool:
    """Put a connection into the queue; False when that is full. Raises OSError when nobody has the
    other end. The caller still has its own copy to close."""
    sock, (host, port) = passed
    try:
        socket.send_fds(queue, [f"{port} {host}".encode()], [sock.fileno()])
    except OSError as error:
        # ETOOMANYREFS: as many descriptors as RLIMIT_NOFILE allows are under way (unix(7)).
        if error.errno in (errno.EAGAIN, errno.ETOOMANYREFS):
            return False
        raise
    return True


def receive_socket(queue: socket.socket) -> Passed:
    """Take the next connection. Raises BlockingIOError when the queue is empty, EOFError when
    nothing more can come, OSError (EMFILE) when this process has no room: then it stays there."""
    # The kernel discards a descriptor for which there is no room (MSG_CTRUNC), so look before.
    os.close(os.dup(queue.fileno()))
    # socket.recv_fds drops its flags (CPython 3.11): what it takes, other programs inherit.
    room = socket.CMSG_LEN(_FD.size)
    data, passed, _, _ = queue.recvmsg(_LONGEST, room, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError
    if not passed:  # another thread has opened the last one meanwhile
        raise OSError(errno.EMFILE, f"{os.strerror(errno.EMFILE)}; a connection is lost")
    port, host = data.decode().split(" ", 1)
    return socket.socket(fileno=_FD.unpack(passed[0][2])[0]), (host, int(port))
