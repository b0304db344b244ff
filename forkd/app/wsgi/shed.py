"""Shedding load: WSGI sessions that answer 503 to a request that has waited too long (`--shed-after`).

An overloaded service that answers every request late is of no use: clients time out and ask again, while it
works on answers that no client waits for any more. A quick 503 with Retry-After leaves its time to the
clients that still wait. In a child; sessions of a service without a limit never come here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from math import ceil
from typing import Any

from forkd.app.wsgi.exchange import Application, Shown, Wsgi
from forkd.app.wsgi.shortcut import Exchange, UsualRequest
from forkd.app.wsgi.start_response import Response
from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Refusal
from forkd.http.response import error
from forkd.session.seam import Host, Peer
from forkd.system.cells import CODES, REFUSED, REQUESTS, SHED

#: What a request that is shed adds to.
_COUNTED = (REQUESTS, CODES + 503, REFUSED + Refusal.OVERLOAD, SHED)


class SheddingWsgi(Wsgi):
    def __init__(
        self, app: Application, config: Config, host: Host, *, multithread: bool, worker: int = 0
    ) -> None:
        super().__init__(app, config, host, multithread=multithread, worker=worker)
        self._most = config.shed_after
        # By then what was in the queue has been answered, or shed too.
        self._retry = (("Retry-After", str(ceil(config.shed_after))),)

    def _make_exchange(self) -> Exchange | None:
        return None  # each request is looked at first

    def _respond(
        self,
        request: Request | UsualRequest,
        shown: Shown,
        outcome: Callable[[], Iterable[bytes]],
        response: Response,
        peer: Peer,
        ticket: int = 0,
    ) -> Generator[Any, Any, None]:
        """Asked after READY: what it waited in a queue of our own counts, too."""
        waited = peer.waited()
        if waited <= self._most:
            return (yield from super()._respond(request, shown, outcome, response, peer))
        response.close = True
        for cell in _COUNTED:
            self._recorder.add(cell)
        reason = f"overloaded: the request has waited for {waited:.1f} s"
        answer = error(503, reason, method=request.method, fields=self._retry)
        self._log_own(peer, request.line, 503, answer, shown, int(waited * 1e9))
        yield answer
