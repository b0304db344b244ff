"""Symbolic links in the place of a log file: those to a stream that forkd was started with, and those that
are followed.

Container images and operators make them (access.log -> /dev/stdout). But a user who can make a link where
root writes has root write to any file. So a link is followed to a device, a pipe or a terminal alone, and
only where no other user could have made it.
"""

from __future__ import annotations

import contextlib
import errno
import re
import stat

from forkd.system import writers
from forkd.system.originals import os, select

_STREAM = re.compile(r"/(?:dev|proc/(?:self|thread-self|(?P<pid>[0-9]+)))/fd/(?P<fd>[012])")
_NAMED = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_MAX_LINKS = 40  # as in path_resolution(7)
_LOOK_SECONDS = 1.0  # that a disk may take


def stream(path: str) -> int | None:
    """Descriptor 0, 1 or 2, if the path leads to that of this process by its name, as /dev/stdout does. In
    another process, such as the logger, the same name is another file."""
    own = os.getpid()
    found = _named(path, own)
    return _ask(path, own) if found is None else found


def _named(path: str, own: int) -> int | None:
    if path in _NAMED:
        return _NAMED[path]
    found = _STREAM.fullmatch(path)
    return int(found["fd"]) if found is not None and found["pid"] in (None, str(own)) else None


def _ask(path: str, own: int) -> int | None:
    """The descriptor that the links lead to, found by a process of its own: a look at a dead disk never
    returns, and no signal ends it. None where they lead elsewhere, or where there is no answer in time."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            # A reader of an inherited pipe must not wait for the disk to see the pipe's end.
            os.closerange(0, write)
            os.closerange(write + 1, 1024)
            for _ in range(_MAX_LINKS):
                path = _target(path)
                found = _named(path, own)
                if found is not None:
                    os.write(write, b"%d" % found)
                    break
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        if not select.select([pipe], [], [], _LOOK_SECONDS)[0]:
            return None
        answer = pipe.read()
    with contextlib.suppress(ChildProcessError):  # the master has reaped it with the orphans
        os.waitpid(pid, 0)
    return int(answer) if answer else None


def open_target(path: str, flags: int) -> int:
    """Open what the link leads to. Raises OSError, with ELOOP and the reason if it is not followed."""
    step = path
    for _ in range(_MAX_LINKS):
        try:
            target = _target(step)
        except OSError:
            break
        if writers.of_link(step) is not None:
            raise OSError(errno.ELOOP, "a symbolic link that others could have made is not followed")
        step = target
    try:
        fd = os.open(path, flags & ~(os.O_NOFOLLOW | os.O_CREAT))
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    except FileNotFoundError:
        pass
    raise OSError(errno.ELOOP, "a symbolic link to a file is not followed; name the file itself")


def _target(path: str) -> str:
    """The path that a link leads to. Raises OSError for anything else."""
    return os.path.join(os.path.dirname(path), os.readlink(path))
