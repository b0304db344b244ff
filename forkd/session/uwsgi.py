"""The uwsgi protocol on a listener (`?protocol=uwsgi`): sessions of requests that nginx's uwsgi_pass sends.
In a child.

A request comes as a block of variables (http/uwsgi.py); all else is HTTP/1's: the body, the exchange, the
answer, refusals and deadlines. Only fronts speak it, and the variables say who the client is: a peer that is
none of --forwarded-allow is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.hops import Trusted
from forkd.http.limits import Limits, Refused
from forkd.http.uwsgi import UwsgiParser, UwsgiRequest
from forkd.session.closed import Closed
from forkd.session.fronts import Fronts
from forkd.session.http1 import Heads, Http1, limits_of
from forkd.session.seam import ANY_BYTES_PER_SECOND, Await, Deadline, Host, Peer, Session
from forkd.system.cells import UWSGI_UNTRUSTED
from forkd.system.seldom import Seldom

#: Between two lines in the log about requests that were refused.
_SILENCE_SECONDS = 60.0
#: Statuses of a front that is set up wrong, or whose limits are larger than those here.
_FRONT = (400, 431)


class Uwsgi:
    """An Interface of the seam, in place of that of HTTP/1, for the same application."""

    def __init__(self, interface: Http1, config: Config, host: Host) -> None:
        self._host = host
        self._allow = config.forwarded_allow
        self._limits = limits_of(config)
        self._stranger = Await("first request", config.header_timeout, rate=ANY_BYTES_PER_SECOND, idle=True)
        self._closed = Closed(host, "forkd_uwsgi_connections_refused_total")
        self._refused = Seldom(_SILENCE_SECONDS)
        served = interface.served
        self._http = Http1(served, config, host, Heads(self._parser, served.uwsgi, _Fronts(config, host)))
        self.opening = self._http.opening
        self.paced = self._http.paced
        self.retire = self._http.retire

    def session(self, peer: Peer, data: Any = b"") -> Session:
        trusted = self._allow.allows(peer.client)
        return self._http.session(peer, data) if trusted else self._close(peer, data)

    def _close(self, peer: Peer, data: bytes) -> Session:
        try:
            if not data and not (yield self._stranger):
                return
        except Deadline:
            return
        self._closed.note(peer, UWSGI_UNTRUSTED, "not a peer of --forwarded-allow, and speaks uwsgi")

    def _parser(self) -> _Parser:
        return _Parser(self._limits, self._allow, self._tell)

    def _tell(self, refused: Refused) -> None:
        """Have a line in the log: the front would see no reason in an answer that its client gets."""
        if refused.status in _FRONT and self._refused.leave():
            self._host.log.warning(
                f"uwsgi: refused with {refused.status}: {refused.reason}; more of that within "
                f"{_SILENCE_SECONDS:g} s is counted (forkd_requests_refused_total)"
            )


class _Parser(UwsgiParser):
    def __init__(self, limits: Limits, trusted: Trusted, tell: Callable[[Refused], None]) -> None:
        super().__init__(limits, trusted)
        self._tell = tell

    def feed(self, data: bytes) -> Request | None:
        try:
            return super().feed(data)
        except Refused as refused:
            self._tell(refused)
            raise


class _Fronts(Fronts):
    """No field says who the client is: those of proxies are dropped, or are for the application alone."""

    def __init__(self, config: Config, host: Host) -> None:
        super().__init__(config, host, ())

    def judge(self, request: Request, peer: Peer) -> None:
        super().judge(request, peer)
        if isinstance(request, UwsgiRequest) and request.doubt:
            self.warn(peer, request.doubt)
