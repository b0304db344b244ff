"""The controlling terminal of this process's session (termios(3), setsid(2)).

Job control would stop a process in the background that reads from its terminal, or writes there under
`stty tostop`: the kernel sends TTIN or TTOU to its group, and lets the call begin anew when a handler
has returned, for ever. A process that has no controlling terminal reads and writes like any other. It
stays in its group, and so what is typed (Ctrl-C, Ctrl-Z) and a new size of the window are signalled to it
as before. Ignoring the two signals would do, too, but programs that the application executes would
inherit that.
"""

from __future__ import annotations

import fcntl
import termios

from forkd.system.originals import os

_TERMINAL = "/dev/tty"  # the controlling one, whichever that is (tty(4))


def leave() -> None:
    """Have no controlling terminal any more, if there is one. The leader of a session keeps it: it would be
    hung up for all others. In the background standard input becomes /dev/null, as with a shell that has no
    job control: what is typed is meant for others."""
    if os.getsid(0) == os.getpid():
        return
    try:
        fd = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # ENXIO: there is none
    try:
        if os.isatty(0) and os.tcgetpgrp(fd) != os.getpgrp():
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
        fcntl.ioctl(fd, termios.TIOCNOTTY)
    except OSError:
        pass  # it has been hung up meanwhile
    finally:
        os.close(fd)


def signals_us() -> bool:
    """Whether there is a terminal that may signal this process: its own, or that of its session's leader."""
    return any(map(_number_of, (os.getpid(), os.getsid(0))))


def _number_of(pid: int) -> int:
    """The device number of the terminal of `pid` (proc(5), stat, tty_nr); 0 where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[4])
    except (OSError, IndexError, ValueError):
        return 0
