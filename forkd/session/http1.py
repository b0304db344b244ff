"""HTTP/1.1 (RFC 9112): the session of one connection, in a child.

A head is read and judged, its body is collected, the exchange is yielded (from here on the code may run in
another thread), and the interface answers, by bytes that pass through here. Then comes the next request.
Keep-alive, pipelining, deadlines, refusals: all of it is the same for each interface that serves HTTP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import IO, Any, NamedTuple, Protocol

from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Limits, Refused
from forkd.http.request import RequestParser
from forkd.http.response import CONTINUE, SERVER, body_size, error, server_line
from forkd.session.body import Collector, close_body
from forkd.session.fronts import AllowedHosts, Fronts, origin_of
from forkd.session.request_ids import RequestIds, id_fields
from forkd.session.seam import (
    ANY_BYTES_PER_SECOND,
    LINGER,
    Await,
    Become,
    Deadline,
    Host,
    Peer,
    Session,
)
from forkd.system.cells import CODES, REFUSED, REQUESTS

#: Referer and User-Agent as received, for the access log; None where there is no such field.
Shown = tuple[str | None, str | None]

_NOT_SHOWN: Shown = (None, None)
#: Bytes that the access log shows of the request line of a head that was refused, or did not come whole: it
#: may be anything, and each byte of it takes up to four there.
_SHOWN_LINE_BYTES = 1024


class Call(Protocol):
    """A usual request, read in one pass by native code; otherwise as guard.Request."""

    end: int  # bytes of its head
    method: str
    line: bytes
    keep_alive: bool
    version: str
    length: int | None
    chunked: bool
    expect_continue: bool
    referer: str | None  # as received, for the access log; None where there is no such field
    agent: str | None  # User-Agent, likewise
    forwarded: bool  # its fields of proxies were not judged yet
    client: str | None  # the address that they name; None where they name none
    id: str  # its name, for logs; empty where requests have none

    # Since it has begun.
    ticket: int  # in the recorder; 0 before
    answer: Any  # the whole answer, or what is left of it to send, where native code has begun it
    close: bool  # the connection ends after the answer


class Parser(Protocol):
    """Reads the heads of one connection, one after the other."""

    leftover: bytes  # what followed the last head

    @property
    def started(self) -> bool:
        """Whether part of a head is here."""
        ...

    @property
    def line(self) -> bytes:
        """The request line, or what is here of it, of a head that is not complete or was refused."""
        ...

    def feed(self, data: bytes) -> Request | None:
        """The request, once its head is complete. Raises Refused."""
        ...


class Shortcut(Protocol):
    """The native way from a usual request to its answer. It is taken here for a request that came while the
    session ran, and by native code for one that comes while the session rests (`Await.shortcut`)."""

    draining: bool  # each answer is its connection's last
    sheds_after: float  # seconds; a call that has waited for longer is an exchange, to be shed; 0: none is

    def run(self, call: Any, peer: Any, body: IO[bytes] | None, /) -> bytes | tuple[bytes, bytes] | None:
        """The whole answer; None when it is not usual: then the interface resumes the call, or it is an
        exchange, where it has no ticket. `body`: None for an empty one."""
        ...

    def end(self, call: Any, /) -> None:
        """Count and log a call that was answered so, or whose client has left."""


Read = Callable[[bytes, Peer], Call | None]


class Native(NamedTuple):
    """What native code does with requests of an interface, in one protocol."""

    read: Read | None  # as Exchanges.read
    shortcut: Shortcut | None


#: One request in an interface: yields as a session does, and returns whether the connection ends with it.
Steps = Generator[Any, Any, bool]


class Ending(NamedTuple):
    """How a request ends whose body the interface has read."""

    close: bool  # the connection ends with it
    rest: bytes  # came behind it
    unread: bool  # the client may still be sending its body


#: As Steps, where the interface reads the body.
StreamSteps = Generator[Any, Any, Ending]


class Exchanges(Protocol):
    """What HTTP/1 takes from an interface. A request is a guard.Request, or a Call that `read` has made."""

    @property
    def shortcut(self) -> Shortcut | None:
        """None: each request is an exchange."""

    def note(self, peer: Peer) -> Any:
        """What `read` and the shortcut need of a connection: `Peer.note`, made as its session starts."""

    @property
    def read(self) -> Read | None:
        """Returns the request whose head the bytes begin with; None: RequestParser reads it, as it does all
        heads where this is None."""

    @property
    def uwsgi(self) -> Native:
        """`read` and `shortcut` for requests in that protocol (session/uwsgi.py)."""
        ...

    def exchange(self, request: Any, peer: Peer, body: IO[bytes] | None) -> Steps:
        """Answer it, from where logic runs. `body`: None for an empty one; it is closed here afterwards."""
        ...

    @property
    def stream(self) -> Callable[[Request, Peer, bytes], StreamSteps | Become] | None:
        """In place of `exchange`, where the interface reads each body by itself: answers a request behind
        whose head these bytes came, or takes the connection over with it. None: bodies are collected."""

    def resume(self, call: Any, peer: Peer) -> Generator[Any, Any, Any]:
        """Go on with a call that the shortcut has begun and could not answer: as `stream` where that is, else
        as `exchange`."""
        ...


class Heads(NamedTuple):
    """How the requests of a connection are read, in a protocol whose answers are HTTP/1's."""

    parser: Callable[[], Parser]
    native: Native
    fronts: Fronts


