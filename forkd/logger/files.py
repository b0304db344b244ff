"""One file of the logger, and the thread that waits for its disk.

open(2), write(2) and close(2) of a file can hang in the kernel for as long as a disk or a server does not
answer. Each log has a thread for them, so that one that hangs holds up no other; and the logger's main
thread, which gives out the work and collects the results, never touches a file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic_ns
from typing import NamedTuple

from forkd.log.lines import open_log
from forkd.log.sink import writer
from forkd.logger.destinations import Destination
from forkd.system.log_ring import Taken


class Opened(NamedTuple):
    """The file was opened, or opened anew; or why not: the old one stays in use then."""

    error: OSError | None


class Written(NamedTuple):
    """The result of a write: so many bytes are in the file, and why not more."""

    done: int
    error: OSError | None


class Closed(NamedTuple):
    """The result of a close: the file is closed, and its thread ends."""


Result = Opened | Written | Closed


class File:
    def __init__(
        self, log: int, destination: Destination, finished: Callable[[File, Result], None]
    ) -> None:
        """`finished` is called in the file's thread after each piece of work."""
        self.log, self.destination = log, destination
        #: Written by the main thread only.
        self.is_open = False
        self.job: list[Taken] = []  # what is being written
        self.given_up: list[Taken] = []  # the same, once it is not waited for any more
        self.busy_since = 0  # ns of CLOCK_MONOTONIC; 0: the thread waits for work
        self.not_before = 0.0  # monotonic seconds; before that another try would be in vain
        self.moved = 0.0  # monotonic seconds when it took some of a line last
        self.closing_since = 0.0  # monotonic seconds since which it has no writers; 0: it may have some
        self.reopening: list[int] = []  # requests to open it anew, once it is idle
        self.answering: list[int] = []  # those that the present open(2) is for
        self._finished = finished
        self._work: SimpleQueue[Callable[[], Result]] = SimpleQueue()
        self._fd = -1
        self._write: Callable[[bytes], int] = lambda data: 0
        self._piece = 1 << 30
        self._end: Callable[[], object] = lambda: None
        threading.Thread(target=self._run, name=f"log {log}", daemon=True).start()

    # ---- in the main thread ---------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return not self.busy_since

    def takes_lines(self, now: float) -> bool:
        return self.idle and self.is_open and self.not_before <= now and not self.reopening

    def open(self) -> None:
        self._do(self._open)

    def write(self, job: list[Taken]) -> None:
        self.job = job
        text = b"".join(taken.text for taken in job)
        self._do(lambda: self._write_all(text))

    def close(self) -> None:
        self._do(self._close)

    def _do(self, work: Callable[[], Result]) -> None:
        self.busy_since = monotonic_ns()
        self._work.put(work)

    # ---- in its own thread ----------------------------------------------------------------

    def _run(self) -> None:
        while True:
            result = self._work.get()()
            self._finished(self, result)
            if isinstance(result, Closed):
                return

    def _open(self) -> Opened:
        try:
            fd = (
                self.destination.fd
                if self.destination.path is None
                else open_log(self.destination.path)
            )
        except OSError as error:
            return Opened(error)
        self._shut()
        self._fd = fd
        self._write, self._piece, self._end = writer(fd)
        return Opened(None)

    def _write_all(self, text: bytes) -> Written:
        done = 0
        while done < len(text):
            try:
                done += self._write(text[done : done + self._piece])
            except OSError as error:
                return Written(done, error)
        return Written(done, None)

    def _close(self) -> Closed:
        self._shut()
        return Closed()

    def _shut(self) -> None:
        """Close what is open, unless it is what forkd was started with."""
        self._end()
        if self._fd >= 0 and self._fd != self.destination.fd:
            try:
                os.close(self._fd)
            except OSError:
                pass  # the kernel had accepted these bytes: they are lost, and cannot be written again
