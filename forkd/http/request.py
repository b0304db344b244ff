"""Request heads from a stream of bytes: llhttp (by httptools) behind a guard.

Called by the WSGI session in a child and the admin endpoint in the master, one parser a
connection. Only heads pass here, each cut out of the stream and given to llhttp alone: bodies are
read by `body`, and pipelined requests wait in `leftover`, so llhttp's own idea of where a message ends
never counts.

Two ways lead to a request. A head that comes whole, is short and usual takes the fast one, which
only ever accepts. All else takes the slow one, which goes over the bytes in order, line by line,
and is the only one to refuse: so the verdict does not depend on how the bytes were split.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from .grammar import METHODS, STRAY, USUAL
from .guard import Fields, Line, Request, read_fields, read_head, read_line
from .limits import Limits, Refused

__all__ = ["Limits", "Refused", "Request", "RequestParser"]

_CR_BYTE = 13
_MAX_BLANK_LINES = 8  # empty lines taken before a request line; RFC 9112 2.2 asks for one
_ASKED = object()  # on the slow way llhttp only says whether the head is sound
_DEFAULT = Limits()


class _Taken:
    """llhttp's fields on the fast way; it leaves whitespace at the end of a value."""

    __slots__ = ("fields",)

    fields: Fields

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.rstrip()))


