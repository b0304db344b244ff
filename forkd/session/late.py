"""The answer to a request whose process forkd has killed for being late.

Sent by the process that holds the client's connection by then: the master, or the worker that forked the
process which was killed.
"""

from __future__ import annotations

from collections.abc import Callable

from forkd.config import Config
from forkd.http.response import error, server_line
from forkd.session.request_ids import id_fields

_REASON = "the service took too long to answer, and has given up"


def late_answers(config: Config) -> Callable[[bytes, str], bytes]:
    """The answer to a request, by its line and its name, which may be empty."""
    server = server_line(config.server_header)

    def answer(line: bytes, id: str) -> bytes:
        method = line.partition(b" ")[0].decode("latin-1")
        return error(504, _REASON, method=method, fields=id_fields(id), server=server)

    return answer
