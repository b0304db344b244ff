"""Listening sockets: make, inherit, name and measure them. Called by the master.

Listeners are non-blocking: two leaders may race for one connection for an instant, and the loser
must get EAGAIN. They are close-on-exec; an upgrade passes them on by name.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from forkd.errors import BindError, SystemCallError
from forkd.system import signals, socket_files
from forkd.system.address import Address
from forkd.system.originals import select, socket
from forkd.system.process import describe, parent
from forkd.system.socket_files import NO_FILE, PUBLIC, Permissions, inode

#: Seconds for which the kernel holds a connection back until its client has said something. It counts in
#: retransmissions of its SYN-ACK: this is the first.
_DEFER_SECONDS = 1
#: What poll(2) says of a listening socket that was shut down: a TCP socket is in the state CLOSE then, and a
#: unix socket can be shut down in part. No other listening socket has these flags.
SHUT_DOWN = select.POLLHUP | select.POLLRDHUP
#: ip(7), IP_FREEBIND; ipv6(7), IPV6_FREEBIND. No constants of Python's.
_FREEBIND = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),
}
#: What to do about a path that is in use.
ANOTHER_PATH = "stop that, or bind another path"


@dataclass(eq=False)
class Listener:
    """One address that is listened on. `sockets` has one entry, or one per worker (reuseport)."""

    wanted: Address  # as configured
    name: str  # as it really is: port 0 replaced by the one the kernel chose
    backlog: int
    sockets: list[socket.socket]
    unix_inode: int | None = field(default=None)  # identity of the socket file that is ours to remove
    file_inode: int | None = None  # of the one that it is bound to, whether made here or not
    permissions: Permissions = PUBLIC  # of a socket file that is made for it
    deferring: bool = False  # connections without a byte are held back
    #: No process of other ids than the master's has it, or has had it, so that the master may be its owner:
    #: see master/arrivals.py. False for an inherited socket: which other processes have it is not known.
    private: bool = True
    broken: str = ""  # why no client is let in; see master/listening.py

    def defer(self, wanted: bool) -> None:
        """Whether the kernel is to hold connections back until their first bytes are there (tcp(7),
        TCP_DEFER_ACCEPT): a child that takes one has something to do then. What it holds back is lost when
        the socket is closed, and is not in the queue that `waiting` measures.

        Inherited sockets are left alone: their options belong to their creator."""
        if self.wanted.kind in ("tcp", "tcp6"):
            self.deferring = wanted
            for sock in self.sockets:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, wanted * _DEFER_SECONDS)

    def expose(self) -> None:
        """Processes of other ids may have it from now on: no process is its owner (F_SETOWN)."""
        self.private = False
        for sock in self.sockets:
            signals.disown(sock)

    def shut(self) -> None:
        """Let no new clients in; those that wait are still served. With a backlog of 0 the kernel drops a SYN
        while any client waits: newcomers are refused in the end, rather than accepted and reset.

        Inherited sockets are left alone: their creator may go on with them."""
        if self.wanted.kind != "fd":
            for sock in self.sockets:
                if sock.fileno() >= 0:  # else the dispatcher has emptied and closed it
                    sock.listen(0)

    def hang_up(self) -> None:
        """Close our copies; children that have theirs still empty the queue. The socket file stays
        until `close`, so that no other process takes it meanwhile."""
        for sock in self.sockets:
            sock.close()

    def own(self) -> None:
        """The socket file is this process's to remove, from now on."""
        if self.wanted.kind == "unix":
            self.unix_inode = self.file_inode

    def end(self) -> None:
        """Close it for all that have copies, such as processes that the application has left behind,
        so that the address is free."""
        for sock in self.sockets:
            if sock.fileno() >= 0:
                sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close in this process, and remove the socket file if it is still ours."""
        for sock in self.sockets:
            sock.close()
        if self.unix_inode is not None and inode(self.wanted.path) == self.unix_inode != NO_FILE:
            os.unlink(self.wanted.path)
        self.unix_inode = None

    def admit(self, permissions: Permissions) -> None:
        """Have the socket file let others in, from now on and when it is made anew. Not where nothing else is
        wanted than before: an operator may have changed its mode. Raises BindError."""
        before, self.permissions = self.permissions, permissions
        if permissions != before and self.wanted.kind == "unix" and not self.unlinked:
            socket_files.admit(self.wanted.path, permissions, self.file_inode)

    def shut_down(self) -> list[int]:
        """The indices of its sockets that were shut down (shutdown(2))."""
        return [i for i, sock in enumerate(self.sockets) if is_shut_down(sock)]

    def found_inode(self) -> int | None:
        """The identity of the socket file that is there now; of a file that is gone, one that no file has."""
        return inode(self.wanted.path) if self.wanted.kind == "unix" else None

    @property
    def unlinked(self) -> bool:
        """Whether its socket file was removed, or another one is in its place: clients that connect there do
        not come here."""
        return self.file_inode is not None and (
            self.file_inode == NO_FILE or inode(self.wanted.path) != self.file_inode
        )

    def waiting(self) -> tuple[int, int]:
        """(connections in the accept queue, its limit) as the kernel has them, over all sockets."""
        depths = [_queue(sock) for sock in self.sockets if sock.fileno() >= 0]
        return sum(d for d, _ in depths), sum(limit for _, limit in depths)


def listen(address: Address, backlog: int, copies: int = 0, permissions: Permissions = PUBLIC) -> Listener:
    """Bind and listen. `copies` > 0 makes that many SO_REUSEPORT sockets on one address; `permissions` is for
    the file of a unix socket.

    Raises BindError, which names the holder of the address where that can be known.
    """
    if address.kind == "fd":
        return _adopt(address, address.fd, backlog)
    if address.kind == "unix":
        return _listen_unix(address, backlog, permissions)
    sockets: list[socket.socket] = []
    bound = address
    try:
        for _ in range(max(1, copies)):
            sockets.append(_listen_tcp(bound, backlog, reuseport=copies > 0))
            if bound.port == 0:
                bound = replace(address, port=_port(sockets[0]))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise bind_error(address, error) from error
    return Listener(address, bound.place, backlog, sockets)


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if address.kind == "tcp6" else socket.AF_INET


def sockaddr(address: Address) -> Any:
    found = socket.getaddrinfo(
        address.host or None, address.port, _family(address), socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return found[0][4]


def _port(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def _listen_tcp(address: Address, backlog: int, reuseport: bool) -> socket.socket:
    sock = bind_tcp(address, reuseport)
    try:
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_tcp(address: Address, reuseport: bool) -> socket.socket:
    family = _family(address)
    where = sockaddr(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.freebind:
            level, option = _FREEBIND[family]
            sock.setsockopt(level, option, 1)
        if reuseport:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # Otherwise [::]:80 and 0.0.0.0:80 collide; two binds say it more plainly.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets inherit TCP_NODELAY: one system call less per connection.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_unix(address: Address, backlog: int, permissions: Permissions) -> Listener:
    path = address.path
    socket_files.make_way(path, f"bind {address}", ANOTHER_PATH)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        socket_files.bind(sock, path, permissions)
        sock.listen(backlog)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise bind_error(address, error) from error
    except BindError as error:
        sock.close()
        raise BindError(f"bind {address}: {error}") from error
    made = inode(path)
    return Listener(address, address.place, backlog, [sock], made, made, permissions)


def _adopt(address: Address, fd: int, backlog: int) -> Listener:
    """Take a listening socket that was passed to this process: fd://N and socket activation."""
    sock = inherited(address, fd)
    sock.setblocking(False)
    return _passed(Listener(address, name_of(sock), backlog, [sock]))


