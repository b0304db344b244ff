"""WSGI (PEP 3333) over HTTP/1: the session of one connection, in a child.

One request's journey: the head is parsed, the body is collected, READY is yielded (from here on the
code may run in another thread), the application is called, and its pieces are yielded as bytes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Generator, Iterable
from typing import IO, Any

from forkd.app.wsgi.environ import Ends, Environ, environ_of, roomy_template
from forkd.app.wsgi.file_wrapper import FileWrapper
from forkd.app.wsgi.shortcut import Block, Exchange, Usual, UsualParser, UsualRequest
from forkd.app.wsgi.start_response import Response, declared, exact
from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Limits, Refusal, Refused
from forkd.http.request import RequestParser
from forkd.http.response import CONTINUE, body_size, date, error
from forkd.session.body import Collector
from forkd.session.seam import (
    ANY_BYTES_PER_SECOND,
    LINGER,
    READY,
    Await,
    ClientGone,
    Deadline,
    Host,
    Peer,
    SendFile,
    Session,
)
from forkd.system.cells import CODES, REFUSED, REQUESTS
from forkd.system.forked import in_fork, leave

Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
#: Referer and User-Agent as received, for the access log; None where there is no such field.
Shown = tuple[str | None, str | None]

#: Counted and logged when the client left before it was answered; never sent. As in nginx.
_CLIENT_LEFT_STATUS = 499
#: Bytes that the access log shows of the request line of a head that was refused, or did not come whole: it
#: may be anything, and each byte of it takes up to four there.
_SHOWN_LINE_BYTES = 1024
#: Above this a head and its body are sent as two buffers rather than copied into one.
_MAX_COPY_BYTES = 16384


class Wsgi:
    """Makes the sessions of one WSGI application. One per child."""

    def __init__(
        self, app: Application, config: Config, host: Host, *, multithread: bool, worker: int = 0
    ) -> None:
        """`worker`: the number of this child, from 1, which its successor will have, too."""
        self._app = app
        self._host = host
        self._recorder = host.recorder
        self._limits = Limits(
            line=config.limit_request_line,
            field=config.limit_request_field_size,
            fields=config.limit_request_fields,
            head=config.limit_request_head,
            body=config.limit_request_body,
        )
        self._keep_alive = config.keep_alive > 0
        self._usual = Usual(config.native)
        self._collect = Collector(config, host.log, self._usual.blank).collect
        self._template: Environ = roomy_template({
            "SCRIPT_NAME": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_SOFTWARE": "forkd",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": multithread,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "forkd.worker": worker,
        })  # fmt: skip
        self._exchange = self._make_exchange()
        self._idle = Await(
            "keep-alive", config.keep_alive, rate=ANY_BYTES_PER_SECOND, idle=True, shortcut=self._exchange
        )
        self._first = Await(
            "first request", config.header_timeout, rate=ANY_BYTES_PER_SECOND, idle=True,
            shortcut=self._exchange, then=self._idle,
        )  # fmt: skip
        self.opening = self._first if self._exchange is not None else None
        self._head = Await("request head", config.header_timeout)

    def _make_exchange(self) -> Exchange | None:
        """The native part that calls the application for usual requests, where there is one."""
        make, host = self._usual.exchange, self._host
        if make is None:
            return None
        lines = host.access.lines if host.access is not None else None
        limits = self._limits
        return make(
            self._app, self._response, host.recorder, host.access, lines, date,
            self._keep_alive, _MAX_COPY_BYTES,
            (limits.shortest, limits.fields, limits.body, self._template),
        )  # fmt: skip

    def retire(self) -> None:
        if self._exchange is not None:
            self._exchange.draining = True  # the other answers look at `Host.draining` themselves

    # ---- the connection -------------------------------------------------------------------

    def session(self, peer: Peer) -> Session:
        """One connection, request by request. Returns LINGER when the client may still send."""
        exchange, usual = self._exchange, self._usual.request
        parser = self._parser(peer)
        wait = self._first
        data = yield wait
        while True:
            try:
                request = parser.feed(data)
                while request is None:
                    data = yield self._head if parser.started else wait
                    if not data:
                        return None  # EOF: between requests, or the client gave up in the middle
                    request = parser.feed(data)
            except Refused as refused:
                return (yield from self._refuse(peer, refused, parser.line))
            except Deadline:
                if not parser.started:
                    return None
                late = Refused(408, "the request head did not arrive in time")
                return (yield from self._refuse(peer, late, parser.line))
            data = parser.leftover
            try:
                if exchange is None or not isinstance(request, usual):
                    close, data = yield from self._general(request, peer, data)
                else:
                    body: IO[bytes] | None = None
                    if request.ticket:  # begun by native code
                        answer = request.answer
                    else:
                        if request.length:
                            body, data = yield from self._collect(request, peer, data)
                        peer.line = request.line
                        yield READY
                        answer = exchange.run(request, peer, body)
                    if answer is not None:
                        peer.line = b""
                        try:
                            yield answer
                        finally:
                            exchange.end(request)
                        close = request.close
                        del answer
                    else:
                        response = request.response
                        shown = request.referer, request.agent
                        yield from self._respond(
                            request, shown, request.outcome, response, peer, request.ticket
                        )
                        close = response.close
                        del response
                    if body is not None:
                        self._close(body)
                        body = None
            except Refused as refused:
                return (yield from self._refuse(peer, refused, request.line, self._shown(request, peer)))
            if close:
                return LINGER if data else None
            wait = self._idle
            del request  # ten thousand idle clients have that many of what is suspended here
            if not data:
                data = yield wait
                if not data:
                    return None

    def _parser(self, peer: Peer) -> RequestParser | UsualParser:
        if self._usual.read_head is None:
            return RequestParser(self._limits)
        peer.note = ends = _ends(peer)
        return UsualParser(self._limits, self._usual.read_head, self._template, ends)

    def _general(
        self, request: Request | UsualRequest, peer: Peer, data: bytes
    ) -> Generator[Any, Any, tuple[bool, Any]]:
        """A request of any kind. Returns whether the connection ends with it, and what the client has
        sent after it."""
        body: IO[bytes] = io.BytesIO()
        if request.chunked or request.length:
            if request.expect_continue and not data:
                yield CONTINUE  # a client that already sends needs none (RFC 9110, 10.1.1)
            body, data = yield from self._collect(request, peer, data)
        peer.line = request.line
        yield READY
        response = self._response(request, peer)
        if isinstance(request, Request):
            environ = environ_of(request, self._template, _ends(peer))
        else:
            environ = request.environ
        environ["wsgi.input"] = body
        # For the log, before the application has environ and may change it.
        shown = environ.get("HTTP_REFERER"), environ.get("HTTP_USER_AGENT")

        def outcome() -> Any:
            return self._app(environ, response.start_response)

        yield from self._respond(request, shown, outcome, response, peer)
        self._close(body)
        return response.close, data

    def _close(self, body: IO[bytes]) -> None:
        """The application had `body`: it may have detached it, hold a buffer of it, or have replaced its
        close(). The answer is sent; what goes wrong here must not end the connection."""
        try:
            body.close()
        except BaseException as error:  # whatever a close() of the application's raises
            if in_fork:
                leave(error)
            self._host.log.debug(f"wsgi.input: close: {type(error).__name__}")
        if in_fork:
            leave()

    def _refuse(
        self, peer: Peer, refused: Refused, line: bytes, shown: Shown | None = None
    ) -> Generator[Any, Any, Any]:
        """Answer what must not reach the application, and close. Returns LINGER. `line`: the request line, as
        far as it is here; without `shown` its head is not complete, or is not one."""
        status, reason = refused.status, refused.reason
        for cell in (REQUESTS, CODES + status, REFUSED + refused.kind):
            self._recorder.add(cell)
        answer = error(status, reason, method="HEAD" if line.startswith(b"HEAD ") else "GET")
        if shown is None and len(line) > _SHOWN_LINE_BYTES:
            line = line[:_SHOWN_LINE_BYTES] + b"..."
        self._log_own(peer, line, status, answer, shown or (None, None), 0)
        self._host.log.debug(f"{peer.client or 'unix'}: refused with {status}: {reason}")
        yield answer
        return LINGER

    def _shown(self, request: Request | UsualRequest, peer: Peer) -> Shown:
        if not isinstance(request, Request):
            return request.referer, request.agent
        environ = environ_of(request, self._template, _ends(peer))
        return environ.get("HTTP_REFERER"), environ.get("HTTP_USER_AGENT")

    def _log_own(
        self, peer: Peer, line: bytes, status: int, answer: bytes, shown: Shown, took_ns: int
    ) -> None:
        """An answer of forkd's own goes to the access log."""
        if self._host.access is not None:
            referer, agent = ("-" if value is None else value for value in shown)
            self._host.access.add(
                peer.client, line or b"-", status, body_size(answer), referer, agent, took_ns
            )

    # ---- the request ----------------------------------------------------------------------

    def _response(
        self, request: Request | UsualRequest, peer: Peer, block: Block | None = None
    ) -> Response:
        keep_alive = request.keep_alive and self._keep_alive
        return Response(request, peer, self._host, self._usual, keep_alive, block)

    def _respond(
        self,
        request: Request | UsualRequest,
        shown: Shown,
        outcome: Callable[[], Iterable[bytes]],
        response: Response,
        peer: Peer,
        ticket: int = 0,
    ) -> Generator[Any, Any, None]:
        """Yield the answer of the application, which `outcome` returns; account for it however it ends.
        `ticket`: the request's, if the application was called."""
        recorder = self._recorder
        if not ticket:
            ticket = recorder.begin(request.line, peer.client, peer.fd)
        response.ticket = ticket
        result: Any = None
        try:
            try:
                result = outcome()
                if in_fork:
                    leave()
                if type(result) is list and len(result) == 1 and not response.head_sent:
                    data = exact(result[0])
                    peer.line = b""  # a list has no close()
                    if len(data) <= _MAX_COPY_BYTES:
                        answer = response.whole(data)
                        recorder.pause()
                        yield answer
                    else:
                        yield from self._large(response, data)
                elif type(result) is FileWrapper and (piece := result.piece()) is not None:
                    yield from self._file(response, result, piece)
                else:
                    yield from self._pieces(response, result)
                if response.left or response.overrun:
                    self._complain(request, response)
            finally:
                if in_fork:
                    leave(sys.exc_info()[1])
                close = getattr(result, "close", None)
                if close is not None:
                    recorder.resume(ticket)
                    try:
                        close()
                    except BaseException as failure:
                        if in_fork:
                            leave(failure)
                        raise
                    if in_fork:
                        leave()
        except BaseException as failure:  # also SystemExit and CancelledError: the request failed, no more
            if _left(failure, peer):
                response.code = response.code or _CLIENT_LEFT_STATUS
                raise
            self._host.log.exception(f"the application failed on {request.line.decode('latin-1')}")
            response.close = True
            if not response.head_sent:
                recorder.pause()  # another thread may go on, and this one would seem to be held for good
                recorder.add(REFUSED + Refusal.APPLICATION_FAILED)
                reason = "the application failed; see the error log"
                answer = error(500, reason, method=request.method)
                response.code, response.sent = 500, body_size(answer)
                response.head_sent = True
                yield answer
            else:
                recorder.add(REFUSED + Refusal.BROKEN_OFF)
                response.code = response.code or 500
                raise ConnectionAbortedError("the response broke off") from None
        finally:
            response.over = True
            took = recorder.took(ticket)
            if self._host.access is None:
                recorder.end(ticket, response.code, took)
            else:
                referer, agent = shown
                self._host.access.end(
                    recorder,
                    ticket,
                    peer.client,
                    request.line,
                    response.code,
                    response.sent,
                    "-" if referer is None else referer,
                    "-" if agent is None else agent,
                    took,
                )

    def _large(self, response: Response, data: bytes) -> Generator[Any, Any, None]:
        """The body is one block, too large to be copied behind its head."""
        head = response.head(len(data))
        count = response.take(len(data))
        response.overrun = 0 < count < len(data)
        response.end()
        self._recorder.pause()
        yield head, data if count == len(data) else memoryview(data)[:count]

    def _pieces(self, response: Response, result: Iterable[bytes]) -> Generator[Any, Any, None]:
        """Each piece is sent before the next is asked for."""
        recorder = self._recorder
        single = declared(result) == 1
        for block in result:
            if in_fork:
                leave()
            data = exact(block)
            if data:
                out = response.piece(data, len(data) if single else None)
                if out:
                    recorder.pause()
                    yield out
                    recorder.resume(response.ticket)
                if response.complete:
                    break  # what else there is, maybe without end, has no place in the answer
        if in_fork:
            leave()
        last = b"" if response.head_sent else response.piece(b"", 0)
        recorder.pause()
        last += response.end()
        if last:
            yield last

    def _file(
        self, response: Response, wrapper: FileWrapper, piece: tuple[int, int, int]
    ) -> Generator[Any, Any, None]:
        """The kernel sends the file; write() may have been called before."""
        if response.head_sent:
            yield from self._pieces(response, wrapper)
            return
        fd, offset, available = piece
        head = response.head(available)
        self._recorder.pause()
        yield SendFile(head, fd, offset, response.take(available))
        response.end()

    def _complain(self, request: Request | UsualRequest, response: Response) -> None:
        line = request.line.decode("latin-1")
        if response.left:
            self._recorder.add(REFUSED + Refusal.BROKEN_OFF)
            self._host.log.error(
                f"{line}: {response.left} bytes short of its Content-Length; closed"
            )
        else:
            self._host.log.error(f"{line}: more bytes than its Content-Length; cut there")


def _left(error: BaseException, peer: Peer) -> bool:
    """Whether the client has left, or forkd closes the session. Another GeneratorExit is a failure."""
    return isinstance(error, (ClientGone, Deadline)) or (peer.ended and isinstance(error, GeneratorExit))


def _ends(peer: Peer) -> Ends:
    return peer.server, str(peer.server_port), peer.client, str(peer.client_port)
