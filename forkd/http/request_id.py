"""Names of requests, by which the logs of a proxy, of forkd and of the application can be put together:
X-Request-ID.

A name is taken from a trusted peer; else it is the one that a header of the PROXY protocol has for the
connection; else it is made. In native code http_request_id.c.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from forkd.system.originals import os, time

FIELD = b"x-request-id"

_NAME = re.compile(rb"[A-Za-z0-9._-]{1,128}")
#: HAProxy's default has colons, too.
_CONNECTION_NAME = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


def id_of(values: Sequence[bytes], trusted: bool, connection: bytes | None) -> str:
    """The name of a request whose fields X-Request-ID have these values. `trusted`: its peer is.
    `connection`: the PROXY header's unique id; one that cannot be in a log as it is, is taken in hexadecimal.
    """
    if trusted and len(values) == 1 and _NAME.fullmatch(values[0]):
        return values[0].decode()
    if connection:
        return connection.decode() if _CONNECTION_NAME.fullmatch(connection) else connection.hex()
    return make_id()


def make_id() -> str:
    """A UUID of version 7 (RFC 9562, 5.7): the milliseconds of Unix time, then 74 random bits."""
    number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    number = number & ~(0xF << 76) | 7 << 76
    number = number & ~(3 << 62) | 2 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
