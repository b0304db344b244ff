"""Signals to a process that this one has no right to signal (kill(2), EPERM).

That is so where root lacks CAP_KILL, as in a container that was given few capabilities, and the process has
become another user. PR_SET_PDEATHSIG asks for the same right when its parent dies. But a process may have the
kernel signal itself whenever something comes on a socket, by any signal, SIGKILL too (F_SETOWN, F_SETSIG,
fcntl(2)); the kernel checks the rights of the process that has set that, which is itself. So it has a
socket for each signal that its parent may want to send: a byte there is the signal, and so is the end of the
parent, upon which the kernel closes the other end. No code of the process has a part in it: one that is stuck
or stopped gets it, too.

In the master and the command, for their children; `listen` in those.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable

from forkd.system import rights
from forkd.system.originals import os, socket


class SignalSockets:
    """The ends of one side, by signal; none where pidfd_send_signal(2) does it."""

    def __init__(self, ends: dict[int, socket.socket]) -> None:
        self._ends = ends

    @classmethod
    def pair(cls, numbers: Iterable[int]) -> tuple[SignalSockets, SignalSockets]:
        """(the parent's, the child's); both empty where this process may signal its children, whatever
        becomes of them. Raises OSError, leaving nothing behind."""
        ours, theirs = cls({}), cls({})
        if os.geteuid() != 0 or rights.may_signal_all():
            return ours, theirs
        try:
            for number in numbers:
                ours._ends[number], theirs._ends[number] = socket.socketpair()
        except OSError:
            ours.close()
            theirs.close()
            raise
        return ours, theirs

    @classmethod
    def of(cls, numbers: Iterable[int], fds: Iterable[int]) -> SignalSockets:
        """The sockets that `filenos` has named, in another process; none for none."""
        return cls({n: socket.socket(fileno=fd) for n, fd in zip(numbers, fds, strict=False)})

    def __len__(self) -> int:
        return len(self._ends)

    def filenos(self) -> list[int]:
        return [end.fileno() for end in self._ends.values()]

    def send(self, number: int) -> bool:
        """Send that signal; called in the parent. Returns whether there is a socket for it."""
        end = self._ends.get(number)
        if end is None:
            return False
        try:
            end.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False  # hundreds of them have been sent
        except OSError:
            pass  # it has ended
        return True

    def listen(self) -> None:
        """Arm the sockets, in the child, once it has the ids that it keeps."""
        for number, end in self._ends.items():
            fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(end, fcntl.F_SETSIG, int(number))
            fcntl.fcntl(end, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)
            try:
                end.recv(1)
            except BlockingIOError:
                continue
            os.kill(os.getpid(), number)  # what has come before, the end of the parent too, does not signal

    def close(self) -> None:
        for end in self._ends.values():
            end.close()
