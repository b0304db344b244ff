"""The control socket: verbs of the command line, answered by the master.

A unix socket, mode 0600; the peer's uid is checked too (SO_PEERCRED), since the directory may be
shared. One request and one answer per connection, each a line of JSON. An answer may come late
(`reload` answers when the reload has ended), so a connection stays open until then.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from forkd.errors import BindError, ForkdError, NotRunning, SystemCallError
from forkd.system.loop import Loop
from forkd.system.sockets import unix_holder

_MOST = 65536

Reply = dict[str, Any]


class Request:
    """One request, to be answered once."""

    def __init__(self, sock: socket.socket, verb: str, arguments: dict[str, Any]) -> None:
        self.verb = verb
        self.arguments = arguments
        self._sock = sock

    def answer(self, **fields: Any) -> None:
        self._send({"ok": True, **fields})

    def refuse(self, error: str) -> None:
        self._send({"ok": False, "error": error})

    def forget(self) -> None:
        """In a child."""
        self._sock.close()

    def _send(self, reply: Reply) -> None:
        try:
            # The socket's buffer holds any answer of ours; a client that does not read is not
            # waited for.
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            self._sock.send(json.dumps(reply).encode() + b"\n")
        except OSError:
            pass  # the client left
        self._sock.close()


class ControlServer:
    """The master's side. `handle` is called with each request."""

    def __init__(
        self, sock: socket.socket, path: str, loop: Loop, handle: Callable[[Request], None]
    ) -> None:
        self.sock = sock
        self._path = path
        self._loop = loop
        self._handle = handle
        self._inode = -1  # of the socket file, when it is ours
        self._clients: dict[int, tuple[socket.socket, bytes]] = {}

    def open(self) -> None:
        """Begin to answer, and own the socket file."""
        self._inode = os.stat(self._path).st_ino
        self._loop.watch(self.sock.fileno(), self._accept)

    @classmethod
    def adopt(
        cls, fd: int, path: str, loop: Loop, handle: Callable[[Request], None]
    ) -> ControlServer:
        """The socket that an upgrade handed over."""
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
        return cls(sock, path, loop, handle)

    @classmethod
    def listen(cls, path: str, loop: Loop, handle: Callable[[Request], None]) -> ControlServer:
        """Make the socket. Only to be called by the holder of the pid file: a file that is there
        is stale then, unless it is not ours at all. Raises BindError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if os.path.lexists(path):
                if not _is_socket(path):
                    raise BindError(f"control {path}: exists and is not a socket; remove it")
                holder = unix_holder(path)
                if holder is not None:
                    raise BindError(
                        f"control {path}: it belongs to {holder}; choose another --control, or remove the "
                        "file if nothing uses it any more"
                    )
                with suppress(FileNotFoundError):
                    os.unlink(path)
            before = os.umask(0o177)  # 0600 from the first instant
            try:
                sock.bind(path)
            finally:
                os.umask(before)
            sock.listen(64)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise BindError(f"control: {SystemCallError('bind', path, error)}") from error
        except BindError:
            sock.close()
            raise
        server = cls(sock, path, loop, handle)
        server._inode = os.stat(path).st_ino
        return server

    def _accept(self) -> None:
        try:
            sock, _ = self.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has left
        except OSError as error:
            self._loop.rest(self.sock.fileno(), error)
            return
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()) or len(self._clients) >= 16:
            sock.close()
            return
        sock.setblocking(False)
        fd = sock.fileno()
        self._clients[fd] = (sock, b"")
        self._loop.watch(fd, lambda: self._read(fd))

    def _read(self, fd: int) -> None:
        """Bytes on a connection: when the line is complete, handle the request."""
        sock, data = self._clients[fd]
        try:
            more = sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        data += more
        if more and b"\n" not in data and len(data) < _MOST:
            self._clients[fd] = (sock, data)
            return
        del self._clients[fd]
        self._loop.unwatch(fd)
        try:
            found = json.loads(data)
            request = Request(sock, str(found.pop("verb")), found)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            Request(sock, "", {}).refuse("a request is one line of JSON with a verb")
            return
        self._handle(request)

    def forget(self) -> None:
        """In a child: close our copies."""
        for sock, _ in self._clients.values():
            sock.close()
        self.sock.close()

    def hand_over(self) -> None:
        """Another master answers from now on, and the socket file is its."""
        self._inode = -1
        self.close()

    def close(self) -> None:
        for sock, _ in self._clients.values():
            self._loop.unwatch(sock.fileno())
            sock.close()
        self._clients.clear()
        if self.sock.fileno() >= 0:
            self._loop.unwatch(self.sock.fileno())
            self.sock.close()
        try:
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        except FileNotFoundError:
            pass


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.lstat(path).st_mode)


def ask(path: str, verb: str, seconds: float | None = 10.0, **arguments: Any) -> Reply:
    """The command line's side: send a request, wait up to `seconds` for the answer.

    Raises NotRunning when nobody listens, ForkdError with the master's words when it refuses.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(seconds)
        try:
            sock.connect(path)
            sock.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            data = b""
            while not data.endswith(b"\n"):
                more = sock.recv(65536)
                if not more:
                    break
                data += more
        except TimeoutError:
            raise ForkdError(f"the master did not answer {verb} within {seconds:g} s") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"not running: nobody listens on {path}") from None
        except OSError as error:
            raise ForkdError(str(SystemCallError("connect", path, error))) from error
    if not data:
        raise ForkdError(f"the master closed the connection without an answer to {verb}")
    reply: Reply = json.loads(data)
    if not reply["ok"]:
        raise ForkdError(reply["error"])
    return reply