class RequestParser:
    """One connection's request heads, one after the other."""

    __slots__ = (
        "_blanks",
        "_count",
        "_dead",
        "_fed",
        "_head",
        "_limits",
        "_line",
        "_llhttp",
        "_short",
        "_start",
        "_taken",
        "leftover",
    )

    leftover: bytes  # what followed the last head: body bytes, or further requests

    def __init__(self, limits: Limits = _DEFAULT) -> None:
        self.leftover = b""
        self._limits = limits
        self._short = min(limits.line, limits.field, limits.head)  # no limit can be passed in it
        self._taken = _Taken()
        self._llhttp: HttpRequestParser | None = None
        self._dead: tuple[int, str] | None = None
        self._blanks = 0
        self._head: bytearray | None = None  # a head not yet complete, or none
        self._line: Line | None = None  # its request line
        self._start = 0  # where its unfinished line begins
        self._fed = 0  # how much of it was looked at, by llhttp from the first field on
        self._count = 0  # its fields

    @property
    def started(self) -> bool:
        """Whether part of a head is here; empty lines before it are not part of it."""
        return bool(self._head) and self._dead is None

    @property
    def line(self) -> bytes:
        """The part that is here of the request line, when the head is not complete or was refused. Only for
        logs, since it may hold any bytes but LF."""
        return _first_line(self._head or b"")

    def feed(self, data: bytes) -> Request | None:
        """Take bytes as they arrive; the request once its head is complete, else None.

        With the request, `leftover` holds what followed. When its body has been consumed, the next
        request begins with `feed(what is left)`. Raises Refused, and from then on nothing else.
        """
        try:
            if self._head is None:
                end = data.find(b"\r\n\r\n") + 4
                if 4 <= end <= self._short:
                    request = self._whole(data[:end])
                    if request is not None:
                        self.leftover = data[end:]
                        return request
            return self._lines(data)
        except Refused as refused:
            self._dead = refused.status, refused.reason
            # What `line` shows; it also keeps the next feed off the fast way.
            self._head = bytearray(_first_line(data if self._head is None else self._head))
            self.leftover = b""
            raise

    def _whole(self, head: bytes) -> Request | None:
        """The fast way: a whole head at once, or None if the slow way must look at it."""
        match = USUAL.match(head)
        if match is None:
            return None
        method, path, query, minor = match.groups()
        if method not in METHODS or method == b"CONNECT":
            return None
        llhttp = self._llhttp or HttpRequestParser(self._taken)
        self._llhttp = None
        fields: Fields = []
        self._taken.fields = fields
        reusable = True
        try:
            llhttp.feed_data(head)
        except HttpParserUpgrade:
            reusable = False  # the offer itself may be ignored (RFC 9110 7.8)
        except HttpParserError:
            return None
        # As many fields as lines: llhttp took this head for a head, all of it and nothing else.
        if len(fields) != head.count(b"\n") - 2 or len(fields) > self._limits.fields:
            return None
        end = match.end()
        request = read_head(
            head[: end - 2],
            method,
            head[len(method) + 1 : end - 11],
            path,
            query or b"",
            "1.1" if minor == b"1" else "1.0",
            None,
            fields,
            self._limits,
        )
        self._blanks = 0
        # After a body, an upgrade or a close llhttp waits for something else than a head.
        if reusable and request.length is None and request.keep_alive and not request.chunked:
            self._llhttp = llhttp
        del self._taken.fields  # they are the request's, which may be over long before this connection
        return request

    def _lines(self, data: bytes) -> Request | None:
        """The slow way: each byte in order, so that the first thing wrong decides."""
        if self._dead is not None:
            raise Refused(*self._dead)
        self.leftover = b""
        limits = self._limits
        head = self._head
        if head is None:
            if not data:
                return None
            head = self._head = bytearray()
            self._llhttp = self._line = None
            self._start = self._fed = self._count = 0
        head += data
        while True:
            start = self._start
            newline = head.find(b"\n", max(start, self._fed))
            stop = newline + 1 or len(head)
            blank = newline == start + 1 and head[start] == _CR_BYTE
            if self._line is None:
                # Also where the head as a whole may have less: its fields are not what is too long.
                bound, status, reason = min(limits.line, limits.head), 414, "request line too long"
            else:
                bound, status, reason = start + limits.field, 431, "header line too long"
                if self._count >= limits.fields and stop > start and head[start] != _CR_BYTE:
                    raise Refused(431, "too many headers")
                if limits.head < bound:
                    bound, status, reason = limits.head, 431, "head too large"
            # What is inside the bound comes first in the stream, so it is judged first. llhttp
            # judges the head as a whole at its last byte, which is kept from it until the guard,
            # which knows better which status to give, has spoken.
            self._look(head, min(stop, bound) - (blank and self._line is not None))
            if stop > bound:
                raise Refused(status, reason)
            if newline < 0:
                return None
            if blank:
                if self._line is not None:
                    return self._complete(head, self._line, stop)
                self._blanks += 1
                if self._blanks > _MAX_BLANK_LINES:
                    raise Refused(400, "empty lines instead of a request")
                del head[:2]
                self._fed = 0
                if not head:
                    self._head = None
                    return None
                continue
            if self._line is None:
                self._line = line = read_line(bytes(head[: newline - 1]))
                # A method that llhttp does not know goes by as GET: the guard refuses it by name,
                # once the head is complete.
                method = line.method if line.method in METHODS else b"GET"
                self._llhttp = HttpRequestParser(_ASKED)
                self._ask(method + line.line[len(line.method) :] + b"\r\n")
            else:
                self._count += 1
            self._start = stop

    def _look(self, head: bytearray, upto: int) -> None:
        """Judge the bytes up to `upto` that were not judged before."""
        fed = self._fed
        if upto <= fed:
            return
        self._fed = upto
        if self._line is not None:
            self._ask(bytes(head[fed:upto]))
        # A CR is judged by the byte that follows it, so start one earlier.
        elif STRAY.search(head, max(fed - 1, 0), upto):
            raise Refused(400, "stray byte in the request line")

    def _ask(self, data: bytes) -> None:
        """Let llhttp judge a further part of the head. It takes SP around the values that it reads itself
        (Transfer-Encoding, Content-Length) and no HTAB behind them, though both are white space that is
        no part of a value (RFC 9110 5.5): so it gets SP for HTAB, which are alike to it elsewhere."""
        assert self._llhttp is not None
        try:
            self._llhttp.feed_data(data.replace(b"\t", b" "))
        except HttpParserUpgrade:
            pass
        except HttpParserError:
            raise Refused(400, "malformed head") from None

    def _complete(self, head: bytearray, line: Line, end: int) -> Request:
        whole = bytes(head[:end])
        fields = read_fields(whole, len(line.line) + 2)
        request = read_head(*line, fields, self._limits)
        self._ask(b"\n")
        self.leftover = bytes(head[end:])
        self._head = self._llhttp = None
        self._blanks = 0
        return request


def _first_line(data: bytes | bytearray) -> bytes:
    """`data` up to its first LF, without the CR before it."""
    return bytes(data.partition(b"\n")[0]).removesuffix(b"\r")
