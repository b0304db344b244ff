"""The form of lines of the access log that an operator has given (--access-log-format): text with fields such
as `%{client}`. Read with the configuration, and used by log/lines.py.
"""

from __future__ import annotations

import re

#: What each field shows, for docs/operations.md and for errors.
FIELDS = {
    "client": "the client's address, as trusted proxies say; unix: without one",
    "peer": "the address that the connection came from: the proxy's, or the client's; - if its process died",
    "time": "the time of the end, as in the Combined Log Format: 29/Nov/2026:20:35:50 +0000",
    "request": "the request line",
    "method": "its first word",
    "target": "its second word",
    "status": "of the answer",
    "bytes": "of its body",
    "referer": "Referer, or -",
    "agent": "User-Agent, or -",
    "seconds": "how long it took, to the microsecond",
    "request_id": "its name, with --request-ids, or -",
    "reason": "why a request was cut whose process has died, or -",
    "pid": "of the process that has written the line",
}

_FIELD = re.compile(r"%(?:%|\{([^}%]*)\})?")


def parse(text: str) -> tuple[str, tuple[str, ...]]:
    """A format for `str.format`, and the names of its places. Raises ValueError that names what is wrong."""
    names: list[str] = []
    parts: list[str] = []
    wrong: list[str] = []
    at = 0
    for match in _FIELD.finditer(text):
        parts.append(_literal(text[at : match.start()]))
        at = match.end()
        if match[0] == "%%":
            parts.append("%")
        elif match[1] in FIELDS:
            names.append(match[1])
            parts.append("{}")
        else:
            wrong.append(match[0])
    if wrong:
        known = ", ".join(f"%{{{name}}}" for name in FIELDS)
        raise ValueError(f"{', '.join(wrong)}: there is no such field; allowed are {known}, and %% for a %")
    parts.append(_literal(text[at:]))
    return "".join(parts), tuple(names)


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
