"""What has happened to the service: one record for each thing that the master has done or found.

The line in the error log is made from the record, and so is what `forkd status` tells of workers that have
gone. The last records of each kind are kept. In the master.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Any, NamedTuple

from forkd.log.lines import Log

#: Records of a kind that are kept.
KEPT_RECORDS = 20


class Record(NamedTuple):
    time: str  # UTC, RFC 3339 with milliseconds
    kind: str
    level: str  # of the line in the log
    text: str  # that line
    fields: dict[str, Any]  # the same for a program: JSON, cut so that twenty fit into an answer


class Events:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._records: dict[str, deque[Record]] = {}

    def note(
        self,
        kind: str,
        level: str,
        text: str,
        details: str = "",
        fields: dict[str, Any] | None = None,
        logged: dict[str, Any] | None = None,
    ) -> None:
        """Keep a record, and log its line; `logged`: what a log in JSON has of it besides."""
        record = Record(now(), kind, level, text, fields or {})
        self._records.setdefault(kind, deque(maxlen=KEPT_RECORDS)).append(record)
        if details or logged:
            self._log.report(level, text, details, **(logged or {}))
        else:
            getattr(self._log, level)(text)

    def last(self, kind: str) -> list[Record]:
        """The newest last."""
        return list(self._records.get(kind, ()))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
