"""Signals as events, and SIGIO as the doorbell of the listeners.

A handler in Python runs between any two bytecodes of the main thread, where it must not do any work. So
the handlers here do nothing as a rule: CPython's C-level handler writes the signal's number into a
pipe (signal.set_wakeup_fd), and the master's loop reads it there like any other event. Numbers
come out in the order in which the kernel delivered the signals.

An application that sets a handler for one of forkd's signals has it called behind forkd's, which stays
(`share`), whatever sets it: signal.signal, or the event loop that runs.

In a process that the application forks all this ends (`end_in_fork`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import functools
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any

from forkd.native import pick
from forkd.system import forked, terminal
from forkd.system.forked import in_fork
from forkd.system.originals import os, signal, socket

#: The real-time signals of forkd, of which the first three are the C library's and the application's.
#: Asks a child for the Python stacks of all its threads (faulthandler; works while stuck in C).
STACKS = signal.SIGRTMIN + 3
#: Signal-driven I/O on connections (system/sigio.py).
NEWS = signal.SIGRTMIN + 4
#: Asks the process of a client to end if that is idle (models/process_per_connection.py).
MAKE_ROOM = signal.SIGRTMIN + 5
#: Asks a worker for the stack of the thread of its event loop alone, and what that is at (worker/turns.py).
LOOP_STACK = signal.SIGRTMIN + 6

Handler = Callable[[int, FrameType | None], None]

#: The handlers of forkd in this process, by signal.
_ours: dict[int, Handler] = {}
#: What the application has set for those signals.
_theirs: dict[int, Any] = {}
#: For which faulthandler writes stacks: the descriptor, and whether those of all threads.
_stacks: dict[int, tuple[int, bool]] = {}
_pipe = (-1, -1)  # what signals are read from, and written to


def reset() -> None:
    """Reset signals when a program of forkd begins: what its parent had blocked or ignored is inherited by
    execve(2), and would make a service that no TERM ends, or that does not notice the end of a child.

    HUP stays ignored where nohup(1) has done that, until the master handles it; so does what Python ignores.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def handle(number: int, handler: Handler | None = None) -> None:
    """Handle the signal in this process, but not in those that the application forks. Without `handler` it
    is neither fatal nor ignored: SIG_IGN would be inherited by programs that the application starts."""
    _ours[number] = handler or noted
    signal.signal(number, _handle)
    forked.note_signals(handled=_ours)


def _handle(number: int, frame: FrameType | None) -> None:
    """The handler of each of forkd's signals: first forkd's own, then the application's."""
    if in_fork:  # C code has forked this process, without Python's hooks that would have done this
        end_in_fork()
        os.kill(os.getpid(), number)
        return
    _ours.get(number, noted)(number, frame)
    theirs = _theirs.get(number)
    if callable(theirs):
        theirs(number, frame)


def write_stacks(number: int, file: int, *, all_threads: bool = True) -> None:
    """Have the signal write the stacks of all threads there, or that of the main thread. Then its handler is
    called, if it has one."""
    _stacks[number] = file, all_threads
    chain = callable(signal.getsignal(number))
    faulthandler.register(number, file, all_threads=all_threads, chain=chain)


def block(numbers: set[int]) -> None:
    """Block the signals in this thread, and in those that it starts from now on; not in processes that the
    application forks, nor in programs that it starts."""
    from forkd.system import programs  # loads subprocess, which few children need

    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    forked.note_signals(blocked=numbers)
    programs.let_through(numbers)


# ---- beside an application --------------------------------------------------------------------


def share() -> None:
    """Where an application runs, before it is imported: its functions of the module signal leave forkd what
    is forkd's. A handler for one of forkd's signals is called behind forkd's, and seen in its place; and
    once the application has no wake-up descriptor any more, as event loops leave it at their end, forkd's is
    in its place again."""
    import signal as theirs  # and not forkd's copy of it

    if theirs.signal is signal.signal:
        for name, here in (
            ("signal", set_theirs), ("getsignal", _theirs_or_set), ("set_wakeup_fd", _set_wakeup),
        ):  # fmt: skip
            setattr(theirs, name, functools.wraps(getattr(signal, name))(here))


def set_theirs(number: int, handler: Any) -> Any:
    """signal.signal as the application has it. Raises ValueError and TypeError."""
    if number not in _stacks:
        return _set_theirs(number, handler)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    faulthandler.unregister(number)
    try:
        return _set_theirs(number, handler)
    finally:
        file, all_threads = _stacks[number]
        write_stacks(number, file, all_threads=all_threads)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _set_theirs(number: int, handler: Any) -> Any:
    if number not in _ours:
        return signal.signal(number, handler)
    before = _theirs_or_set(number)
    # What changes nothing here may be ignored: so it is in programs that the application starts then.
    ignored = handler == signal.SIG_IGN and number != signal.SIGTERM and _ours[number] is noted
    usual = handler is _handle or handler is signal.default_int_handler or handler == signal.SIG_DFL
    known = usual or callable(handler) or handler == signal.SIG_IGN
    signal.signal(number, handler if ignored or not known else _handle)
    if usual:
        _theirs.pop(number, None)
    else:
        _theirs[number] = handler
    return before


