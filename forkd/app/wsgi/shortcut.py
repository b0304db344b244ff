"""Usual requests and answers in one pass, by native code (forkd/native) where it was built.

The general ways in Python (http/request.py with environ.py, and http/response.py) know every rule and every
error. Native code knows the usual case alone: it accepts, or leaves the bytes to them. So they are
its twins, it can only ever make an answer sooner, and never another one; tests/native holds it to
that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, Protocol

from forkd.app.wsgi.environ import Ends, Environ
from forkd.http.guard import Request
from forkd.http.limits import Limits
from forkd.http.request import RequestParser
from forkd.native import pick


class UsualRequest(Protocol):
    """An HTTP/1.1 request whose body, if any, has a length; otherwise as guard.Request. `end`: bytes of
    its head."""

    end: int
    method: str
    line: bytes
    keep_alive: bool
    environ: Environ
    version: str
    length: int | None
    chunked: bool
    expect_continue: bool
    referer: str | None  # as received, for the access log; None where there is no such field
    agent: str | None  # User-Agent, likewise

    # Since its Exchange.
    began: int  # ns of CLOCK_MONOTONIC
    ticket: int  # in the recorder; 0 before it has begun
    answer: Any  # what is left to send of it, where native code has begun before the session knew
    response: Any  # what `respond` made, when there is anything unusual
    code: int
    sent: int  # bytes of body
    close: bool  # the connection ends after the answer

    def outcome(self) -> Any:
        """The result of the application, when that was not usual. Raises what it raised."""


class Exchange(Protocol):
    """The call of the application for a usual request."""

    draining: bool  # each answer is its connection's last

    def run(
        self, request: UsualRequest, peer: Any, body: IO[bytes] | None
    ) -> bytes | tuple[bytes, bytes] | None:
        """The whole answer; None when there is anything unusual: then `request.outcome` knows what
        the application did, and `request.response` goes on. `body`: None for an empty one."""
        ...

    def end(self, request: UsualRequest) -> None:
        """Count and log a request that was answered so, or whose client has left."""


#: (data, most bytes, most fields, most bytes of body, environ to begin with, ends); None: not usual, or
#: not complete.
ReadHead = Callable[[bytes, int, int, int, Environ, Ends], UsualRequest | None]
#: What `block` makes of the status and headers that an application names: as a response.Head.
Block = Any
MakeBlock = Callable[[str, list[tuple[str, str]]], Block | None]
#: (block, date, body, close) -> the answer, if that body is all of it.
MakeAnswer = Callable[[Block, bytes, bytes, bool], bytes | None]
#: See native/wsgi_exchange.c.
MakeExchange = Callable[..., Exchange]


class Usual:
    """The native functions, or what leaves all to their twins: where they were not built, or are
    not `wanted`."""

    def __init__(self, wanted: bool) -> None:
        self.read_head: ReadHead | None = pick("read_head", None, wanted)
        self.block: MakeBlock = pick("block", _never, wanted)
        self.answer: MakeAnswer = pick("answer", _never, wanted)
        #: Bytes that will be written, through a buffer, before they are read.
        self.blank: Callable[[int], bytes] = pick("blank", bytes, wanted)
        self.exchange: MakeExchange | None = pick("Exchange", None, wanted)
        #: The type of what `read_head` returns.
        self.request: Any = pick("UsualRequest", _Never, wanted)


def _never(*_: Any) -> None:
    return None


class _Never(UsualRequest):
    """The type of native requests where there are none: it has no instances."""


class UsualParser:
    """One connection's request heads: `read` looks at each first, a RequestParser at the others."""

    __slots__ = ("_ends", "_general", "_limits", "_read", "_short", "_template", "leftover")

    leftover: bytes  # what followed the last head

    def __init__(self, limits: Limits, read: ReadHead, template: Environ, ends: Ends) -> None:
        """The environ of each usual request is made from a copy of `template`."""
        self.leftover = b""
        self._limits = limits
        self._read = read
        self._template = template
        self._ends = ends
        self._short = limits.shortest
        self._general: RequestParser | None = None

    @property
    def started(self) -> bool:
        """As RequestParser's."""
        return self._general is not None and self._general.started

    @property
    def line(self) -> bytes:
        """As RequestParser's."""
        return self._general.line if self._general is not None else b""

    def feed(self, data: bytes | UsualRequest) -> Request | UsualRequest | None:
        """As RequestParser's; passes through a request that was read elsewhere."""
        if not isinstance(data, (bytes, memoryview)):
            self.leftover = b""
            return data
        general = self._general
        if general is None or general.fresh:
            limits = self._limits
            found = self._read(
                data, self._short, limits.fields, limits.body, self._template, self._ends
            )
            if found is not None:
                self.leftover = data[found.end :]
                return found
            if general is None:
                general = self._general = RequestParser(self._limits)
        request = general.feed(data)
        self.leftover = general.leftover
        return request
