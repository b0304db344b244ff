"""How large a request may be, and the one exception that refuses it.

Every layer of `forkd.http` that reads from a client raises `Refused`; the session turns it into
an answer with `Connection: close`. Used in children (WSGI) and in the master (admin endpoint).
"""

from __future__ import annotations

from dataclasses import dataclass


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


class Refused(Exception):
    """The client's bytes are not a request that forkd serves: answer `status` and close.

    `reason` is a short sentence for the log and the body of the answer; it never quotes the
    client's bytes.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
