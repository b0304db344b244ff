"""The functions and modules of the system that forkd calls, as they were before any application.

An application may replace functions of the standard library in place: gevent.monkey and
eventlet.monkey_patch take threads, locks, queues, fork, select, sockets and signals, and delete
select.epoll; freezegun and time-machine take the clocks. It does so at import, in a factory or in a
request. A name that a module of forkd has bound by then is not safe for that: a class in Python calls
what its module holds by now, and freezegun looks through all modules. So whatever may run beside an
application has these names from here (tests/test_originals.py), which is imported before it.

- `os`, `select`, `signal` and `socket` are copies of the modules: a patch changes the module, and not
  its copy. Not so what a function in Python finds in its own module, as socket.socketpair and
  socket.socket.accept do: they are for the master, which has no application, and not for its children.
- `Lock`, `OwnedLock`, `get_ident`, `ThreadLocal` and `SimpleQueue` are those of `_thread` and `_queue`, in C.
  Thread, Event, Condition and Semaphore of `threading` are made of what that holds when they are used.
- `time` is another instance of the built-in module. Its functions are other objects than those that
  freezegun looks for. time-machine replaces functions in C, in whichever instance; but none that tells
  the monotonic time, and of clock_gettime(2) only CLOCK_REALTIME. So `time.time` is
  CLOCK_REALTIME_COARSE, which is behind by a tick of the kernel at most (1 to 10 ms). `gmtime`,
  `localtime` and `strftime` are right where they are given a time.

None of the four is imported here.
"""

from __future__ import annotations

import _thread
import importlib.util
import selectors
import sys
import threading
from _queue import Empty as Empty
from _queue import SimpleQueue as SimpleQueue
from collections.abc import Callable
from functools import partial
from types import BuiltinFunctionType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os as os
    import select as select
    import signal as signal
    import socket as socket
    import time as time
    from selectors import EpollSelector as EpollSelector
else:

    def _copy(name: str) -> ModuleType:
        module = importlib.import_module(name)
        copy = ModuleType(name, module.__doc__)
        vars(copy).update(vars(module))
        return copy

    def _another(name: str) -> ModuleType:
        """Another instance of a built-in module (multi-phase initialization, PEP 489)."""
        spec = importlib.util.find_spec(name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    os, select, signal, socket = map(_copy, ("os", "select", "signal", "socket"))
    time = _another("time")
    EpollSelector = getattr(selectors, "EpollSelector", None)

_CLOCK_REALTIME_COARSE = 5  # clock_gettime(2); Python does not name it
time.time = partial(time.clock_gettime, _CLOCK_REALTIME_COARSE)
monotonic, monotonic_ns = time.monotonic, time.monotonic_ns

Lock = _thread.allocate_lock
OwnedLock = _thread.RLock
get_ident = _thread.get_ident
ThreadLocal = _thread._local
_start_new_thread = _thread.start_new_thread


def start_thread(run: Callable[[], object], name: str) -> None:
    """Run it in a thread of the system's. As a daemonic one it does not hold up the exit, where it may be
    stuck in the application. Raises RuntimeError when there is no room for it (pthread_create(3)).

    `threading` makes an object for it when the application asks for one, under this name; and what a
    debugger or a profiler wants of each thread is done as there.
    """

    def begin() -> None:
        trace, profile = threading.gettrace(), threading.getprofile()
        if trace is not None:
            sys.settrace(trace)
        if profile is not None:
            sys.setprofile(profile)
        threading.current_thread().name = name
        run()

    _start_new_thread(begin, ())


def renew_loops() -> None:
    """In a process that was forked from one with an application: the event loops of gevent and eventlet that
    it has inherited use their parent's epoll, until they are told to begin anew, as gevent's os.fork does."""
    gevent = sys.modules.get("gevent")
    if gevent is not None:
        gevent.reinit()
    hubs = sys.modules.get("eventlet.hubs")
    if hubs is not None and hasattr(hubs._threadlocal, "hub"):
        hubs.use_hub()


def _replacer() -> str:
    """The package that replaced any of these before this module was imported; "" for none."""
    for function in (
        Lock, get_ident, _start_new_thread, os.fork, os.close, os.read, os.write, os.waitpid, select.select,
        time.sleep,
    ):  # fmt: skip
        if type(function) is not BuiltinFunctionType:
            return _package(function)
    for kept, home in ((socket.socket, "socket"), (signal.signal, "signal")):
        if kept.__module__ != home:
            return _package(kept)
    return "" if hasattr(select, "epoll") and hasattr(select, "poll") else "something"


def threads_are() -> str:
    """The package that has made greenlets of the threads of `threading` by now; "" for none."""
    for name in ("_start_joinable_thread", "_start_new_thread"):  # the first from Python 3.13 on
        start = getattr(threading, name, None)
        if start is not None and type(start) is not BuiltinFunctionType:
            return _package(start)
    return ""


def _package(thing: object) -> str:
    return thing.__module__.partition(".")[0]


if replacer := _replacer():
    # At once: where sockets, say, are another class by now, the rest of forkd cannot even be imported.
    print(
        f"forkd: {replacer} has patched this interpreter before forkd was imported (in a sitecustomize, "
        "a .pth file, by python -m gevent.monkey?), and no model can serve without the system's threads, "
        "locks and epoll; patch in the application, at its import or later",
        file=sys.stderr,
    )
    raise SystemExit(2)
