"""WSGI (PEP 3333): the exchange, from a request to the bytes of its answer. In a child.

session/http1.py starts it where logic runs, with the request's body: the application is called, and its
pieces are yielded as bytes, framed by session/framing.py. A usual request goes from call to answer in native
code.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from forkd.app.wsgi.environ import Environ, environ_of, roomy_template
from forkd.app.wsgi.file_wrapper import FileWrapper
from forkd.app.wsgi.shortcut import UsualRequest, native_limits, native_ways
from forkd.app.wsgi.start_response import Response, declared
from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.limits import Refusal
from forkd.http.response import body_size, date, error
from forkd.session.ends import Ends
from forkd.session.framing import Block, Framing, exact, queue_line
from forkd.session.fronts import origin_of
from forkd.session.http1 import Native, Shortcut, Shown, Steps, StreamSteps
from forkd.session.request_ids import id_fields
from forkd.session.seam import ClientGone, Deadline, Host, Peer, SendFile
from forkd.system.cells import REFUSED
from forkd.system.forked import in_fork, leave
from forkd.system.reset import reset

if TYPE_CHECKING:
    from forkd.app.wsgi.timed import TimedStreams

Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

#: Counted and logged when the client left before it was answered; never sent. As in nginx.
_CLIENT_LEFT_STATUS = 499
#: Above this a head and its body are sent as two buffers rather than copied into one.
_MAX_COPY_BYTES = 16384


class Wsgi:
    """Runs one WSGI application, for session/http1.py. One per child."""

    def __init__(
        self, app: Application, config: Config, host: Host, *, multithread: bool, worker: int = 0
    ) -> None:
        """`worker`: the number of this child, from 1, which its successor will have, too."""
        self._app = app
        self._host = host
        self._recorder = host.recorder
        self._framing = Framing(config, host)
        self._early_hints = config.early_hints
        self._times_queue = self._framing.times_queue
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
        #: It is called with the whole body; but for --request-timeout, HTTP/1 collects that.
        self.stream: Callable[[Request, Peer, bytes], StreamSteps] | None = None
        self._timed: TimedStreams | None = None
        if config.request_timeout:
            from forkd.app.wsgi.timed import TimedStreams

            self.read, self.shortcut = self.uwsgi = Native(None, None)
            self._timed = TimedStreams(self.exchange, config, host)
            self.stream = self._timed.stream
        else:
            self.read, self.shortcut = self._native(config)
            self.uwsgi = self._native(config, uwsgi=True)

    def _native(self, config: Config, *, uwsgi: bool = False) -> Native:
        """`uwsgi`: for packets of that protocol."""
        host = self._host
        limits = native_limits(config, self._template, host.recorder, () if uwsgi else None)
        read_head, make = native_ways(limits is not None, uwsgi)
        if read_head is None or make is None:
            return Native(None, None)

        def read(data: bytes, peer: Peer) -> UsualRequest | None:
            return read_head(data, limits, peer.note)

        lines = host.access.lines if host.access is not None else None
        shortcut: Shortcut = make(
            app=self._app, respond=self._response, recorder=host.recorder, access=host.access, lines=lines,
            date_at=date, keep_alive=self._framing.keep_alive, server=self._framing.server,
            most=_MAX_COPY_BYTES, limits=limits, early_hints=self._early_hints and not uwsgi, uwsgi=uwsgi,
            server_timing=self._times_queue,
        )  # fmt: skip
        return Native(read, shortcut)

    # ---- what HTTP/1 takes ----------------------------------------------------------------

    def note(self, peer: Peer) -> Ends:
        return Ends(
            server=peer.server, port=str(peer.server_port), client=peer.client,
            client_port=str(peer.client_port), proxy=peer.proxy,
        )  # fmt: skip

    def exchange(
        self, request: Request | UsualRequest, peer: Peer, body: IO[bytes] | None
    ) -> Steps:
        response = self._response(request, peer)
        if isinstance(request, Request):
            environ = environ_of(request, self._template, peer.note)
        else:
            environ = request.environ
        environ["wsgi.input"] = io.BytesIO() if body is None else body
        if self._early_hints and request.version == "1.1":
            environ["wsgi.early_hints"] = response.early_hints
        if self._times_queue:
            response.more = queue_line(peer.waited())
        # For the log, before the application has environ and may change it.
        shown = environ.get("HTTP_REFERER"), environ.get("HTTP_USER_AGENT")
        outcome = partial(self._app, environ, response.start_response)
        return self._respond(request, shown, outcome, response, peer)

    def resume(self, call: UsualRequest, peer: Peer) -> Steps:
        return self._respond(call, (call.referer, call.agent), call.outcome, call.response, peer)

    def _response(
        self, request: Request | UsualRequest, peer: Peer, block: Block | None = None
    ) -> Response:
        """`block`: what start_response was called with already, when that was usual."""
        response = (
            Response(self._framing, request, block) if self._timed is None
            else self._timed.response(self._framing, request, peer, block)
        )  # fmt: skip
        response.peer, response.ticket = peer, request.ticket
        if self._times_queue and not isinstance(request, Request) and request.ticket:
            response.more = queue_line(request.waited)  # native code has called the application
        return response

    # ---- the answer -----------------------------------------------------------------------

    def _respond(
        self,
        request: Request | UsualRequest,
        shown: Shown,
        outcome: Callable[[], Iterable[bytes]],
        response: Response,
        peer: Peer,
    ) -> Steps:
        """Yield the answer of the application, which `outcome` returns; account for it however it ends."""
        recorder = self._recorder
        client = peer.client if request.client is None else request.client
        # Native code may have called the application already.
        ticket = response.ticket = request.ticket or recorder.begin(request.line, client, peer.fd)
        if request.id and not request.ticket:
            recorder.identify(ticket, request.id)
        result: Any = None
        whole = False  # the application has given all of its answer, and the kernel has taken it
        try:
            try:
                result = outcome()
                if in_fork:
                    leave()
                if type(result) is list and len(result) == 1 and not response.head_sent:
                    data = exact(result[0])
                    peer.exchange.line = b""  # a list has no close()
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
                whole = True
                if response.left or response.overrun:
                    self._complain(request, response)
            finally:
                if in_fork:
                    leave(sys.exc_info()[1])
                close = None if type(result) is list else getattr(result, "close", None)
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
            if response.ends_by_close and not whole:
                reset(peer.fd)  # for a client that is there, and was only slow, a close would be its end
            if _left(failure, peer):
                response.code = response.code or _CLIENT_LEFT_STATUS
                raise
            self._host.log.exception(f"the application failed on {request.line.decode('latin-1')}")
            response.close = True
            if not response.head_sent:
                recorder.pause()  # another thread may go on, and this one would seem to be held for good
                recorder.add(REFUSED + Refusal.APPLICATION_FAILED)
                reason = "the application failed; see the error log"
                answer = error(
                    500, reason, method=request.method, fields=id_fields(request.id),
                    server=self._framing.server,
                )  # fmt: skip
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
                    client,
                    request.line,
                    response.code,
                    response.sent,
                    "-" if referer is None else referer,
                    "-" if agent is None else agent,
                    took,
                    request.id,
                    origin_of(peer),
                )
        return response.close

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
