"""When a system call fails for want of something: say so now and then, and wait before the next try.

Trying again at once would spin: what could not be accepted stays in the queue, which stays readable.
Used by whoever accepts: the acceptor of a child, the master's dispatcher, and its own sockets.
"""

from __future__ import annotations

import errno
from time import monotonic

from forkd.app.session import Log

#: The machine or the process has no room: for descriptors, for memory, for processes.
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
_NO_ROOM_PAUSE = 0.25  # seconds
#: Other errors of accept(2) are those of one connection, and the next may be well.
_PAUSE = 0.01
#: One line in so many seconds.
_SILENCE = 10.0


class Shortage:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._silent_until = 0.0
        self._unsaid = 0

    def pause(self, call: str, error: OSError) -> float:
        """`call` has failed. Returns the seconds to wait before the next try."""
        number = error.errno or 0
        seconds = _NO_ROOM_PAUSE if number in _NO_ROOM else _PAUSE
        now = monotonic()
        if number == errno.ECONNABORTED:
            pass  # a client that has left is no error of ours
        elif now < self._silent_until:
            self._unsaid += 1
        else:
            more = f" ({self._unsaid} times more since this was last said)" if self._unsaid else ""
            name = errno.errorcode.get(number, str(number))
            self._log.error(f"{call}: {name}: {error.strerror}; again in {seconds} s{more}")
            self._silent_until = now + _SILENCE
            self._unsaid = 0
        return seconds
