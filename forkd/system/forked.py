"""Processes that the application forks: forkd's part ends there, and none returns into forkd's code.

`os.fork()` in a request, a handler, a hook or an import makes a copy of a process of forkd's, with its
connections, listeners and signals, and without its duties. Where the application's code returns to forkd
in such a copy, by `return` or by an exception, the copy leaves as the interpreter would at the end of a
script (`leave`). Until then the application may do what it could do without forkd: `arm` says what ends for
that at the fork.

`if in_fork: leave()` stands behind each call of application code. It costs the look at a number, or at the
length of a list. Forks that forkd makes itself are exempt (`own`).

Forks that C code makes are noticed by pthread_atfork(3), where native code was built
(native/system_forked.c).
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from forkd.native import pick
from forkd.system.originals import ThreadLocal, get_ident, os, signal
from forkd.system.sigpipe import without_sigpipe


class PythonForkState(list[bool]):
    """True in a process that the application has forked. Native code has a twin of it."""

    #: Forks that this process was about to make so far, but for forkd's own.
    forks = 0

    def mark(self) -> None:
        """Note that this is such a process."""
        self.append(True)

    def expect(self) -> None:
        """Note that this process is about to fork."""
        self.forks += 1

    def know(self, known: bool) -> None:
        """Whether the fork that this thread makes next is seen to here."""

    def prepare(self, armed: bool, handled: int, blocked: int, wakeup: int) -> None:
        """Set the signals that forkd handles, and those that it blocks, as bits, and the descriptor that
        Python writes them to, or -1; for forks by C code."""


in_fork: Any = pick("ForkState", PythonForkState)()

#: What ends in a process that the application forks; None where no application runs.
_end: Callable[[], None] | None = None
_handled: set[int] = set()  # signals
_blocked: set[int] = set()  # signals
_wakeup = -1  # the descriptor that signals are written to
_thread = ThreadLocal()


def arm(end: Callable[[], None]) -> None:
    """From here on this process runs application code: call `end` in those that it forks. It must not touch
    what the processes share, and is called with all signals blocked."""
    global _end
    _end = end
    _tell()


def note_signals(handled: Iterable[int] = (), blocked: Iterable[int] = ()) -> None:
    """forkd handles, or blocks, these in this process."""
    _handled.update(handled)
    _blocked.update(blocked)
    _tell()


def note_wakeup(fd: int) -> None:
    """forkd's wake-up descriptor in this process is `fd`; -1: it has none."""
    global _wakeup
    _wakeup = fd
    _tell()


def _tell() -> None:
    in_fork.prepare(_end is not None, _bits(_handled), _bits(_blocked), _wakeup)


def _bits(numbers: set[int]) -> int:
    return sum(1 << (number - 1) for number in numbers)


@contextmanager
def own() -> Iterator[None]:
    """Around a fork of forkd's: the new process knows itself what to do."""
    _thread.own = True
    in_fork.know(True)
    try:
        yield
    finally:
        _thread.own = False
        in_fork.know(False)


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call application code. Where a check of its own would be too little to be worth the lines."""
    try:
        result = function(*arguments)
    except BaseException as error:
        if in_fork:
            leave(error)
        raise
    if in_fork:
        leave()
    return result


def leave(error: BaseException | None = None) -> NoReturn:
    """End a process that the application has forked: it has raised `error`, or returned."""
    code = 0 if error is None else 1
    try:
        if isinstance(error, SystemExit):
            if error.code is None or isinstance(error.code, int):
                code = (error.code or 0) & 0xFF
            else:
                print(error.code, file=sys.stderr)
        elif error is not None:
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        finish(code, interrupted=isinstance(error, KeyboardInterrupt))


def finish(code: int, interrupted: bool = False, joins: bool = True) -> NoReturn:
    """Exit as the interpreter would: threads end (where it `joins`), the application's atexit hooks run, its
    output is flushed. `interrupted`: end by SIGINT, so that the parent sees it in the status."""
    for end in (*([_join_threads] if joins else []), atexit._run_exitfuncs):
        with contextlib.suppress(BaseException):  # the process is ending, and has no place to report this
            end()
    for name in ("stdout", "stderr"):
        with contextlib.suppress(BaseException):  # what the application has put there may have no flush
            without_sigpipe(getattr(sys, name).flush)
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _join_threads() -> None:
    """Wait for the threads that the application has started, and that are not daemonic."""
    shutdown = threading._shutdown  # type: ignore[attr-defined]
    names = getattr(shutdown, "__globals__", {})
    main = names.get("_main_thread")
    # eventlet has a threading of its own, whose main thread is the one in which it was imported: where
    # that is one of a pool's, it would be waited for, and never ends.
    if main is None or "get_ident" not in names or main.ident == names["get_ident"]():
        shutdown()


# ---- around a fork that Python makes ---------------------------------------------------------


def _before() -> None:
    """A signal that comes to the child before what is forkd's has ended there would be taken for the
    parent's: they have the pipe of the signals in common."""
    if _end is None or getattr(_thread, "own", False):
        return
    in_fork.know(True)
    in_fork.expect()
    _thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    # A thread that forkd has started is a "dummy" to `threading`. Up to 3.12 that cannot be a child's main
    # thread: the end of the child would fail, as would that of multiprocessing's children. Of a thread that
    # `threading` does not know it makes a main thread in the child.
    known = threading._active  # type: ignore[attr-defined]
    if type(known.get(get_ident())) is threading._DummyThread:
        _thread.dummy = known.pop(get_ident(), None)


def _in_parent() -> None:
    dummy = _thread.__dict__.pop("dummy", None)
    if dummy is not None:
        threading._active[get_ident()] = dummy  # type: ignore[attr-defined]
    mask = _mask()
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    global _end
    mask = _mask()
    if mask is None:
        return
    in_fork.mark()
    end, _end = _end, None  # once: what it forks in turn holds nothing of forkd's
    _tell()
    try:
        if end is not None:
            end()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask - _blocked)


def _mask() -> set[int] | None:
    """The mask of this thread before the fork; None when that is not seen to here."""
    mask: set[int] | None = _thread.__dict__.pop("mask", None)
    if mask is not None:
        in_fork.know(False)
    return mask


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
