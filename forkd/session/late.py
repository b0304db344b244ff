"""The answer to a request whose process forkd has killed for being late.

Sent by the process that holds the client's connection by then: the master, or the worker that forked the
process which was killed.
"""

from __future__ import annotations

from collections.abc import Callable

from forkd.config import Config
from forkd.http.response import error, server_line

_REASON = "the service took too long to answer, and has given up"


def late_answers(config: Config) -> Callable[[bytes], bytes]:
    """The answer to each request line."""
    server = server_line(config.server_header)

    def answer(line: bytes) -> bytes:
        return error(504, _REASON, method=line.partition(b" ")[0].decode("latin-1"), server=server)

    return answer
