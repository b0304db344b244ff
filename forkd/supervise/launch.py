"""Starting: in the foreground, or detached with the result reported to the command that asked.

`forkd start` detaches and returns only once the service answers or has failed. The command forks;
the new process detaches (python-daemon's part) and becomes the master. Over a socketpair it says, in
lines of JSON, what takes long, and in the last one that it serves, or the error; its end without such a
line means that the master died. Before that, the end of the command's side means that nobody waits any
more (Ctrl-C): the master ends.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from daemon.daemon import DaemonProcessDetachError, detach_process_context

from forkd.address import Address
from forkd.config import Config
from forkd.errors import AlreadyRunning, ForkdError, StartError, SystemCallError
from forkd.log import Log
from forkd.logger.destinations import Standard, capture
from forkd.metrics.access import Access
from forkd.models import registry
from forkd.output import complain, say
from forkd.sources import Sources, is_ours
from forkd.supervise import advice
from forkd.supervise.foreground import stand_in
from forkd.supervise.generation import enter_directory, permissions_of
from forkd.supervise.handover import Inheritance
from forkd.supervise.manager import Manager, manager_of, passed
from forkd.supervise.needs import with_need
from forkd.supervise.pidfile import Pidfile, make_directory, require_ours
from forkd.system import process, terminal
from forkd.system.sockets import Listener
from forkd.title import set_title


@dataclass
class Launch:
    """How this master was started, and whom to tell."""

    config: Config
    binds: tuple[Address, ...]
    activated: tuple[Address, ...]
    waiter: int | None = None  # socket to the command that waits; None in the foreground
    error_log: str | None = None  # path that descriptors 1 and 2 go to; None: as inherited
    pidfile: Pidfile | None = field(default=None)
    inheritance: Inheritance | None = None  # from the master that this one replaces
    manager: Manager = field(default_factory=Manager)  # that started this process, to be told
    stored: list[Listener] = field(default_factory=list)  # from before, which it has kept
    standard: Standard | None = None  # what descriptors 1 and 2 lead to
    warnings: list[str] = field(default_factory=list)  # for the log, when there is one
    _pidfd: int | None = None  # of this process; see `first`
    terminal: int | None = None  # the stderr of a start in the foreground, if `error_log` has taken its place
    _told: bool = False  # whoever waits knows how the start has ended
    _no_pidfile: str = ""  # why there is none, as it was said

    def binds_of(self, config: Config) -> tuple[Address, ...]:
        """The addresses of `config`; sockets from a service manager replace the default."""
        if self.activated and config.bind == Config().bind:
            return self.activated
        return config.bind

    @property
    def stays(self) -> bool:
        """Whether this process must not end before the service does, though another is its master:
        in the foreground of somebody who would not know of that one."""
        told = self.manager.path and os.getpid() != 1
        return self.config.foreground and self.inheritance is None and not told

    @property
    def first(self) -> int | None:
        """A pidfd of the process that stays in the foreground: this one, or the one that it was handed."""
        if self.inheritance is not None:
            return self.inheritance.first
        if self.stays and self._pidfd is None:
            self._pidfd = os.pidfd_open(os.getpid())
        return self._pidfd

    def ready(self, lines: list[str], sync: Callable[[Callable[[], None]], None]) -> None:
        """The service answers, which `lines` tell; `sync` calls when they are in the log, where whoever waits
        may look at once."""
        self._told = True
        self.leave_terminal()
        sync(lambda: self._tell({"ok": True, "text": "\n".join(lines)}))

    def takes_long(self, text: str) -> None:
        """Tell whoever waits what for."""
        if self.waiter is not None:
            self._send({"text": f"{text}; Ctrl-C ends this start"})

    def name_us(self) -> None:
        """In the pid file, which may name the master before. Raises SystemCallError."""
        if self.pidfile is not None:
            self.pidfile.write()

    def failed(self, error: str, into_log: bool = True) -> None:
        """It will not: the reason goes to whoever waits, and into the log where operators look for it. Not
        that of a new master, for the one before it tells, nor into the log of a daemon that runs."""
        self._told = True
        error = with_need(error, self.config)
        logs_to_file = self.error_log is not None and self.standard is not None
        if logs_to_file and self.inheritance is None and into_log:
            Log("error", self.config.log_format, "master").error(f"the service did not start: {error}")
        if self.terminal is not None:
            with suppress(OSError):
                os.write(self.terminal, f"forkd: {error}\n".encode("utf-8", "backslashreplace"))
        elif self.waiter is None:
            complain(f"forkd: {error}")
        if self.standard is not None:
            self.standard.spill()
        self._tell({"ok": False, "text": error})

    def stopped(self) -> None:
        """It has ended: if before it answered, a command that waits should know why."""
        if not self._told:
            self._tell({"ok": False, "text": "stopped before the service answered"})

    def keep_pidfile(self, log: Log) -> bool:
        """Make the pid file again if it was removed or replaced. Without it no verb finds the daemon, and
        another one of its name starts. Returns whether it was made again."""
        if self.pidfile is None:
            return False
        try:
            restored = self.pidfile.restore()
        except ForkdError as error:
            why = f"the pid file was removed or replaced, and cannot be made again: {error}"
            if why != self._no_pidfile:
                log.error(why)
            self._no_pidfile = why
            return False
        if restored:
            log.warning(f"pid file {self.pidfile.path}: it had been removed or replaced; made again")
        self._no_pidfile = ""
        return restored

    def _tell(self, answer: dict[str, Any]) -> None:
        if self.waiter is not None:
            self._send(answer)
            if answer["ok"]:
                # Else it is closed by the end of this process, for which the command waits.
                os.close(self.waiter)
                self.waiter = None
        if self.inheritance is not None:
            self.inheritance.link.send(answer)

    def _send(self, word: dict[str, Any]) -> None:
        assert self.waiter is not None
        with suppress(OSError):  # the command has gone
            os.write(self.waiter, json.dumps(word).encode() + b"\n")

    def leave_terminal(self) -> None:
        if self.terminal is not None:
            os.close(self.terminal)
            self.terminal = None

    def forget(self) -> None:
        """In a child."""
        self.leave_terminal()
        if self.pidfile is not None:
            os.close(self.pidfile.fd)
        if self.waiter is not None:
            os.close(self.waiter)
        if self._pidfd is not None:
            os.close(self._pidfd)
        if self.inheritance is not None:
            self.inheritance.link.close()
            if self.inheritance.first is not None:
                os.close(self.inheritance.first)


def start(sources: Sources, config: Config) -> int:
    """`forkd start`: run the master, or have one run. Returns the exit code of the command."""
    units, stored = passed(os.environ, config.backlog)
    activated = tuple(units)
    launch = Launch(config, (), activated, manager=manager_of(os.environ), stored=stored)
    launch.binds = launch.binds_of(config)
    launch.warnings = advice.warnings(sources, config)
    launch.error_log = error_log_of(config)
    for path in (config.pidfile, config.control, launch.error_log or ""):
        require_ours(os.path.dirname(path))  # before the log is opened there
    if config.foreground:
        if launch.error_log is not None:
            launch.terminal = os.dup(2)
        return _serve(sources, launch)
    for text in launch.warnings:
        complain(f"forkd: warning: {text}")
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        with process.naming("socketpair"):
            ours, theirs = socket.socketpair()
        pid = os.fork()
    except OSError as error:
        raise StartError(with_need(process.why_no_fork(error), config)) from error
    if pid == 0:
        ours.close()
        launch.waiter = theirs.detach()
        _detached(sources, launch)
    theirs.close()
    with ours:
        return _await(ours)


def require(config: Config) -> None:
    """What a start needs besides what the running daemon holds, and the application. Raises ForkdError."""
    error_log_of(config)
    enter_directory(config)
    process.identity(config.user, config.group)
    permissions_of(config)
    Access.of(config)


def error_log_of(config: Config) -> str | None:
    """The file that descriptors 1 and 2 lead to; None: as they are. Raises StartError."""
    if config.foreground:
        return None if config.error_log == "-" else config.error_log
    if config.error_log == "-":
        raise StartError(
            "error-log: a detached daemon has no stderr; name a file, or use --foreground"
        )
    return config.default_error_log if config.error_log is None else config.error_log


def take_over(heir: Inheritance) -> int:
    """In the program that an upgrade executed: already detached, if the old one was."""
    launch: Launch | None = None
    try:
        config = heir.sources.load(registry.RULES)
        launch = Launch(config, (), heir.activated, inheritance=heir, manager=heir.manager)
        launch.binds = launch.binds_of(config)
        default = None if config.foreground else config.default_error_log
        path = config.error_log or default
        launch.error_log = None if path == "-" else path
        return _serve(heir.sources, launch)
    except ForkdError as error:
        heir.link.send({"ok": False, "text": str(error)})
        return error.exit_code
    except BaseException:
        crash = f"the new master crashed; this is a bug in forkd\n{traceback.format_exc().rstrip()}"
        heir.link.send({"ok": False, "text": crash})
        raise


def _await(daemon: socket.socket) -> int:
    """In the command: wait for the daemon's last word, and until it serves or has gone. Returns the exit
    code."""
    answer: dict[str, Any] | None = None
    interrupted = False
    with daemon.makefile("rb") as words:
        while True:
            try:
                for line in words:
                    word = json.loads(line)
                    if "ok" in word:
                        answer = word
                    else:
                        complain(f"forkd: {word['text']}")
                break
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                daemon.shutdown(socket.SHUT_WR)  # it hears that nobody waits, and ends
    os.wait()  # the process that detached; the daemon itself is init's
    if answer is not None and answer["ok"]:
        say(answer["text"], done="the service runs")
        return 0
    if interrupted:
        complain("forkd: interrupted; what this start had begun has ended")
        return 130
    text = "the daemon ended before it could say why; see the error log" if answer is None else answer["text"]
    complain(f"forkd: {text}")
    return 1


def _detached(sources: Sources, launch: Launch) -> NoReturn:
    """In the forked process: detach, serve, exit. Never returns to the command's code."""
    code = 1
    try:
        assert launch.waiter is not None
        mine = (*launch.binds, launch.config.admin, launch.config.health)
        keep = [launch.waiter, *(x.fd for x in mine if x is not None and x.kind == "fd")]
        launch.standard = standard = capture(launch.error_log)
        _make_directories(launch)
        # Only detaching is python-daemon's part: descriptors, signals, privileges, the pid file are forkd's.
        # Its DaemonContext closes each number up to the limit of open files, which may be 2 ** 30.
        detach_process_context()
        process.close_all_but({0, 1, 2, *keep, *standard.pipes.values(), *_descriptors(launch.stored)})
        _read_nothing()
        code = _serve(sources, launch)
    except ForkdError as error:
        launch.failed(str(error))
    except DaemonProcessDetachError as error:
        cause = error.__cause__
        launch.failed(process.why_no_fork(cause) if isinstance(cause, OSError) else str(error))
    except SystemExit as leaving:
        # The intermediate processes of detaching end here too, by os._exit inside python-daemon.
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException as error:
        denied = isinstance(error, OSError) and process.is_denied(error)
        crash = f"the master crashed; this is a bug in forkd\n{traceback.format_exc().rstrip()}"
        launch.failed(_denied(error) if denied else crash)
    os._exit(code)


