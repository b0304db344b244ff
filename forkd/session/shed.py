"""Shedding load: a request that has waited too long is answered 503 (`--shed-after`).

An overloaded service that answers every request late is of no use: clients time out and ask again, while it
works on answers that no client waits for any more. A quick 503 with Retry-After leaves its time to the
clients that still wait. In a child; an interface of a service without a limit is not wrapped in this.
"""

from __future__ import annotations

from math import ceil
from typing import IO, Any

from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Refusal, Refused
from forkd.http.response import server_line
from forkd.session.http1 import Ending, Exchanges, Steps, StreamSteps, refusal
from forkd.session.seam import Become, Host, Peer
from forkd.system.cells import SHED


class Shedding:
    """An interface that serves requests, but for those that have waited too long.

    Its shortcuts look by themselves, and leave such a request to the session. That comes here with it."""

    def __init__(self, served: Exchanges, config: Config, host: Host) -> None:
        self.shortcut = served.shortcut
        self.uwsgi = served.uwsgi
        for shortcut in (self.shortcut, self.uwsgi.shortcut):
            if shortcut is not None:
                shortcut.sheds_after = config.shed_after
        self.note = served.note
        self.read = served.read
        self.resume = served.resume
        self._exchange = served.exchange
        self._stream = served.stream
        self.stream = None if served.stream is None else self._stream_or_shed
        self._host = host
        self._most = config.shed_after
        self._server = server_line(config.server_header)
        # By then what was in the queue has been answered, or shed too.
        self._retry = (("Retry-After", str(ceil(config.shed_after))),)

    def exchange(self, request: Any, peer: Peer, body: IO[bytes] | None) -> Steps:
        """Looked at where logic runs: the wait in a pool's queue counts, too."""
        waited = peer.waited()
        if waited <= self._most:
            return self._exchange(request, peer, body)
        return self._shed(request, peer, waited)

    def _stream_or_shed(self, request: Request, peer: Peer, data: bytes) -> StreamSteps | Become:
        waited = peer.waited()
        if waited <= self._most:
            assert self._stream is not None
            return self._stream(request, peer, data)
        return self._shed_stream(request, peer, data, waited)

    def _shed_stream(self, request: Request, peer: Peer, data: bytes, waited: float) -> StreamSteps:
        yield from self._shed(request, peer, waited)
        return Ending(True, data, bool(request.length or request.chunked))

    def _shed(self, request: Any, peer: Peer, waited: float) -> Steps:
        self._host.recorder.add(SHED)
        refused = Refused(
            503, f"overloaded: the request has waited for {waited:.1f} s", Refusal.OVERLOAD
        )
        yield refusal(
            self._host, peer, refused, request.line, request, self._retry, int(waited * 1e9), self._server
        )
        return True
