"""How a master was started, whom it tells of that, and its main function. In the master; begun by the command
(command/start.py), or by the master before it, in an upgrade.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from forkd.config import Config
from forkd.errors import ForkdError
from forkd.ipc.handover import Inheritance
from forkd.ipc.manager import Manager
from forkd.ipc.pidfile import Pidfile, make_directory
from forkd.log.lines import Log
from forkd.logger.destinations import Standard
from forkd.master.needs import with_need
from forkd.system.address import Address
from forkd.system.output import complain
from forkd.system.sockets import Listener


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
    stored_tables: dict[str, int] = field(default_factory=dict)  # likewise: memfds of storage, by name
    standard: Standard | None = None  # what descriptors 1 and 2 lead to
    warnings: list[str] = field(default_factory=list)  # for the log, when there is one
    _pidfd: int | None = None  # of this process; see `first`
    terminal: int | None = None  # the stderr of a start in the foreground, if `error_log` has taken its place
    #: Names of inherited listeners that this service has no more.
    dropped: list[str] = field(default_factory=list)
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

    def make_directories(self) -> None:
        """The default directory of the pid file and the control socket."""
        for path in (self.config.pidfile, self.config.control):
            make_directory(os.path.dirname(path))

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
            self.inheritance.link.send({**answer, "dropped": self.dropped})

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
