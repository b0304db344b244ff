"""Request bodies that were collected before the application runs: in memory, or on disk.

Sans-I/O, but for the temporary file. In a child.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from typing import IO

from forkd.system.originals import Lock


class Room:
    """The memory that all bodies of one child may take together."""

    def __init__(self, size: int) -> None:
        self.size = self._free = size
        self._lock = Lock()

    def take(self, size: int, leave: int = 0) -> bool:
        """Whether there was room, and `leave` besides; negative to give it back."""
        with self._lock:
            found = size <= self._free - leave
            if found:
                self._free -= size
        return found


#: What a piece costs besides its bytes: a client may send them one by one.
_PIECE_OVERHEAD_BYTES = 64


class _Held(io.BytesIO):
    """A body in memory. Its room is free again when the last reference to it is gone."""

    def __init__(self, data: bytes, room: Room, taken: int) -> None:
        super().__init__(data)  # no copy, and none when it is read whole
        self._room = room
        self._size = taken

    def close(self) -> None:
        self._release()
        super().close()

    def _release(self) -> None:
        self._room.take(-self._size)
        self._size = 0

    # Not `close`: it raises while a view of the memory is there, as in a circle that is collected whole.
    __del__ = _release


class Spool:
    """Collects a body: in memory, up to `limit` bytes and while there is room; else in an unlinked
    temporary file.

    In memory, a body whose length is known is received where the application will read it; of one
    that is not, or when half of the room is reserved like that, the pieces are kept and joined: a
    client that announces a large body and sends none takes no room from others.
    """

    def __init__(self, limit: int, room: Room) -> None:
        self._limit = limit
        self._room = room
        self._pieces: list[bytes] = []
        self._held = 0  # of the room, by what is in `_pieces`
        self._file: IO[bytes] | None = None
        self._whole: _Held | None = None
        self._space: memoryview | None = None  # the memory of `_whole`
        self.size = 0

    def reserve(self, length: int, blank: Callable[[int], bytes]) -> memoryview | None:
        """Memory for a body of exactly `length` bytes; what is received there is written, too. None
        when there is too little. `blank` makes that many. Called once, before `write`."""
        if length > self._limit or not self._room.take(length, self._room.size // 2):
            return None
        self._whole = _Held(blank(length), self._room, length)
        self._space = self._whole.getbuffer()
        return self._space

    def write(self, data: bytes | memoryview) -> None:
        """Raises OSError when the disk is full."""
        begin = self.size
        self.size += len(data)
        if self._space is not None:
            if type(data) is memoryview:
                data.release()  # a slice of this memory, where the application shall have it alone
            else:
                self._space[begin : self.size] = data
            return
        assert type(data) is bytes
        if self._file is None:
            cost = len(data) + _PIECE_OVERHEAD_BYTES
            if self.size <= self._limit and self._room.take(cost):
                self._pieces.append(data)
                self._held += cost
                return
            self._file = tempfile.TemporaryFile(prefix="forkd-body-")
            self._file.writelines(self._pieces)
            self._drop()
        self._file.write(data)

    def rewind(self) -> IO[bytes]:
        """The body, to be read from its beginning. Called once."""
        if self._file is not None:
            self._file.seek(0)
            return self._file
        if self._whole is not None:
            self._space = None
            return self._whole
        found = _Held(b"".join(self._pieces), self._room, self._held)
        self._held = 0  # is `found`'s now
        self._pieces = []
        return found

    def _drop(self) -> None:
        self._room.take(-self._held)
        self._held = 0
        self._pieces = []

    def __del__(self) -> None:
        self._drop()
        if self._space is not None:
            # In a circle, as of the exception for a body that is late: CPython 3.12.1 crashes when it clears
            # a BytesIO's buffer before its view.
            with contextlib.suppress(BufferError):  # an operation of the kernel's uses it
                self._space.release()
