"""With a controlling terminal: what the kernel sends for it is no order, and job control stops nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Daemon, alive, until

#: What a shell does: it leads the session of a terminal, and gives the command a process group, in the
#: foreground or not. As "leader" it becomes the command, as in `docker run -t`.
SHELL = """
import os, signal, sys
path, where, *command = sys.argv[1:]
terminal = os.open(path, os.O_RDWR)  # the first of a new session is its controlling one
for fd in range(3):
    os.dup2(terminal, fd)
if where == "leader":
    os.execv(command[0], command)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # tcsetpgrp, and what a background process may not do
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    if where.startswith("foreground"):
        os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(command[0], command)
if where != "foreground, with its shell":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

APP = """
    import os, subprocess, sys

    VERSION = "v1"
    STATUS = "for line in open('/proc/self/status'):\\n if line.startswith(('SigIgn', 'SigBlk')): print(line)"

    def app(environ, start):
        path = environ["PATH_INFO"]
        if path == "/stdin":
            body = repr(sys.stdin.readline()).encode()
        elif path == "/print":
            print("printed on the terminal", flush=True)
            body = b"printed"
        elif path == "/subprocess":
            body = subprocess.check_output([sys.executable, "-c", STATUS])
        elif path == "/spawn":
            read, write = os.pipe()
            actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
            command = [sys.executable, "-c", STATUS]
            pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
            os.close(write)
            with open(read, "rb") as pipe:
                body = pipe.read()
            os.waitpid(pid, 0)
        else:
            body = VERSION.encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""


class Terminal:
    """A terminal that shows what is written there in the service's log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.master, self.slave = pty.openpty()
        self._reader = threading.Thread(target=self._show)
        self._reader.start()

    def _show(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            with open(self._log, "ab") as log:
                log.write(data.replace(b"\r\n", b"\n"))

    def stop_writers_in_the_background(self) -> None:
        """`stty tostop`"""
        modes = termios.tcgetattr(self.slave)
        modes[3] |= termios.TOSTOP
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)

    def resize(self, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def hang_up(self) -> None:
        """The window is closed."""
        fd, self.master = self.master, -1
        self._wake()
        os.close(fd)

    def _wake(self) -> None:
        """The reader's read(2) holds the terminal open until it has something to read."""
        with contextlib.suppress(OSError):
            os.write(self.slave, b"\n")
        os.close(self.slave)
        self.slave = -1
        self._reader.join(10)

    def close(self) -> None:
        for fd in (self.slave, self.master):
            if fd >= 0:
                os.close(fd)
        self._reader.join(10)


@pytest.fixture
def terminal(service: Daemon) -> Iterator[Terminal]:
    service.write_app(APP)
    made = Terminal(service.error_log)
    yield made
    with contextlib.suppress(Exception):
        service.signal(signal.SIGTERM)
    service.gone(30)
    made.close()


def start(service: Daemon, terminal: Terminal, where: str, *flags: str) -> None:
    service.under = [sys.executable, "-c", SHELL, os.ttyname(terminal.slave), where]
    service.start_in_foreground(*flags, start_new_session=True)


NATIVE = pytest.mark.parametrize("flags", [[], ["--no-native"]], ids=["native", "python"])


@pytest.mark.parametrize("where", ["foreground", "background", "leader"])
@NATIVE
def test_a_resize_is_no_order(
    service: Daemon, terminal: Terminal, where: str, flags: list[str]
) -> None:
    start(service, terminal, where, *flags)
    before = service.worker_pids()
    for rows in (30, 40, 50):
        terminal.resize(rows)
    service.ok("scale", "+1")  # from two, and not from none
    until(lambda: len(service.workers()) == 3, "one more")
    assert set(before) < set(service.worker_pids())
    assert "scaling to 0" not in service.log()


@pytest.mark.parametrize("where", ["foreground", "leader"])
def test_what_a_process_sends_is_one(service: Daemon, terminal: Terminal, where: str) -> None:
    start(service, terminal, where)
    service.signal(signal.SIGTTIN)
    until(lambda: len(service.workers()) == 3, "one more")
    service.signal(signal.SIGTTOU)
    until(lambda: len(service.live()["workers"]) == 2, "one fewer")
    service.signal(signal.SIGWINCH)
    until(lambda: not service.live()["workers"], "none")
    service.signal(signal.SIGHUP)
    until(lambda: len(service.workers()) == 2, "all")
    until(lambda: service.live()["master"]["generation"] == 2, "of a new generation")


def test_without_native_code_nobody_can_tell(service: Daemon, terminal: Terminal) -> None:
    start(service, terminal, "foreground", "--no-native")
    for number in (signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU):
        service.signal(number)
    service.ok("scale", "+1")
    until(lambda: len(service.workers()) == 3, "one more")
    assert "scaling to 3" in service.log() and service.log().count("scaling to") == 1


@NATIVE
def test_in_the_background_it_writes_to_a_terminal_that_stops_writers(
    service: Daemon, terminal: Terminal, flags: list[str]
) -> None:
    terminal.stop_writers_in_the_background()
    start(service, terminal, "background", *flags)
    assert service.get("/print") == "printed"
    until(lambda: "printed on the terminal" in service.log(), "what a worker prints")
    service.write_app(APP, version="v2")
    service.ok("reload")
    until(lambda: "generation 2 serves" in service.log(), "what the master logs")
    assert len(service.workers()) == 2 and service.get() == "v2"
    service.signal(signal.SIGTERM)
    service.gone()


@NATIVE
def test_in_the_background_an_application_reads_nothing_from_it(
    service: Daemon, terminal: Terminal, flags: list[str]
) -> None:
    start(service, terminal, "background", *flags)
    terminal.type(b"meant for the shell\n")
    assert service.get("/stdin") == "''"
    assert service.status()["master"]["pid"] == service.pid
    assert len(service.workers()) == 2
    assert "scaling" not in service.log()


def test_in_the_foreground_it_reads_what_is_typed(service: Daemon, terminal: Terminal) -> None:
    start(service, terminal, "foreground")
    terminal.type(b"continue\n")
    assert service.get("/stdin") == "'continue\\n'"


@pytest.mark.parametrize("where", ["foreground", "leader"])
def test_what_is_typed_is_an_order(service: Daemon, terminal: Terminal, where: str) -> None:
    start(service, terminal, where)
    pids = service.pids()
    terminal.type(b"\x03")
    until(lambda: not [pid for pid in pids if alive(pid)], "the end")
    assert service.foreground is not None and service.foreground.wait(10) == 0


@pytest.mark.parametrize("where", ["foreground, with its shell", "leader"])
def test_a_terminal_that_is_closed_is_no_order(
    service: Daemon, terminal: Terminal, where: str
) -> None:
    """The kernel sends HUP to the leader of the session; and when that ends, to the foreground."""
    start(service, terminal, where)
    before = service.worker_pids()
    terminal.hang_up()
    if where != "leader":
        assert service.foreground is not None
        assert service.foreground.wait(10) == -signal.SIGHUP
    assert service.ok("reload") == "generation 2 serves\n"
    until(lambda: not [pid for pid in before if alive(pid)], "the old workers gone")
    assert service.get() == "v1"


@pytest.mark.parametrize("where", ["foreground", "leader"])
def test_after_an_upgrade_it_is_the_same(service: Daemon, terminal: Terminal, where: str) -> None:
    start(service, terminal, where)
    old = service.worker_pids()
    service.ok("upgrade")
    until(lambda: not [pid for pid in old if alive(pid)], "the old workers gone")
    terminal.resize(30)
    service.ok("scale", "+1")
    until(lambda: len(service.workers()) == 3, "one more")
    assert service.foreground is not None
    service.signal(signal.SIGTTIN)
    until(lambda: len(service.workers()) == 4, "and one more")
    assert "scaling to 0" not in service.log()


@pytest.mark.parametrize("path", ["/subprocess", "/spawn"])
def test_programs_of_the_application_inherit_nothing_of_it(
    service: Daemon, terminal: Terminal, path: str
) -> None:
    start(service, terminal, "foreground")
    found = dict(line.split(":\t") for line in service.get(path).splitlines() if line)
    job_control = sum(
        1 << number - 1 for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGHUP)
    )
    assert int(found["SigIgn"], 16) & job_control == 0
    assert int(found["SigBlk"], 16) == 0
