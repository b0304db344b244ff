"""A connection whose bytes are moved by asynchronous operations: see system/operations.py."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import termios
from typing import Any

from forkd.engine.connection import Connection
from forkd.engine.hijack import HijackedSocket
from forkd.engine.steps import Outcome
from forkd.session.seam import FileFailed
from forkd.system.cells import RECEIVED
from forkd.system.operations import Operations
from forkd.system.originals import socket

#: Bytes of a file, or of a stream's backlog, that are sent by one operation.
_PIECE_BYTES = 262144


class Completing(Connection):
    """Application code that blocks in `push` uses the socket itself to send. What is received meanwhile is
    held, as always when the session does not wait for it: so each byte that came is held by the operations,
    or was given to the session, in this order, and nothing is kept here besides."""

    __slots__ = ("last", "operations")

    direct = False

    def __init__(self, operations: Operations, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.operations = operations
        self.last: Outcome | None = None  # the session has returned; kept while a send is under way
        operations.adopt(self.fd)

    def piece(self) -> bytes:
        """The next bytes of `out`; b"" when nothing is left. Raises OSError (the file broke off)."""
        while self.out:
            item = self.out.pop(0)
            if isinstance(item, memoryview):
                if item.nbytes:
                    whole = item.obj
                    if type(whole) is bytes and len(whole) == item.nbytes:
                        return whole
                    if item.nbytes > _PIECE_BYTES:
                        self.out.insert(0, item[_PIECE_BYTES:])
                    return bytes(item[:_PIECE_BYTES])
            elif item.count:
                data = os.pread(item.fd, min(item.count, _PIECE_BYTES), item.offset)
                if not data:
                    raise ConnectionAbortedError("the file became shorter while it was sent")
                item.offset += len(data)
                item.count -= len(data)
                self.out.insert(0, item)
                return data
        return b""

    def has_input(self) -> bool:
        waiting = array.array("i", [0])
        fcntl.ioctl(self.fd, termios.FIONREAD, waiting)
        return bool(waiting[0]) or self.operations.holds(self.fd)

    def has_come(self) -> bool:
        return self.has_input() or self.operations.has_come(self.fd)

    def hijack(self) -> HijackedSocket:
        came = self.operations.receives_itself(self.fd)
        self.recorder.add(RECEIVED, len(came))
        taken = super().hijack()
        taken.unread(came)
        return taken

    def close(self) -> None:
        # The descriptor is closed in the next turn. The client is to see the end now, so that it sends no
        # request meanwhile, which would not be answered.
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
        self.operations.release(self.sock)

    # ---- session.Peer ---------------------------------------------------------------------

    def send(self, data: bytes | memoryview, more: bool = False) -> int:
        """Taken when no other send is under way; the session is resumed at its completion."""
        if self.operations.sending(self.fd):
            return 0
        piece = bytes(data[:_PIECE_BYTES])
        self.operations.send(self.fd, piece)
        return len(piece)

    def send_file(self, fd: int, offset: int, count: int) -> int:
        if self.operations.sending(self.fd):
            return 0
        try:
            piece = os.pread(fd, min(count, _PIECE_BYTES), offset)
        except OSError as error:
            raise FileFailed(str(error)) from None
        if not piece:
            raise FileFailed("the file became shorter while it was sent")
        return self.send(piece)

    def fill(self, buffer: memoryview | None) -> int:
        return 0  # the operations have buffers of their own

    def shutdown(self) -> bool:
        return not self.operations.sending(self.fd) and super().shutdown()

    def push(self, data: bytes) -> None:
        self.operations.sends_itself(self.fd)
        super().push(data)
