"""Request bodies as `wsgi.input`: spooled before the application runs, or read while it does.

Sans-I/O: bytes come from the session, or from `Peer.pull`.
"""

from __future__ import annotations

import io
import tempfile
import threading
from time import monotonic
from typing import IO, Protocol

from forkd.app.session import ClientGone, Ledger, Patience, Peer
from forkd.http.limits import Refused
from forkd.http.response import CONTINUE


class Decoder(Protocol):
    """http.body's LengthBody and ChunkedBody."""

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes: ...


class Room:
    """What the bodies of one child may hold in memory, all together."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there was room; negative to give it back."""
        with self._lock:
            found = size <= self._free
            if found:
                self._free -= size
        return found


#: What a piece costs besides its bytes: a client may send them one by one.
_PIECE = 64


class _Held(io.BytesIO):
    """A body in memory. Its room is free again when nobody has it any more."""

    def __init__(self, data: bytes, room: Room, taken: int) -> None:
        super().__init__(data)  # no copy, and none for who reads it whole
        self._room = room
        self._size = taken

    def close(self) -> None:
        self._room.take(-self._size)
        self._size = 0
        super().close()

    __del__ = close


class Spool:
    """Collects a body: in memory, up to `limit` bytes and while there is room; else in an unlinked
    temporary file."""

    def __init__(self, limit: int, room: Room) -> None:
        self._limit = limit
        self._room = room
        self._pieces: list[bytes] = []
        self._held = 0  # of the room, by what is in `_pieces`
        self._file: IO[bytes] | None = None
        self.size = 0

    def write(self, data: bytes) -> None:
        """Raises OSError when the disk is full."""
        self.size += len(data)
        if self._file is None:
            cost = len(data) + _PIECE
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
        found = _Held(b"".join(self._pieces), self._room, self._held)
        self._held = 0  # is `found`'s now
        self._pieces = []
        return found

    def _drop(self) -> None:
        self._room.take(-self._held)
        self._held = 0
        self._pieces = []

    __del__ = _drop


class BrokenBody(OSError):
    """The request body is late or malformed. `status`: how to answer if the application does not."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ExpectedBody(io.RawIOBase):
    """The body of a request with `Expect: 100-continue`, asked for when the application reads.

    Reading blocks the thread that runs the application, for as long as a body that is collected may
    take. A body that ends early, is late or is malformed raises; it never looks like the end of the
    body.
    """

    def __init__(
        self,
        peer: Peer,
        ledger: Ledger,
        line: bytes,
        decoder: Decoder,
        first: bytes,
        seconds: float,
    ) -> None:
        self._line = line
        self._patience = Patience(seconds)
        self._peer = peer
        self._ledger = ledger
        self._decoder = decoder
        self._ready = b""
        self._first = first  # what came with the head
        self._asked = bool(first)  # a client that already sends needs no 100 (RFC 9110, 10.1.1)

    @property
    def complete(self) -> bool:
        return self._decoder.done and not self._ready

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._ready and not self._decoder.done:
            self._ledger.pause()  # waiting for the client is not the application's time
            try:
                self._receive()
            finally:
                self._ledger.resume(self._line)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _receive(self) -> None:
        if not self._asked:
            self._asked = True
            self._peer.push(CONTINUE)
        while not self._ready and not self._decoder.done:
            try:
                data, self._first = self._first or self._pull(), b""
                if not data:
                    raise ClientGone("the client left in the middle of its request body")
                self._ready = self._decoder.feed(data)
            except TimeoutError as late:
                raise BrokenBody(408, str(late)) from None
            except Refused as refused:
                raise BrokenBody(refused.status, refused.reason) from None

    def _pull(self) -> bytes:
        began = monotonic()
        data = self._peer.pull(self._patience.left)
        self._patience.waited(began, len(data))
        return data
