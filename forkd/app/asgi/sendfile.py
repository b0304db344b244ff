"""Files as bodies of answers: `http.response.pathsend`, and `http.response.zerocopysend`.

The kernel sends them (sendfile(2)), piece by piece as the client reads. In a child, on its loop's thread.
"""

from __future__ import annotations

import stat
from typing import Any

from forkd.session.seam import Peer
from forkd.system.originals import os

_PIECE_BYTES = 1 << 20
#: The other connections wait for so many pieces at most, where one client reads as fast as they are sent.
_TURN_PIECES = 4


class File:
    """What is left to send of an open file, by a descriptor of its own: that of the application may be
    closed in the middle of it, once its wait is cancelled."""

    __slots__ = ("behind", "clipped", "count", "fd", "moved", "offset")

    def __init__(self, fd: int, offset: int, count: int, clipped: bool, moved: Any = None) -> None:
        self.fd = fd
        self.offset = offset
        self.count = count
        self.clipped = clipped  # to the file's end: what is there beyond the Content-Length is left
        self.moved = moved  # what the application has it by, where its position moves
        self.behind = b""  # sent after it

    def take(self, count: int) -> None:
        """So many bytes of it are sent."""
        self.count, moved = count, self.moved
        if isinstance(moved, int):
            os.lseek(self.fd, self.offset + count, os.SEEK_SET)
        elif moved is not None:
            moved.seek(self.offset + count)

    def give(self, peer: Peer) -> bool:
        """Send what can be sent now; True when nothing is left. Raises ClientGone and FileFailed."""
        for _ in range(_TURN_PIECES):
            sent = peer.send_file(self.fd, self.offset, min(self.count, _PIECE_BYTES))
            self.offset += sent
            self.count -= sent
            if not (sent and self.count):
                break
        return not self.count

    def close(self) -> None:
        os.close(self.fd)


def by_path(message: dict[str, Any]) -> File:
    """Raises OSError, as open(2) does, and ValueError for what is no regular file."""
    # A FIFO that nobody writes to would block the loop.
    fd = os.open(message["path"], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return File(fd, 0, _size(fd, message["path"]), True)
    except BaseException:
        os.close(fd)
        raise


def by_descriptor(message: dict[str, Any]) -> File:
    """Raises as by_path. Where the message names no offset the file is sent from where it stands, and stands
    behind what is sent from then on."""
    file, offset, count = message["file"], message.get("offset"), message.get("count")
    if (offset is not None and offset < 0) or (count is not None and count < 0):
        raise ValueError(f"offset {offset!r} and count {count!r} of a file")
    fd = os.dup(file if isinstance(file, int) else file.fileno())
    try:
        size, moved = _size(fd, file), None
        if offset is None:
            moved = file
            offset = os.lseek(fd, 0, os.SEEK_CUR) if isinstance(file, int) else file.tell()
        rest = max(0, size - offset)
        return File(fd, offset, rest if count is None else min(count, rest), count is None, moved)
    except BaseException:
        os.close(fd)
        raise


def _size(fd: int, name: object) -> int:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{name!r} is no regular file")
    return found.st_size
