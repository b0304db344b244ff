"""The limits of a request, the one exception that refuses it, and the reasons that are counted.

Every layer of `forkd.http` that reads from a client raises `Refused`; the session turns it into
an answer with `Connection: close`. Used in children (WSGI) and in the master (admin endpoint).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds, inclusive, in bytes with the CRLFs. RFC 9112 3 recommends 8000 at least for the
    line; `line`, `field` and `fields` are Apache's values (decision 36)."""

    line: int = 8190  # the request line, else 414
    field: int = 8190  # one header line, else 431
    fields: int = 100  # number of header lines, else 431
    head: int = 65536  # from the request line to the blank line, else 431
    body: int = 1 << 30  # payload, else 413

    @property
    def shortest(self) -> int:
        """A head of so many bytes passes none of them but for the number of its fields."""
        return min(self.line, self.field, self.head)


@unique
class Refusal(IntEnum):
    """Why forkd answered in place of the application: the label of forkd_requests_refused_total, and the
    place of its count in REFUSED (system/cells.py). A new one goes to the end, for an upgrade hands the
    counts on by their places."""

    # Refused: the application was not called.
    MALFORMED = 0
    HEAD_TIMEOUT = 1
    BODY_TIMEOUT = 2
    BODY_TOO_LARGE = 3
    LINE_TOO_LONG = 4
    EXPECTATION = 5
    HEAD_TOO_LARGE = 6
    NOT_IMPLEMENTED = 7
    HTTP_VERSION = 8
    NO_ROOM = 9
    OVERLOAD = 10
    # Errors: the application was called.
    APPLICATION_FAILED = 11
    BROKEN_OFF = 12
    # Refused, too.
    HOST = 13
    # The application was called.
    REQUEST_TIMEOUT = 14
    # Refused, too.
    CONCURRENCY = 15

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", "-")


#: What a status means, unless it is said.
_REFUSALS = {
    400: Refusal.MALFORMED,
    408: Refusal.HEAD_TIMEOUT,
    413: Refusal.BODY_TOO_LARGE,
    414: Refusal.LINE_TOO_LONG,
    417: Refusal.EXPECTATION,
    421: Refusal.HOST,
    431: Refusal.HEAD_TOO_LARGE,
    501: Refusal.NOT_IMPLEMENTED,
    505: Refusal.HTTP_VERSION,
}


class Refused(Exception):
    """The client's bytes are not a request that forkd serves: answer `status` and close.

    `reason` is a short sentence for the log and the body of the answer; it never quotes the
    client's bytes. `kind` is counted. `request`: a guard.Request, where its whole head is in order, and is
    refused for what it wants; else None.
    """

    def __init__(
        self, status: int, reason: str, kind: Refusal | None = None, request: Any = None
    ) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.kind = _REFUSALS[status] if kind is None else kind
        self.request = request
