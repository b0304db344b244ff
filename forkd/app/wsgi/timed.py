"""--request-timeout for WSGI: the client of a call that takes too long is answered while the call goes on.

A call cannot be interrupted, and has the thread that would answer. So another thread looks at the requests of
the process: it sends 504 where the answer has not begun, and resets the connection where it has. What the
call sends then finds that its client has left. Nothing of this is there without a limit. In a child.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import IO, Any

from forkd.app.wsgi.start_response import Response
from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Refusal, Refused
from forkd.http.response import CONTINUE, body_size, error, server_line
from forkd.session.body import Collector, close_body
from forkd.session.framing import Block, Framing
from forkd.session.http1 import Ending, Steps, StreamSteps, refusal
from forkd.session.request_ids import id_fields
from forkd.session.seam import ClientGone, Host, Peer
from forkd.system.cells import REFUSED, SENT
from forkd.system.originals import Empty, Lock, SimpleQueue, monotonic, os, start_thread
from forkd.system.reset import break_off, end_with

_LATE = "the request has taken longer than --request-timeout"


class Expired(ClientGone):
    """Raised where an answer begins whose client has had one of forkd's."""


class Timed:
    """One request. What ends it is decided once, by who comes first: its answer, or its time."""

    def __init__(self, clock: Clock, request: Request, peer: Peer, due: float) -> None:
        self.request = request
        self.peer = peer
        self.due = due
        self.begun = False  # its answer has
        self.answer = b""  # the 504 that was sent
        self.expired = False
        self._clock = clock

    def begin(self) -> bool:
        """Its answer is about to. False: it has expired."""
        with self._clock.lock:
            self.begun = not self.expired
        return self.begun

    def end(self) -> bool:
        """From here on its connection is the session's alone. Whether it has expired."""
        with self._clock.lock:
            self._clock.running.pop(self, None)
        return self.expired

    def expire(self) -> None:
        """In the thread of the clock, which holds the lock: the descriptor is the connection's."""
        self.expired = True
        with contextlib.suppress(OSError):
            sock = self.peer.sock
            if self.begun:
                break_off(sock)
            else:
                request = self.request
                self.answer = error(
                    504, _LATE, method=request.method, fields=id_fields(request.id), server=self._clock.server
                )
                end_with(sock, self.answer)


class Clock:
    """The requests that run in this process, and the thread that looks at them, from the first one on."""

    def __init__(self, config: Config, host: Host) -> None:
        self.lock = Lock()
        self.running: dict[Timed, None] = {}
        self.server = server_line(config.server_header)
        self._limit = config.request_timeout
        self._log = host.log
        self._news: SimpleQueue[None] = SimpleQueue()
        self._looks_at = math.inf  # when the thread looks next
        self._pid = 0  # of the process that has it: a model may have forked this one

    def start(self, request: Request, peer: Peer) -> Timed:
        timed = Timed(self, request, peer, monotonic() + self._limit - peer.waited())
        with self.lock:
            self.running[timed] = None
            soon = timed.due < self._looks_at
            if soon:
                self._looks_at = timed.due
        if self._pid != os.getpid():
            self._pid = os.getpid()
            start_thread(self._run, "forkd-clock")
        elif soon:
            self._news.put(None)
        return timed

    def _run(self) -> None:
        idle = False
        while True:
            now, late = monotonic(), []
            with self.lock:
                for timed in [timed for timed in self.running if timed.due <= now]:
                    del self.running[timed]
                    timed.expire()
                    late.append(timed)
                due = min((timed.due for timed in self.running), default=math.inf)
                # It goes to sleep where nothing has run for a while: to be woken costs each request more.
                looks_at = due if self.running or idle else now + self._limit
                idle = not self.running
                self._looks_at = looks_at
            for timed in late:
                line = timed.request.line.decode("latin-1")
                self._log.warning(f"{line}: it has taken longer than --request-timeout")
            with contextlib.suppress(Empty):
                self._news.get(timeout=None if looks_at == math.inf else max(0.0, looks_at - monotonic()))


class TimedResponse(Response):
    timed: Timed

    def whole(self, data: bytes) -> bytes:
        answer = super().whole(data)
        self._begin()
        return answer

    def head(self, length: int | None) -> bytes:
        head = super().head(length)
        self._begin()
        return head

    def _begin(self) -> None:
        if not self.timed.begun and not self.timed.begin():
            self.code, self.sent = 504, body_size(self.timed.answer)  # for the log
            raise Expired(_LATE)


class TimedStreams:
    """WSGI's part of an HTTP/1 session where requests have a limit: from the end of the head on."""

    def __init__(
        self, exchange: Callable[[Request, Peer, IO[bytes] | None], Steps], config: Config, host: Host
    ) -> None:
        self._exchange = exchange
        self._host = host
        self._collect = Collector(config, host.log).collect
        self._clock = Clock(config, host)
        self._running: dict[int, Timed] = {}  # by descriptor

    def response(self, framing: Framing, request: Any, peer: Peer, block: Block | None) -> TimedResponse:
        response = TimedResponse(framing, request, block)
        response.timed = self._running[peer.fd]
        return response

    def stream(self, request: Request, peer: Peer, data: bytes) -> StreamSteps:
        """Raises Refused."""
        host, fd, body = self._host, peer.fd, None
        timed = self._running[fd] = self._clock.start(request, peer)
        try:
            if request.length or request.chunked:
                if request.expect_continue and not data:
                    yield CONTINUE
                body, data = yield from self._collect(request, peer, data)
            exchange = peer.exchange
            exchange.line = request.line
            yield exchange
            if timed.due <= monotonic() or timed.expired:
                close = self._never_called(timed)
            else:
                close = yield from self._called(timed, body)
            if body is not None:
                close_body(body, host.log)
            return Ending(close, data, False)
        finally:
            timed.end()
            self._running.pop(fd, None)

    def _called(self, timed: Timed, body: IO[bytes] | None) -> Steps:
        recorder = self._host.recorder
        try:
            return (yield from self._exchange(timed.request, timed.peer, body))
        except Expired:
            return True
        finally:
            if timed.end():
                recorder.add(REFUSED + Refusal.REQUEST_TIMEOUT)
                recorder.add(SENT, len(timed.answer))

    def _never_called(self, timed: Timed) -> bool:
        """Its time was over while it waited. Raises Refused where it has no answer."""
        refused = Refused(504, _LATE, Refusal.REQUEST_TIMEOUT)
        if not timed.end():
            raise refused
        request, peer = timed.request, timed.peer
        refusal(self._host, peer, refused, request.line, request, took_ns=int(peer.waited() * 1e9))
        self._host.recorder.add(SENT, len(timed.answer))
        return True