def inherited(address: Address, fd: int) -> socket.socket:
    """The socket of a descriptor, which is the one of the address or a copy of it. Raises BindError."""
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise no_socket(address, error) from error
    fd = address.fd
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise BindError(f"bind {address}: descriptor {fd} is a socket that does not listen")
    if is_shut_down(sock):
        sock.close()
        raise BindError(f"bind {address}: descriptor {fd} is a socket that was shut down")
    return sock


def no_socket(address: Address, error: OSError) -> BindError:
    return BindError(f"bind {address}: descriptor {address.fd} is not a socket ({error.strerror})")


def restored(address: Address, fd: int, backlog: int) -> Listener:
    """A listener that an earlier master made for `address`, kept meanwhile by the service manager.
    Raises OSError."""
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    sock.listen(backlog)  # that master may have shut it
    sock.setblocking(False)
    made = _passed(Listener(address, name_of(sock), backlog, [sock]))
    made.file_inode = made.unix_inode = made.found_inode()
    return made


def handed_over(
    fd: int, address: Address, backlog: int, file: int | None, permissions: Permissions
) -> Listener:
    """A listener of one of the master's own servers, from the master before. It keeps the address that it
    has, whatever `address` is configured by now: the file of another one is not ours to remove. `file`: the
    inode of its own, if that master has said it; `permissions`: of one that is made for it anew."""
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    sock.setblocking(False)
    sock.listen(backlog)
    name = name_of(sock)
    if address.kind == "fd":
        return Listener(address, name, backlog, [sock])  # its creator made the file, too
    made = Listener(Address.parse(name), name, backlog, [sock], permissions=permissions)
    made.file_inode = made.found_inode() if file is None else file
    return made


