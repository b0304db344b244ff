"""Back-off for exhausted resources (EMFILE, ENOMEM): one log line in 10 s, and a pause before each retry.

To try again at once would spin: what could not be accepted stays in the queue, which stays readable. A
connection that a call failed for is refused, where that is all there is to do. Used by the acceptor of a
child, by the master's dispatcher, and for the master's own sockets.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from forkd.system.forked import in_fork, leave
from forkd.system.originals import monotonic

#: The machine or the process has no room: for descriptors, for memory, for processes.
_NO_ROOM_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC}
_NO_ROOM_SECONDS = 0.25
#: Other errors of accept(2) are those of one connection, and the next may be well.
_PAUSE_SECONDS = 0.01
#: How the log calls what failed, with the limit that ENOSPC is about (epoll_ctl(2)).
WAITING_CALL = "epoll_ctl (fs.epoll.max_user_watches)"
#: Between two lines in the log.
_SILENCE_SECONDS = 10.0


class Retry:
    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` gets a line for the log."""
        self._say = say
        self._silent_until = 0.0
        self._unsaid = 0

    def pause(self, call: str, error: OSError) -> float:
        """`call` has failed. Returns the seconds to wait before the next try."""
        seconds = _NO_ROOM_SECONDS if error.errno in _NO_ROOM_ERRNOS else _PAUSE_SECONDS
        if error.errno != errno.ECONNABORTED:  # a client that has left is not an error
            self._tell(call, error, f"again in {seconds} s")
        return seconds

    def refuse(self, call: str, error: OSError) -> None:
        """`call` has failed for one connection, which is closed."""
        self._tell(call, error, "its connection is closed")

    def _tell(self, call: str, error: OSError, then: str) -> None:
        if in_fork:
            leave()  # a signal handler has forked, and its child has come back here
        now = monotonic()
        if now < self._silent_until:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} times more since this was last said)" if self._unsaid else ""
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        self._say(f"{call}: {name}: {error.strerror}; {then}{more}")
        self._silent_until = now + _SILENCE_SECONDS
        self._unsaid = 0