class Http1:
    """Makes the sessions of one child: an Interface of the seam, over one that serves requests."""

    def __init__(
        self, served: Exchanges, config: Config, host: Host, heads: Heads | None = None
    ) -> None:
        """`heads`: None for those of HTTP/1."""
        if heads is None:
            limits = limits_of(config)
            native = Native(served.read, served.shortcut)
            heads = Heads(lambda: RequestParser(limits), native, Fronts(config, host))
        self.served = served
        self._heads = heads
        self._host = host
        self._collect = Collector(config, host.log).collect
        #: What each request is judged by, beside its fields of proxies; those that native code has read, it
        #: has judged.
        self._judges: list[Callable[[Request, Peer], None]] = []
        self._ids = RequestIds(config) if config.request_ids else None
        if self._ids is not None:
            self._judges.append(self._ids.judge)
        if not config.allowed_hosts.every:
            self._judges.append(AllowedHosts(config, host).judge)
        self._server = server_line(config.server_header)
        shortcut = heads.native.shortcut
        self._idle = Await(
            "keep-alive", config.keep_alive, rate=ANY_BYTES_PER_SECOND, idle=True, shortcut=shortcut
        )
        self._first = Await(
            "first request", config.header_timeout, rate=ANY_BYTES_PER_SECOND, idle=True,
            shortcut=shortcut, then=self._idle,
        )  # fmt: skip
        self.opening = self._first if shortcut is not None else None
        self.paced = served.stream is not None
        self._head = Await("request head", config.header_timeout)

    def retire(self) -> None:
        shortcut = self._heads.native.shortcut
        if shortcut is not None:
            shortcut.draining = True  # the other answers look at `Host.draining` themselves

    def session(self, peer: Peer, data: Any = b"") -> Session:
        """One connection, request by request. Returns LINGER when the client may still send."""
        served = self.served
        make_parser, (read, shortcut), fronts = self._heads
        stream = served.stream
        exchange = peer.exchange
        peer.note = served.note(peer)
        judges = self._judges
        parser: Parser | None = None  # since the first head that was not usual
        request: Any  # a guard.Request, or a Call
        wait: Await = self._first
        while True:
            if not data:
                data = yield wait
                if not data:
                    return None
            fresh = True  # `data` begins with the first byte of a head
            try:
                while True:
                    if type(data) is not bytes:
                        request, data = data, b""  # the shortcut has begun it
                        break
                    if fresh and read is not None:
                        request = read(data, peer)
                        if request is not None:
                            data = data[request.end :]
                            break
                    if parser is None:
                        parser = make_parser()
                    request = parser.feed(data)
                    if request is not None:
                        data = parser.leftover
                        request.forwarded = request.forwarded or fronts.always
                        break
                    fresh = False
                    data = yield self._head if parser.started else wait
                    if not data:
                        return None  # EOF: between requests, or the client gave up in the middle
            except Refused as refused:
                assert parser is not None
                if refused.request is not None:
                    self._identify(refused.request, peer)
                return (yield from self._refuse(peer, refused, parser.line, refused.request))
            except Deadline:
                if parser is None or not parser.started:
                    return None
                late = Refused(408, "the request head did not arrive in time")
                return (yield from self._refuse(peer, late, parser.line))
            try:
                answer: Any = None
                body: IO[bytes] | None = None
                if not request.ticket:
                    if request.forwarded:
                        fronts.judge(request, peer)
                    if judges and isinstance(request, Request):
                        for judge in judges:
                            judge(request, peer)
                if stream is not None:
                    steps = served.resume(request, peer) if request.ticket else stream(request, peer, data)
                    if isinstance(steps, Become):
                        return steps
                    close, data, unread = yield from steps
                    if close:
                        return LINGER if data or unread else None
                    wait = self._idle
                    del request, steps
                    continue
                if request.ticket:
                    answer = request.answer
                else:
                    if request.length or request.chunked:
                        if request.expect_continue and not data:
                            yield CONTINUE  # a client that already sends needs none (RFC 9110, 10.1.1)
                        body, data = yield from self._collect(request, peer, data)
                    exchange.line = request.line
                    yield exchange
                    if shortcut is not None and not isinstance(request, Request):
                        answer = shortcut.run(request, peer, body)
                if answer is not None:
                    assert shortcut is not None
                    exchange.line = b""
                    try:
                        yield answer
                    finally:
                        shortcut.end(request)
                    close = request.close
                    del answer
                elif request.ticket:
                    close = yield from served.resume(request, peer)
                else:
                    close = yield from served.exchange(request, peer, body)
                if body is not None:
                    close_body(body, self._host.log)
                    body = None
            except Refused as refused:
                return (yield from self._refuse(peer, refused, request.line, request))
            if close:
                return LINGER if data else None
            wait = self._idle
            del request  # ten thousand idle clients have that many of what is suspended here

    def _identify(self, request: Request, peer: Peer) -> None:
        """Set the client and the name of one that is refused."""
        if request.forwarded or self._heads.fronts.always:
            with contextlib.suppress(Refused):  # it is refused already
                self._heads.fronts.judge(request, peer)
        if self._ids is not None:
            self._ids.judge(request, peer)

    def _refuse(
        self, peer: Peer, refused: Refused, line: bytes, request: Request | Call | None = None
    ) -> Generator[Any, Any, Any]:
        """Answer what must not reach the application, and close. Returns LINGER. `line`: the request line, as
        far as it is here; without `request` its head is not complete, or is not one."""
        if request is None and len(line) > _SHOWN_LINE_BYTES:
            line = line[:_SHOWN_LINE_BYTES] + b"..."
        answer = refusal(self._host, peer, refused, line, request, server=self._server)
        self._host.log.debug(f"{peer.client or 'unix'}: refused with {refused.status}: {refused.reason}")
        yield answer
        return LINGER


