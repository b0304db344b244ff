"""The logger's end of a pipe that is descriptor 1 or 2 of forkd's processes.

What an application prints, and what an interpreter says that crashes, comes this way. It is read at once,
and waits in a ring of the logger's for the file, so that no print waits for a disk. What the ring has no
room for is lost, and counted as lines of the error log.
"""

from __future__ import annotations

import os
from time import monotonic

from forkd.system.log_ring import ERROR, Rings, RingSink

#: Bytes read at once, as many as a pipe usually holds, and as may wait for the end of their line.
_READ_BYTES = 1 << 16
#: Seconds for which a line may be without its end: a prompt, or a program that prints dots.
_UNFINISHED_SECONDS = 0.2


class Pipe:
    def __init__(self, rings: Rings, log: int, fd: int) -> None:
        self._fd = fd
        self._sink = RingSink(rings, rings.own + 1, log, log)  # one writer for each ring
        self._sink.lost = lambda lines: rings.lose(ERROR, lines)
        self._sink.gap = lambda lines: b"logger: %d lines lost here\n" % lines
        self._partial = b""
        #: When what has no end of line is written all the same, monotonic seconds; 0: there is none.
        self.flush_at = 0.0

    def fileno(self) -> int:
        return self._fd

    def pump(self) -> bool:
        """Read what is there, once. Returns whether there was anything."""
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            data = b""
        end = data.rfind(b"\n") + 1
        if end:
            self._sink.write(self._partial + data[:end])
            self._partial, self.flush_at = b"", 0.0
        self._partial += data[end:]
        if self._partial and not self.flush_at:
            self.flush_at = monotonic() + _UNFINISHED_SECONDS
        if self._partial and (len(self._partial) >= _READ_BYTES or monotonic() >= self.flush_at):
            self.flush()
        self._sink.retry()
        return bool(data)

    def flush(self) -> bool:
        """Write what has no end of line. Returns whether there was anything."""
        partial, self._partial, self.flush_at = self._partial, b"", 0.0
        if partial:
            self._sink.write(partial)
        return bool(partial)
