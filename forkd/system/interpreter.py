"""The import path of this interpreter, and of another one that forkd executes, which trusts no more.

Python puts a directory in front of `sys.path` by itself: the current one with `-m` and `-c`, the
script's otherwise (python(1), -P). The application's user may often write there, and forkd's own process
is root's. So the directory goes before forkd imports anything that it does not need yet, and a program
that forkd executes gets `-P`. The application's directory comes back in `app/loader.py`, in a process
that has given the rights up.

What forkd itself requires is taken out of `sys.modules` there, before any foreign code is imported: so the
application finds what it would find without forkd. It gets its own `prometheus_client`, after what it has set
for that (PROMETHEUS_MULTIPROC_DIR), and its own `daemon.py`. The master's stay where they are.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from types import ModuleType

import forkd

#: What was taken out: forkd's own code goes on using it, and modules in C need not bear to be deallocated.
_set_aside: list[ModuleType] = []

_path: list[str] = []  # `sys.path` as it was given, where it is in another order meanwhile

#: What was started: a script, a bundle, or with -m the module's file. The directory changes later.
_STARTED = os.path.abspath(sys.argv[0]) if sys.argv and sys.argv[0] else ""
#: Whether that is a zip archive that Python runs (zipapp, shiv, PEX), which is on `sys.path` then: no other
#: interpreter finds what is in it by the name of a module.
_IN_BUNDLE = os.path.isfile(_STARTED) and _STARTED in map(os.path.abspath, sys.path)


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """Around imports: what they make stays, and the collector goes over all of it many times, which takes an
    eighth of the time of a start."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def leave_start_directory() -> None:
    """Take out of `sys.path` what Python has put there for `-c`, or for the script that is running."""
    if sys.flags.safe_path or not sys.path or not sys.argv:
        return
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    if sys.path[0] in ("", script):
        del sys.path[0]


def look_in_pythonpath_last() -> None:
    """Put PYTHONPATH last until foreign code is imported: a directory there may be the application's, whose
    `daemon.py` is not the package that forkd requires."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if sys.flags.ignore_environment or not any(named):
        return
    directories = {os.path.abspath(path) for path in named}
    _path[:] = sys.path
    sys.path.sort(key=lambda path: os.path.abspath(path) in directories)


def command(verb: str, *arguments: str) -> list[str]:
    """A forkd in a new interpreter that imports from nowhere, and heeds no variable, that this one did
    not: `-P`, and of `-I`, `-E` and `-s` those that this one was given. Where forkd is in a bundle, from that
    file, as it is by now."""
    flags = sys.flags
    given = {"-I": flags.isolated, "-E": flags.ignore_environment, "-s": flags.no_user_site}
    kept = [flag for flag, on in given.items() if on]
    program = [_STARTED] if _IN_BUNDLE else ["-m", "forkd"]
    return [sys.executable, "-P", *kept, *program, verb, *arguments]


def set_requirements_aside() -> None:
    """Take out of `sys.modules` what forkd has imported besides itself and the standard library, and have
    `sys.path` in its order again. In each process that is to import foreign code, or was forked from one that
    has: then it is done already."""
    if _set_aside:
        return
    if sorted(_path) == sorted(sys.path):
        sys.path[:] = _path
    main = sys.modules["__main__"]  # which multiprocessing gives a second name
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        if top == "forkd" or top in sys.stdlib_module_names or top in forkd.STARTED_WITH or module is main:
            continue
        _set_aside.append(sys.modules.pop(name))
