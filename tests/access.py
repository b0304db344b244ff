"""An access log in memory, for tests that have a child's parts without its processes."""

from __future__ import annotations

import os
import weakref

from forkd.log.lines import AccessLog
from forkd.system.log_ring import ACCESS, Reader, Rings, RingSink


class MemoryAccess(AccessLog):
    """Its lines can be read as the logger reads them."""

    def __init__(self, style: str = "text", *, native: bool = True) -> None:
        self._rings = Rings(1, 1)
        weakref.finalize(self, os.close, self._rings.bell)
        super().__init__(RingSink(self._rings, 0, ACCESS, 1, native=native), style, native=native)
        self._reader = Reader(self._rings)

    def take(self) -> bytes:
        """The lines since the last call."""
        taken = self._reader.take(self._rings.index(0, ACCESS), 1 << 20)
        self._reader.advance(taken, len(taken.text))
        return taken.text
