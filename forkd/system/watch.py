"""The watch over the event loops of a service: a flag and an eventfd that the master shares with its workers.

While no loop works nobody looks: a worker whose loop begins a turn rings the eventfd. While the flag says
that the master looks anyway (master/lag.py), none rings, and a turn costs one read of memory.
"""

from __future__ import annotations

import mmap

from forkd.system.originals import os


class Watch:
    """Made by the master before its first fork."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._memory = mmap.mmap(-1, 8)
        #: Its one item is whether the master looks, or has been rung for.
        self.looks = memoryview(self._memory).cast("q")

    def fileno(self) -> int:
        return self._fd

    def ring(self) -> None:
        """In a worker: have the master look from now on."""
        self.looks[0] = 1
        os.eventfd_write(self._fd, 1)

    def hear(self) -> None:
        """In the master."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass  # heard already
