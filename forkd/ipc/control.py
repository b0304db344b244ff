"""The control socket: verbs of the command line, answered by the master.

A unix socket, mode 0600; the peer's uid is checked too (SO_PEERCRED), since the directory may be
shared. One request and one answer per connection, each a line of JSON. An answer may come late
(`reload` answers when the reload has ended), so a connection stays open until then. Nobody keeps others
out by being slow (system/places.py).
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from forkd.errors import BindError, ForkdError, NotRunning, SystemCallError
from forkd.system.loop import Loop
from forkd.system.places import BACKLOG, Client, Places
from forkd.system.socket_files import NO_FILE, PRIVATE, bind, inode, make_way

#: After which whoever waits is told what for, seconds.
ANNOUNCE_SECONDS = 5.0
_MOST_REQUEST_BYTES = 65536
_MAX_CLIENTS = 16
#: What to do about a control socket that somebody else has.
ANOTHER_CONTROL = "choose another --control"

Reply = dict[str, Any]


class Command:
    """One command of a verb, to be answered once, at any time."""

    def __init__(
        self, verb: str, arguments: dict[str, Any], send: Callable[[bytes], None]
    ) -> None:
        self.verb = verb
        self.arguments = arguments
        self._send = send

    def wait_for(self, event: Callable[[Callable[[], None]], None]) -> Command:
        """Have the answer sent when `event` calls what it is given."""
        send = self._send
        self._send = lambda data: event(partial(send, data))
        return self

    def answer(self, **fields: Any) -> None:
        self._reply({"ok": True, **fields})

    def refuse(self, error: str) -> None:
        self._reply({"ok": False, "error": error})

    def _reply(self, reply: Reply) -> None:
        self._send(json.dumps(reply).encode() + b"\n")


class ControlServer:
    """The master's side. `handle` is called with each request."""

    def __init__(
        self, sock: socket.socket, path: str, loop: Loop, handle: Callable[[Command], None]
    ) -> None:
        self.sock = sock
        self._path = path
        self._handle = handle
        self._loop = loop
        self._inode = NO_FILE  # of the socket file, when it is ours
        self._places = Places(sock, loop, _MAX_CLIENTS, self._heard, _may_ask, lingers=False)

    def open(self) -> None:
        """Begin to answer, and own the socket file. From here on the kernel names this process to whoever
        connects (unix(7): the credentials of the last listen(2)), as the pid file does."""
        self.sock.listen(BACKLOG)
        self._inode = inode(self._path)
        self._places.open()

    def restore(self) -> None:
        """Make the socket again if its file was removed or replaced. Raises BindError."""
        if self._inode == inode(self._path) != NO_FILE:
            return
        made = ControlServer.listen(self._path, self._loop, self._handle)
        self._places.move(made.sock)
        self.sock.close()
        self.sock, self._inode = made.sock, made._inode

    @classmethod
    def adopt(
        cls, fd: int, path: str, loop: Loop, handle: Callable[[Command], None]
    ) -> ControlServer:
        """The socket that an upgrade handed over."""
        sock = socket.socket(fileno=fd)
        sock.set_inheritable(False)
        return cls(sock, path, loop, handle)

    @classmethod
    def listen(cls, path: str, loop: Loop, handle: Callable[[Command], None]) -> ControlServer:
        """Make the socket. Only to be called by the holder of the pid file: a file that is there
        is stale then, unless it is not ours at all. Raises BindError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            make_way(path, "control", ANOTHER_CONTROL)
            bind(sock, path, PRIVATE)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise BindError(f"control: {SystemCallError('bind', path, error)}") from error
        except BindError:
            sock.close()
            raise
        server = cls(sock, path, loop, handle)
        server._inode = inode(path)
        return server

    def _heard(self, client: Client, data: bytes) -> None:
        """Bytes on a connection: when the line is complete, handle the request."""
        client.data += data
        if data and b"\n" not in client.data and len(client.data) < _MOST_REQUEST_BYTES:
            return
        answer = partial(self._places.answer, client)
        try:
            found = json.loads(client.data)
            command = Command(found.pop("verb"), found, answer)
            if type(command.verb) is not str:
                raise TypeError("verb")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            Command("", {}, answer).refuse("a request is one line of JSON with a verb")
            return
        client.data = b""
        if not self._places.wait(client):
            command.refuse("too many wait for the answer to a request of theirs; ask again later")
            return
        try:
            self._handle(command)
        except Exception:
            command.refuse("a bug in forkd; see the error log")
            raise

    def forget(self) -> None:
        """In a child: close our copies."""
        self._places.forget()
        self.sock.close()

    def hand_over(self) -> None:
        """Another master answers from now on, and the socket file is its."""
        self._inode = NO_FILE
        self.close()

    def close(self) -> None:
        self._places.close()
        self.sock.close()
        try:
            if self._inode == inode(self._path) != NO_FILE:
                os.unlink(self._path)
        except OSError:
            pass  # it is not there; or the file system is read-only by now, and the file is stale


def _may_ask(sock: socket.socket) -> bool:
    """Whether it is root's, or ours."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid in (0, os.geteuid())


def ask(
    path: str,
    verb: str,
    seconds: float | None = 10.0,
    late: Callable[[], None] | None = None,
    **arguments: Any,
) -> Reply:
    """The command line's side: send a request, wait up to `seconds` for the answer. `late` is called once,
    where it takes longer than ANNOUNCE_SECONDS.

    Raises NotRunning when nobody listens, ForkdError with the master's words when it refuses.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _connect(sock, path, seconds)
            sock.settimeout(seconds)
            sock.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            data = b""
            if late is not None and not select.select([sock], [], [], ANNOUNCE_SECONDS)[0]:
                late()
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


def _connect(sock: socket.socket, path: str, seconds: float | None) -> None:
    """Raises TimeoutError, OSError. A unix socket that does not block is refused at once, with EAGAIN,
    where the accept queue is full: then others connect faster than the master looks. One that blocks
    waits for its turn, and SO_SNDTIMEO says for how long (socket(7))."""
    whole, rest = divmod(seconds or 0.0, 1)  # 0: for ever
    limit = struct.pack("@ll", int(whole), int(rest * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    try:
        sock.connect(path)
    except BlockingIOError as error:
        raise TimeoutError from error
