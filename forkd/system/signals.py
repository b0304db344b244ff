"""Signals as events, and SIGIO as the doorbell of the listeners.

A handler in Python runs between two bytecodes of the main thread, which is no place for work. So
the handlers here do nothing at all: CPython's C-level handler writes the signal's number into a
pipe (signal.set_wakeup_fd), and the master's loop reads it there like any other event. Numbers
come out in the order in which the kernel delivered the signals.
"""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from types import FrameType

from forkd.native import native
from forkd.originals import os, signal, socket
from forkd.system import terminal

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


#: Those that the kernel sends, too, to a process group for its terminal, which is no order to anybody: a
#: new size of its window, job control, the end of the line. (What is typed, INT and QUIT, is one.)
_OF_A_TERMINAL = (signal.SIGHUP, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU)


class SignalQueue:
    """The signals of this process, readable as one descriptor. One per process (signal(7))."""

    #: Signals that are left out while there is a terminal.
    _untold: frozenset[int] = frozenset()

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
            found = list(os.read(self._read, 65536))
        except BlockingIOError:
            return []
        if not self._untold.isdisjoint(found) and terminal.signals_us():
            found = [number for number in found if number not in self._untold]
        return found

    def only_from_processes(self, wanted: bool) -> None:
        """Leave out what the kernel sends for a terminal. `wanted`: by native code, which can tell it from
        what a process sends. Without that none of them is told while there is a terminal, but for HUP: the
        end of the terminal is a reload, then."""
        if native is None or not wanted:
            self._untold = frozenset(_OF_A_TERMINAL[1:])
            return
        for number in _OF_A_TERMINAL:
            native.only_from_processes(number)

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
