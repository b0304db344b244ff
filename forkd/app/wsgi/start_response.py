"""What a WSGI application calls to answer: start_response and write (PEP 3333), and wsgi.early_hints.

Decides nothing about sockets or framing: the bytes are made by session/framing.py.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from forkd.http.response import early_hints
from forkd.session.framing import Answer, exact
from forkd.session.seam import ClientGone, Peer
from forkd.system.forked import in_fork

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class Response(Answer):
    NO_HEAD = "the application did not call start_response"

    over = False  # what the application has kept of it must not reach the connection any more
    ticket = 0  # of the request in the recorder, once it has begun
    peer: Peer  # the connection that `write` sends to

    def start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no cycle through this frame
        elif self.code:
            raise RuntimeError("start_response was called twice without exc_info (PEP 3333)")
        self.choose(status, headers)  # raises: then what was said before holds
        return self.write

    def write(self, data: bytes) -> None:
        """The write() callable: sent before it returns, as PEP 3333 wants."""
        self._require_client("write()")
        self._push(self.piece(exact(data), None))

    def early_hints(self, headers: Headers) -> None:
        """`wsgi.early_hints`: a 103 with these fields, sent before it returns."""
        self._require_client("wsgi.early_hints")
        if self.code:
            raise RuntimeError("wsgi.early_hints was called after start_response")
        self._push(early_hints(headers))

    def _require_client(self, what: str) -> None:
        if in_fork:
            raise ClientGone("the client is the worker's, not a process's that it has forked")
        if self.over:
            raise RuntimeError(f"{what} was called after its request (PEP 3333)")

    def _push(self, piece: bytes) -> None:
        if piece:
            recorder = self._framing.host.recorder
            recorder.pause()  # waiting for the client is not the application's time
            try:
                self.peer.push(piece)
            finally:
                recorder.resume(self.ticket)


def declared(value: Any) -> int | None:
    """`len(value)` where an iterable has one (PEP 3333: a single block needs no chunking)."""
    try:
        return len(value)
    except TypeError:
        return None
