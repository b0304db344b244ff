"""What the storage unit raises: one tree, under forkd's own root.

Each one crosses no process and needs no engine to be understood; those that have a cause carry it as
`__cause__`. None of their texts has a password: where a URL is named, it is masked.
"""

from __future__ import annotations

from forkd.errors import ForkdError

__all__ = ["Busy", "Damaged", "Error", "Fenced", "Full", "Stalled", "TooLarge", "Unavailable"]


class Error(ForkdError):
    """The storage unit could not do what it was called for."""


class TooLarge(Error, ValueError):
    """A key or a value is longer than the engine keeps; nothing was changed."""


class Full(Error):
    """There is no room for what may not be evicted: a lock, a queue's item, a limit, a counter without an
    end, or the disk is full (`__cause__`). Nothing was changed."""


class Stalled(Error, TimeoutError):
    """Another process has stopped in the middle of an update, and the second that a call waits for it is
    over. Nothing was changed.

    `pid` is that process, 0 where it cannot be told.
    """

    def __init__(self, what: str, pid: int) -> None:
        self.what = what
        self.pid = pid
        super().__init__(what, pid)

    def __str__(self) -> str:
        return f"{self.what}: held for more than a second by process {self.pid or '(unknown)'}"


class Unavailable(Error, ConnectionError):
    """The back end cannot be reached or does not answer in time; `__cause__` says why. Whether a write was
    done is not known."""


class Fenced(Error):
    """A write with a fencing token that is lower than one seen for that key before: the lock has a later
    holder by now. Nothing was changed."""


class Damaged(Error):
    """What is stored is not of the form that it has to have: another process wrote over it, or another
    version of forkd did."""


class Busy(Error):
    """Another process is in the middle of an update. Only an engine's `instant` raises it, where the engine
    itself would wait for up to a second."""
