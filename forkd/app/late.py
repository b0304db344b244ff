"""The answer to a request whose process forkd has killed for being late. By the master, or by the worker that
had forked the process: whoever holds the client's connection by then.
"""

from __future__ import annotations

from forkd.http.response import error

_REASON = "the service took too long to answer, and has given up"


def late_answer(line: bytes) -> bytes:
    """`line`: the request line."""
    return error(504, _REASON, method=line.partition(b" ")[0].decode("latin-1"))