def limits_of(config: Config) -> Limits:
    return Limits(
        line=config.limit_request_line,
        field=config.limit_request_field_size,
        fields=config.limit_request_fields,
        head=config.limit_request_head,
        body=config.limit_request_body,
    )


def refusal(
    host: Host,
    peer: Peer,
    refused: Refused,
    line: bytes,
    request: Request | Call | None = None,
    fields: Iterable[tuple[str, str]] = (),
    took_ns: int = 0,
    server: bytes = SERVER,
) -> bytes:
    """The answer to what does not reach the application. It is counted and logged here; `took_ns`: how long
    its client has waited, for the log."""
    status = refused.status
    for cell in (REQUESTS, CODES + status, REFUSED + refused.kind):
        host.recorder.add(cell)
    method, id = "HEAD" if line.startswith(b"HEAD ") else "GET", "" if request is None else request.id
    fields = [*fields, *id_fields(id)]
    answer = error(status, refused.reason, method=method, fields=fields, server=server)
    if host.access is not None:
        client, shown = peer.client, _NOT_SHOWN
        if request is not None:
            shown = request.referer, request.agent
            client = client if request.client is None else request.client
        referer, agent = ("-" if value is None else value for value in shown)
        host.access.add(
            client, line or b"-", status, body_size(answer), referer, agent, took_ns, id, origin_of(peer)
        )
    return answer
