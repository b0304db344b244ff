"""A subscription to a channel of a table in shared memory. In a process of the application's.

It reads on from the number of the last message that it has had. `fileno` is for event loops: from its first
call on, a thread sleeps on the channel's bell and writes to an eventfd when it has changed.
"""

from __future__ import annotations

from forkd.storage.shm_table import Table
from forkd.system.originals import monotonic, os, start_thread


class ChannelReader:
    """Implements `engine.Subscription`."""

    def __init__(self, table: Table, channel: bytes) -> None:
        self._table = table
        self._channel = channel
        self._last = table.join(channel, 1)
        self._event = -1
        self._closed = False

    def get(self, wait: float | None = 0) -> bytes | None:
        end = None if wait is None else monotonic() + wait
        while not self._closed:
            seen = self._table.bell(self._channel)
            data = self._next()
            if data is not None:
                return data
            left = 1.0 if end is None else end - monotonic()
            if left <= 0:
                break
            self._table.sleep(self._channel, seen, left)
        return None

    def _next(self) -> bytes | None:
        if self._event >= 0:
            try:
                os.eventfd_read(self._event)
            except BlockingIOError:
                pass
        self._last, data = self._table.message(self._channel, self._last)
        if data is not None and self._event >= 0:
            os.eventfd_write(self._event, 1)  # there may be another
        return data

    def fileno(self) -> int:
        if self._event < 0:
            self._event = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            start_thread(self._watch, "forkd-storage-channel")
        return self._event

    def _watch(self) -> None:
        seen = self._table.bell(self._channel)
        while not self._closed:
            self._table.sleep(self._channel, seen, 1.0)
            now = self._table.bell(self._channel)
            if now != seen:
                seen = now
                os.eventfd_write(self._event, 1)
        os.close(self._event)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._table.join(self._channel, -1)