def _passed(listener: Listener) -> Listener:
    """Its creator may have set an owner (F_SETOWN), and have given it to other processes."""
    listener.expose()
    return listener


def is_shut_down(sock: socket.socket | int) -> bool:
    """Whether shutdown(2) was called on this listening socket, or on a copy of it. False for one that this
    process has closed."""
    fd = sock if isinstance(sock, int) else sock.fileno()
    if fd < 0:
        return False
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return any(mask & SHUT_DOWN for _, mask in poll.poll(0))


def listen_anew(listener: Listener, index: int) -> socket.socket | None:
    """Let clients in again at a socket that was shut down, or whose file was removed. Returns the socket
    that has to take its place, in every process; None: it listens itself again. Raises BindError.

    A TCP socket that was shut down is one that does not listen yet. It has kept its address, but for a port
    that the kernel had chosen. A unix socket is shut down for good."""
    sock, wanted = listener.sockets[index], listener.wanted
    if sock.family != socket.AF_UNIX:
        try:
            _listen_again(sock, listener)
            # A second shutdown(2), when it did not listen, has left a mark on it, with which each connection
            # would begin: it could neither be read nor written. The end of listening removes that.
            sock.shutdown(socket.SHUT_RDWR)
            _listen_again(sock, listener)
        except OSError as error:
            raise bind_error(wanted, error) from error
        return None
    if wanted.kind != "unix":
        raise BindError(
            f"bind {wanted}: a unix socket that was passed to forkd can only be made anew by whoever made it"
        )
    made = _listen_unix(wanted, listener.backlog, listener.permissions)
    if listener.unix_inode is not None:
        listener.unix_inode = made.unix_inode
    listener.file_inode = made.file_inode
    return made.sockets[0]


def _listen_again(sock: socket.socket, listener: Listener) -> None:
    try:
        sock.bind(sockaddr(Address.parse(listener.name)))
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: it is bound
            raise
    sock.listen(listener.backlog)


