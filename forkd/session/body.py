"""Request bodies as files: collected before the application runs.

Sans-I/O: bytes come from the session.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from typing import IO, Any, Protocol

from forkd.config import Config
from forkd.http.body import ChunkedBody, LengthBody
from forkd.http.guard import Request
from forkd.http.limits import Refusal, Refused
from forkd.native import pick
from forkd.session.seam import (
    SLOWEST_BYTES_PER_SECOND,
    Await,
    ClientGone,
    Deadline,
    Log,
    Peer,
)
from forkd.session.spool import Room, Spool
from forkd.system.forked import in_fork, leave

#: Bytes of request bodies that a child holds in memory; beyond it all bodies go to disk.
_MAX_MEMORY_BYTES = 64 << 20


class Framed(Protocol):
    """What a request says of its body."""

    @property
    def length(self) -> int | None: ...
    @property
    def chunked(self) -> bool: ...


class Collector:
    """Receives whole bodies. One per child."""

    def __init__(self, config: Config, log: Log) -> None:
        self._most = config.limit_request_body
        self._buffer = config.body_buffer
        self._room = Room(max(_MAX_MEMORY_BYTES, config.body_buffer))
        self._wait = Await("request body", config.body_timeout, rate=SLOWEST_BYTES_PER_SECOND)
        self._log = log
        #: Makes bytes that will be written before they are read.
        self._blank: Callable[[int], bytes] = pick("blank", bytes, config.native)

    def collect(
        self, request: Framed, peer: Peer, data: bytes
    ) -> Generator[Any, Any, tuple[IO[bytes], bytes]]:
        """The body of a request that has one, and what came behind it; `data` came behind the head.
        A chunked request has its `length` then. Raises Refused, ClientGone."""
        length = request.length
        if length is not None and length <= len(data):
            return io.BytesIO(data[:length]), data[length:]
        decoder = ChunkedBody(self._most) if request.chunked else LengthBody(length or 0)
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
            late = "the request body did not arrive in time"
            raise Refused(408, late, Refusal.BODY_TIMEOUT) from None
        except ClientGone:
            raise
        except OSError as failure:
            self._log.error(f"request body: spooling to disk: {failure}")
            raise Refused(503, "no room for the request body", Refusal.NO_ROOM) from failure
        finally:
            if space is not None:
                peer.fill(None)
        if isinstance(request, Request):
            request.length = spool.size
        return spool.rewind(), decoder.leftover


def close_body(body: IO[bytes], log: Log) -> None:
    """The application had `body`: it may have detached it, hold a buffer of it, or have replaced its close().
    The answer is sent; what goes wrong here must not end the connection."""
    try:
        body.close()
    except BaseException as error:  # whatever a close() of the application's raises
        if in_fork:
            leave(error)
        log.debug(f"request body: close: {type(error).__name__}")
    if in_fork:
        leave()
