"""Request bodies as `wsgi.input`: collected before the application runs, or read while it does.

Sans-I/O: bytes come from the session, or from `Peer.pull`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from time import monotonic
from typing import IO, Any, Protocol

from forkd.app.session import (
    SLOWEST,
    Await,
    ClientGone,
    Deadline,
    Ledger,
    Log,
    Patience,
    Peer,
)
from forkd.app.spool import Room, Spool
from forkd.config import Config
from forkd.http.body import ChunkedBody, LengthBody
from forkd.http.guard import Request
from forkd.http.limits import Refused
from forkd.http.response import CONTINUE
from forkd.http.usual import UsualRequest

#: Bytes of request bodies that a child holds in memory; beyond it all bodies go to disk.
_ROOM = 64 << 20


class Decoder(Protocol):
    """http.body's LengthBody and ChunkedBody."""

    done: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes: ...


def decoder_of(request: Request | UsualRequest, most: int) -> LengthBody | ChunkedBody:
    """For a request with a body, which has at most so many bytes."""
    return ChunkedBody(most) if request.chunked else LengthBody(request.length or 0)


class Collector:
    """Receives whole bodies. One per child."""

    def __init__(self, config: Config, log: Log, blank: Callable[[int], bytes]) -> None:
        """`blank` makes bytes that will be written before anybody reads them."""
        self._most = config.limit_request_body
        self._buffer = config.body_buffer
        self._room = Room(max(_ROOM, config.body_buffer))
        self._wait = Await("request body", config.body_timeout, rate=SLOWEST)
        self._log = log
        self._blank = blank

    def collect(
        self, request: Request | UsualRequest, peer: Peer, data: bytes
    ) -> Generator[Any, Any, tuple[IO[bytes], bytes]]:
        """The body of a request that has one, and what came behind it; `data` came behind the head.
        A chunked request has its `length` then. Raises Refused, ClientGone."""
        length = request.length
        if length is not None and length <= len(data):
            return io.BytesIO(data[:length]), data[length:]
        decoder = decoder_of(request, self._most)
        spool = Spool(self._buffer, self._room)
        space = spool.reserve(length, self._blank) if length is not None else None
        try:
            spool.write(decoder.feed(data))
            if space is not None:
                end = spool.size + peer.fill(space[spool.size :])
                here: Any = space[spool.size : end]
                spool.write(decoder.feed(here))
            while not decoder.done:
                data = yield self._wait
                if not data:
                    raise ClientGone("the client left in the middle of its request body")
                spool.write(decoder.feed(data))
        except Deadline:
            raise Refused(408, "the request body did not arrive in time") from None
        except ClientGone:
            raise
        except OSError as failure:
            self._log.error(f"request body: spooling to disk: {failure}")
            raise Refused(503, "no room for the request body") from failure
        finally:
            if space is not None:
                peer.fill(None)
        if isinstance(request, Request):
            request.length = spool.size
        return spool.rewind(), decoder.rest


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
