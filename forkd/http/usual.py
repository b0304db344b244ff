"""Usual heads in one pass, by native code (_native.c) where it was built.

The general ways in Python (request.py with environ.py, and response.py) know every rule and every
error. Native code knows the usual case alone: it accepts, or leaves the bytes to them. So they are
its twins, it can only ever make an answer sooner, and never another one; tests/http/test_usual.py
holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable

from .environ import Environ
from .guard import Request
from .limits import Limits
from .request import RequestParser
from .response import Head, check_headers

try:
    from ._native import block, environ
except ImportError:  # no compiler when forkd was installed
    AVAILABLE = False
else:
    AVAILABLE = True

#: (data, most bytes, most fields, template) -> what makes a UsualRequest and, first, the bytes that
#: were its head; None: not usual, or not complete.
ReadHead = Callable[[bytes, int, int, Environ], tuple[int, str, bytes, bool, Environ] | None]
#: http.response.check_headers.
CheckHeaders = Callable[[str, list[tuple[str, str]]], Head]


def read_head(wanted: bool) -> ReadHead | None:
    """The native function; None when there is none, or it is not wanted."""
    return environ if AVAILABLE and wanted else None


def head_checker(wanted: bool) -> CheckHeaders:
    """What checks and encodes the head of an answer: native code first, if there is any."""
    if not (AVAILABLE and wanted):
        return check_headers

    def check(status: str, headers: list[tuple[str, str]]) -> Head:
        found = block(status, headers)
        if found is None:
            return check_headers(status, headers)
        head = Head(found[0])
        _, head.block, head.length, head.dated, head.named = found
        return head

    return check


class UsualRequest:
    """An HTTP/1.1 request without a body, as native code reads it; otherwise as guard.Request."""

    __slots__ = ("environ", "keep_alive", "line", "method")

    version = "1.1"
    length = None
    chunked = False
    expect_continue = False

    def __init__(self, method: str, line: bytes, keep_alive: bool, environ: Environ) -> None:
        self.method = method
        self.line = line
        self.keep_alive = keep_alive
        self.environ = environ


class UsualParser:
    """One connection's request heads: `read` looks at each first, a RequestParser at the others."""

    __slots__ = ("_general", "_limits", "_read", "_short", "_template", "rest")

    rest: bytes  # what followed the last head

    def __init__(self, limits: Limits, read: ReadHead, template: Environ) -> None:
        """The environ of each usual request is made from a copy of `template`."""
        self.rest = b""
        self._limits = limits
        self._read = read
        self._template = template
        self._short = min(limits.line, limits.field, limits.head)  # no limit can be passed in it
        self._general: RequestParser | None = None

    @property
    def started(self) -> bool:
        """As RequestParser's."""
        return self._general is not None and self._general.started

    def feed(self, data: bytes) -> Request | UsualRequest | None:
        """As RequestParser's."""
        general = self._general
        if general is None or general.fresh:
            found = self._read(data, self._short, self._limits.fields, self._template)
            if found is not None:
                end, method, line, keep_alive, environ = found
                self.rest = data[end:]
                return UsualRequest(method, line, keep_alive, environ)
            if general is None:
                general = self._general = RequestParser(self._limits)
        request = general.feed(data)
        self.rest = general.rest
        return request
