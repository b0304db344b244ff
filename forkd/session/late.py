"""The answer to a request whose process forkd has killed for being late.

Sent by the process that holds the client's connection by then: the master, or the worker that forked the
process which was killed.
"""

from __future__ import annotations

from forkd.http.response import error

_REASON = "the service took too long to answer, and has given up"


def late_answer(line: bytes) -> bytes:
    """`line`: the request line."""
    return error(504, _REASON, method=line.partition(b" ")[0].decode("latin-1"))