def _theirs_or_set(number: int) -> Any:
    """signal.getsignal as the application has it."""
    found = signal.getsignal(number)
    return _theirs.get(number, found)


def _set_wakeup(fd: int, **options: Any) -> int:
    """signal.set_wakeup_fd as the application has it."""
    end = _pipe[1]
    if fd != -1 or end < 0:
        return signal.set_wakeup_fd(fd, **options)
    other = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    return -1 if other == end else other


def wakeup() -> int:
    """The descriptor that the numbers of signals are written to; -1: none, or forkd's own."""
    found = signal.set_wakeup_fd(-1)
    set_wakeup(found)
    return -1 if found == _pipe[1] else found


def set_wakeup(fd: int) -> None:
    """Have them written there, unless that is -1, or closed by now."""
    if fd >= 0:
        with contextlib.suppress(ValueError, OSError):
            signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def set_by_application(numbers: Iterable[int]) -> dict[int, Any]:
    """The handlers of these signals that the application has set, as it does at import."""
    found = {number: _theirs_or_set(number) for number in numbers}
    usual = (None, signal.SIG_DFL, signal.default_int_handler, _handle)
    return {number: how for number, how in found.items() if how not in usual}


def end_in_fork(own: Iterable[int] = ()) -> set[int]:
    """In a process that the application has forked: each signal does what it would do there without forkd. A
    handler of the application's stays, and so does a wake-up descriptor that is none of `own`, which end
    here. Returns the descriptors of the pipe, which is its parent's."""
    global _pipe
    for number in _stacks:
        faulthandler.unregister(number)
    for number in _ours:
        if signal.getsignal(number) is _handle:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, _theirs.get(number, usual))
    for known in (_ours, _theirs, _stacks):
        known.clear()
    ended, _pipe = _pipe, (-1, -1)
    other = signal.set_wakeup_fd(-1)
    if other not in (-1, ended[1], *own):
        signal.set_wakeup_fd(other)
    return {fd for fd in ended if fd >= 0}


def noted(number: int, frame: FrameType | None) -> None:
    """The usual handler. The number is in the pipe, as a rule; not when the application has set another
    wake-up descriptor, as event loops do."""
    end = _pipe[1]
    if end < 0:
        return
    other = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    if other == end:
        return
    with contextlib.suppress(BlockingIOError):  # as `read` says
        os.write(end, bytes((number,)))
    if other >= 0:
        signal.set_wakeup_fd(other)


#: Signals that the kernel also sends to a process group for its terminal, where they are not orders: a new
#: size of its window, job control, the end of the line. (What is typed, INT and QUIT, is an order.)
_OF_A_TERMINAL = (signal.SIGHUP, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU)


class SignalQueue:
    """The signals of this process, readable as one descriptor. One per process (signal(7))."""

    #: Signals that are left out while there is a terminal.
    _untold: frozenset[int] = frozenset()

    def __init__(self, numbers: Sequence[int]) -> None:
        global _pipe
        self._read, self._write = _pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        forked.note_wakeup(self._write)
        for number in numbers:
            handle(number)

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
        leave_out = pick("only_from_processes", self._leave_out, wanted)
        for number in _OF_A_TERMINAL:
            leave_out(number)

    def _leave_out(self, number: int) -> None:
        if number != signal.SIGHUP:
            self._untold |= {number}

    def close(self) -> None:
        """Also for a child: its parent's queue is not its own."""
        global _pipe
        _pipe = (-1, -1)
        _ours.clear()
        _theirs.clear()
        signal.set_wakeup_fd(-1)
        forked.note_wakeup(-1)
        os.close(self._read)
        os.close(self._write)


def own(listener: socket.socket) -> None:
    """Have SIGIO for `listener` sent to this process (F_SETOWN, fcntl(2)).

    The owner belongs to the open file description, which all children share: they need do nothing,
    and a connection rings for the master whichever child accepts it.
    """
    fcntl.fcntl(listener, fcntl.F_SETOWN, os.getpid())


def disown(listener: socket.socket) -> None:
    """Have no signal sent for `listener`, whatever a process that shares it has set.

    What such a process sets from now on counts with its own rights: the kernel keeps the ids of the process
    that called F_SETOWN, and checks whether they may signal the owner.
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