def name_of(sock: socket.socket) -> str:
    """The address of a bound socket, written as a bind is."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(sock.getsockname())}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


# ---- the holder of an address -------------------------------------------------------------


def bind_error(address: Address, error: OSError) -> BindError:
    text = str(SystemCallError("bind", str(address), error))
    if error.errno == errno.EADDRINUSE:
        holders = tcp_holders(address.port)
        others = [pid for pid in holders if pid != os.getpid()]
        if others:
            text += f"; it is held by {', '.join(describe(pid) for pid in others[:3])}"
        elif holders:
            text += "; this daemon listens at another address of that port: forkd restart can change it"
        elif os.path.exists("/proc/self"):
            text += "; by whom only root can see (ss -ltnp)"
        else:
            text += "; by whom cannot be seen without /proc"
    elif error.errno == errno.EACCES and address.kind != "unix":
        least = _first_unprivileged_port()
        text += (
            f"; ports below {least} need root or CAP_NET_BIND_SERVICE"
            if address.port < least
            else "; a policy of this system forbids that port (SELinux, AppArmor, eBPF)"
        )
    elif error.errno == errno.EADDRNOTAVAIL:
        text += (
            f"; no interface of this machine has that address: bind {replace(address, freebind=True)} to "
            "have it listened on now, for when one will have it"
        )
    return BindError(text)


def _first_unprivileged_port() -> int:
    """ip(7), ip_unprivileged_port_start."""
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def tcp_holders(port: int) -> list[int]:
    """The processes that listen on `port` (proc(5): /proc/net/tcp)."""
    found = _holders({f"socket:[{inode}]" for inode in _listening_inodes(port)})
    # Children that share the socket say nothing new.
    return sorted(pid for pid in found if parent(pid) not in found)


def other_holders(sock: socket.socket, known: set[int]) -> list[str]:
    """The processes that have a copy of the socket, besides those `known`, as texts."""
    found = _holders({f"socket:[{os.fstat(sock.fileno()).st_ino}]"})
    return [describe(pid) for pid in sorted(set(found) - known)]


def _holders(wanted: set[str]) -> list[int]:
    """The processes with one of these descriptors (proc(5): the fd links)."""
    found = []
    for entry in _proc():
        if entry.isdigit():
            try:
                links = (
                    os.readlink(f"/proc/{entry}/fd/{n}") for n in os.listdir(f"/proc/{entry}/fd")
                )
                if any(link in wanted for link in links):
                    found.append(int(entry))
            except OSError:
                continue  # not ours to look at, or gone meanwhile
    return found


def _proc() -> list[str]:
    with suppress(OSError):  # a chroot may have none
        return os.listdir("/proc")
    return []


def _listening_inodes(port: int) -> Iterator[str]:
    listening = "0A"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as file:
                rows = [line.split() for line in file][1:]
        except OSError:
            continue
        for row in rows:
            if row[3] == listening and int(row[1].rsplit(":", 1)[1], 16) == port:
                yield row[9]


def data_age(sock: socket.socket) -> float | None:
    """Seconds since the last byte of a TCP connection arrived, also while it was in the accept queue;
    None for other sockets. TCP_INFO: tcpi_last_data_recv, in ms of the kernel's monotonic clock."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56)
    except OSError:
        return None
    milliseconds: int = struct.unpack_from("=I", info, 52)[0]
    return milliseconds / 1000


# ---- the accept queue ---------------------------------------------------------------------


def _queue(sock: socket.socket) -> tuple[int, int]:
    """(length, limit) of a listening socket's accept queue; (0, 0) when the kernel will not say."""
    try:
        if sock.family == socket.AF_UNIX:
            return _unix_queue(os.fstat(sock.fileno()).st_ino)
        # On a listener tcpi_unacked is the queue's length and tcpi_sacked its limit
        # (tcp_get_info() in net/ipv4/tcp.c); they are the 7th and 8th words of struct tcp_info
        # after its 8 bytes of flags.
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 40)
        unacked, sacked = struct.unpack_from("=II", info, 24)
        return unacked, sacked
    except OSError:
        return 0, 0


_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NETLINK_SOCK_DIAG = 4
_UDIAG_SHOW_RQLEN = 0x10
_UNIX_DIAG_RQLEN = 4


def _unix_queue(inode: int) -> tuple[int, int]:
    """The same for a unix listener, which has no TCP_INFO: sock_diag(7), UNIX_DIAG_RQLEN."""
    request = struct.pack(
        "=IHHII BBHIIIII", 40, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0,
        socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode & 0xFFFFFFFF, _UDIAG_SHOW_RQLEN,
        0xFFFFFFFF, 0xFFFFFFFF,
    )  # fmt: skip
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(0.1)  # the kernel answers at once or not at all
        diag.sendto(request, (0, 0))
        reply = diag.recv(8192)
    offset = 16 + 16  # nlmsghdr, struct unix_diag_msg; then the attributes
    while offset + 4 <= len(reply):
        length, kind = struct.unpack_from("=HH", reply, offset)
        if kind == _UNIX_DIAG_RQLEN and length >= 12:
            queued, limit = struct.unpack_from("=II", reply, offset + 4)
            return queued, limit
        offset += max(4, (length + 3) & ~3)
    return 0, 0
