"""Writes to a reader that has left, as the error EPIPE and never as a signal.

Python ignores SIGPIPE, and an application may set it to its default, as several libraries do: then a
write to a peer that has left ends the process (pipe(7), send(2)), with all its clients. The disposition, and
the mask of the threads, belong to the application, for they are passed on to programs that it starts. So
each send has MSG_NOSIGNAL; and where there is no such flag (write(2), sendfile(2)) the signal is blocked
meanwhile, if it is at its default. In any process that has loaded an application. Native code sends with
that flag only, as io_uring does; glibc's threads for aio(7) block all signals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from forkd.system.originals import signal, socket

P = ParamSpec("P")
T = TypeVar("T")

#: As a plain number: the flags of the socket module are made anew for each `|`.
NO_SIGPIPE = int(socket.MSG_NOSIGNAL)


def without_sigpipe(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """The result of the call, which writes to a pipe or a socket without that flag. No system call more, as
    long as SIGPIPE is not at its default."""
    if signal.getsignal(signal.SIGPIPE) is not signal.SIG_DFL:
        return call(*arguments, **options)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        return call(*arguments, **options)
    finally:
        signal.sigtimedwait({signal.SIGPIPE}, 0)  # sent to this thread alone, and pending
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
