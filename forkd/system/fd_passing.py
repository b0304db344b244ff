"""Passing open sockets between processes: SCM_RIGHTS over a unix socket (unix(7)).

A queue is a socketpair. One datagram per connection: its descriptor, when it was accepted, and a text that
says what it begins with. The master puts them in; a child, or whichever of several is idle, takes them out.
Once all writers have closed it, and it is empty, a read returns EOF.
"""

from __future__ import annotations

import array
import errno

from forkd.system.originals import os, socket

#: (the master's end, the children's end)
Queue = tuple[socket.socket, socket.socket]
#: A connection, what it begins with (session/begin.py), and when it was accepted (ns of CLOCK_MONOTONIC).
Passed = tuple[socket.socket, str, int]

_MAX_MESSAGE_BYTES = 1024


def make_queue() -> Queue:
    """A new queue; both ends are non-blocking, and keep the boundaries of datagrams."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def send_socket(queue: socket.socket, passed: Passed) -> bool:
    """Put a connection into the queue; False when that is full. Raises OSError when no process has the
    other end. The caller still has its own copy to close."""
    sock, begin, accepted_ns = passed
    try:
        send(queue, f"{accepted_ns} {begin}".encode(), [sock.fileno()])
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
    data, fds = receive(queue, _MAX_MESSAGE_BYTES, 1)
    if not data:
        raise EOFError
    if not fds:  # another thread has opened the last one meanwhile
        raise OSError(errno.EMFILE, f"{os.strerror(errno.EMFILE)}; a connection is lost")
    accepted_ns, _, begin = data.decode().partition(" ")
    return socket.socket(fileno=fds[0]), begin, int(accepted_ns)


def send(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """One datagram, and descriptors with it: socket.send_fds drops its flags (CPython 3.11), and
    SIGPIPE would end the process (sigpipe.py)."""
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], passed, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """One datagram, and the descriptors that came with it, at most so many, all O_CLOEXEC:
    socket.recv_fds drops its flags (CPython 3.11), and other programs would inherit them."""
    fds = array.array("i")
    room = socket.CMSG_LEN(most * fds.itemsize)
    data, passed, _, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for _, _, numbers in passed:
        fds.frombytes(numbers)
    return data, fds.tolist()
