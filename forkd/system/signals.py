"""Signals as events, and SIGIO as the doorbell of the listeners.

A handler in Python runs between two bytecodes of the main thread, which is no place for work. So
the handlers here do nothing at all: CPython's C-level handler writes the signal's number into a
pipe (signal.set_wakeup_fd), and the master's loop reads it there like any other event. Numbers
come out in the order in which the kernel delivered the signals.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Sequence
from types import FrameType

#: The real-time signal of signal-driven I/O on connections (sigio.py).
NEWS = signal.SIGRTMIN + 4


def reset() -> None:
    """When a program of forkd begins: what whoever started it had blocked or ignored is inherited by
    execve(2), and would make a service that no TERM ends, or that hears of no child.

    HUP stays ignored where nohup(1) has done that, until the master hears it; so does what Python ignores.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _noted(number: int, frame: FrameType | None) -> None:
    """A handler that exists so that the signal is neither fatal nor ignored.

    SIG_IGN would be inherited through exec by programs that the application starts.
    """


class SignalQueue:
    """The signals of this process, readable as one descriptor. One per process (signal(7))."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _noted)

    def fileno(self) -> int:
        return self._read

    def read(self) -> list[int]:
        """The signals that came since the last call. 64 KiB of pipe hold more than one turn brings;
        what does not fit is a repetition of what is already in it."""
        try:
            return list(os.read(self._read, 65536))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Also for a child: its parent's queue is not its own."""
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)


def own(listener: socket.socket) -> None:
    """Have SIGIO for `listener` sent to this process (F_SETOWN, fcntl(2)).

    The owner belongs to the open file description, which all children share: they need do nothing,
    and a connection rings for the master whoever accepts it.
    """
    fcntl.fcntl(listener, fcntl.F_SETOWN, os.getpid())


def disown(listener: socket.socket) -> None:
    """Have no signal sent to anybody for `listener`, whatever a process that shares it has set.

    What such a process sets from now on counts with its own rights: the kernel keeps the ids of whoever
    called F_SETOWN, and asks whether they may signal the owner.
    """
    fcntl.fcntl(listener, fcntl.F_SETOWN, 0)
    fcntl.fcntl(listener, fcntl.F_SETSIG, 0)
    disarm(listener)


def arm(listener: socket.socket) -> None:
    """Ring for connections from now on (O_ASYNC). What already waits does not ring."""
    flags = fcntl.fcntl(listener, fcntl.F_GETFL)
    fcntl.fcntl(listener, fcntl.F_SETFL, flags | os.O_ASYNC)


def disarm(listener: socket.socket) -> None:
    flags = fcntl.fcntl(listener, fcntl.F_GETFL)
    fcntl.fcntl(listener, fcntl.F_SETFL, flags & ~os.O_ASYNC)