def _read_nothing() -> None:
    """Have no standard input: it is the command's. Raises SystemCallError."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
    except OSError as error:
        raise SystemCallError("open", os.devnull, error) from error
    os.dup2(null, 0)
    os.close(null)


def _serve(sources: Sources, launch: Launch) -> int:
    """In the process that is to be the master."""
    from forkd.supervise.master import Master

    config = launch.config
    terminal.leave()
    try:
        if launch.standard is None:
            launch.standard = capture(launch.error_log)
        _make_directories(launch)
        set_title("master", config.name)
        if config.umask is not None:
            os.umask(config.umask)
        for name in filter(is_ours, list(os.environ)):
            del os.environ[name]  # they are in `sources`; the application has no use for them
        process.raise_descriptor_limit()
        process.require_signals()
        launch.pidfile = (
            Pidfile(config.pidfile, launch.inheritance.pidfile)
            if launch.inheritance is not None
            else Pidfile.acquire(config.pidfile)
        )
        os.set_inheritable(launch.pidfile.fd, False)
        try:
            master = Master(sources, config, launch)
            code = master.run()
        finally:
            launch.pidfile.remove()
        if master.service.handed_over and launch.stays:
            return stand_in(config.name, config.pidfile, config.control, master.parts.signals)
        return code
    except ForkdError as error:
        launch.failed(str(error), into_log=not isinstance(error, AlreadyRunning))
        return error.exit_code
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            launch.failed(str(error.strerror))
        elif process.is_denied(error):
            launch.failed(_denied(error))
        else:
            raise
        return 1


def _denied(error: BaseException) -> str:
    """What to say of a system call that this process may not make at all."""
    assert isinstance(error, OSError)
    if isinstance(error, process.CallError):
        return process.why_no_fork(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    name = errno.errorcode[error.errno or 0]
    where = f"{frame.filename}:{frame.lineno}"
    return f"{frame.line} ({where}): {name}: {error.strerror}{process.ALLOW_IT}"


def _descriptors(listeners: list[Listener]) -> list[int]:
    return [sock.fileno() for listener in listeners for sock in listener.sockets]


def _make_directories(launch: Launch) -> None:
    """The default directory of the pid file and the control socket."""
    for path in (launch.config.pidfile, launch.config.control):
        make_directory(os.path.dirname(path))
