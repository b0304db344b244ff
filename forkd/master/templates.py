"""The master's templates: made when a generation with `preload` needs a child, asked for children, and
ended when it needs no more. What a template does itself is in worker/template.py. In the master.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import NoReturn

from forkd.errors import StartError
from forkd.ipc.heritage import TemplateHeritage
from forkd.log.lines import Log
from forkd.master.lateness import FROM_OUTSIDE, LAST_WORDS_SECONDS, killed_at_boot, not_booted
from forkd.master.signalling import send
from forkd.system import fd_passing, process
from forkd.system.loop import Loop
from forkd.system.signal_sockets import SignalSockets
from forkd.system.signals import STACKS
from forkd.worker.main import SENT
from forkd.worker.template import MAX_MESSAGE_BYTES, main

#: A template that has loaded the application only waits; it forks in a millisecond or so. One that
#: does not answer for that long, seconds, is stopped or starved by threads of the application.
_ANSWER_SECONDS = 2.0
#: For those that were killed to be gone when the master ends.
_END_SECONDS = 1.0
#: Instead of an answer, where no process is left to give one.
_ENDED = b'"nothing: it has ended"'

#: (pid, pidfd) of a child with that slot and number; it gets these descriptors.
Fork = Callable[[int, int, list[int]], tuple[int, int]]


class _Template:
    def __init__(self, heritage: TemplateHeritage, log: Log) -> None:
        """Raises OSError."""
        self._log = log
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ready = False
        self.error = ""
        self.stacks = -1
        self.sockets = listening = SignalSockets({})

        def template_main() -> NoReturn:
            self._sock.close()
            self.sockets.close()
            main(heritage, theirs, self.stacks, listening)

        try:
            self.stacks = process.make_memfd("forkd-stacks-template")
            self.sockets, listening = SignalSockets.pair(SENT)
            self.pid, self.pidfd = process.fork(template_main)
        except OSError:
            self._sock.close()
            self.sockets.close()
            if self.stacks >= 0:
                os.close(self.stacks)
            raise
        finally:
            theirs.close()
            listening.close()

    def __str__(self) -> str:
        return f"the template (pid {self.pid})"

    def fileno(self) -> int:
        return self._sock.fileno()

    def hear(self) -> None:
        """Its one message: the application is loaded, or why it cannot be. EOF is no news: the pidfd
        tells."""
        try:
            data = self._sock.recv(MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except OSError:
            return
        if data:
            self.error = json.loads(data)["error"]
            self.ready = not self.error

    def fork(self, slot: int, number: int, fds: list[int]) -> tuple[int, int]:
        """Have a child forked. Raises OSError."""
        self._sock.settimeout(_ANSWER_SECONDS)
        try:
            fd_passing.send(self._sock, json.dumps([slot, number]).encode(), fds)
            found = json.loads(self._sock.recv(MAX_MESSAGE_BYTES) or _ENDED)
            if type(found) is list and len(found) == 1 and type(found[0]) is int:
                raise OSError(found[0], os.strerror(found[0]))  # its fork(2) has failed
        except TimeoutError:
            for pid in process.children(self.pid):  # which may hang in a hook of the application's at forks
                process.end_child_of(pid, self.pid)
            send(self._log, self, signal.SIGKILL)
            why = f"{self} does not answer; killed"
            raise OSError(errno.ETIMEDOUT, why) from None
        except (ConnectionResetError, BrokenPipeError):  # before it has read what we asked
            found = json.loads(_ENDED)
        except ValueError:
            found = "nonsense"
        if type(found) is not int or not process.is_child(found):
            # The application has run there: what it says may be wrong, and a pid a stranger's.
            raise OSError(errno.EPROTO, f"{self} says {found!r}")
        return found, process.open_pidfd(found)  # ours to reap, so the pid is still its own

    def relisten(self, number: int) -> None:
        """Have it give its children the listening socket that the master has by that number now."""
        try:
            self._sock.setblocking(False)
            fd_passing.send(self._sock, json.dumps(number).encode(), [number])
        except OSError:
            pass  # it has ended, or does not answer, as the next fork will find out

    def close(self) -> None:
        self._sock.close()
        os.close(self.pidfd)
        os.close(self.stacks)
        self.sockets.close()


class Templates:
    """The templates of the generations that may still fork."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        failed: Callable[[int, str], None],
        killed: Callable[[int, str], None],
    ) -> None:
        """`failed` is told the number of a generation whose application cannot be loaded, and why;
        `killed` of one whose template was killed from outside while it loaded that."""
        self._loop = loop
        self._log = log
        self._failed = failed
        self._killed = killed
        self._by_number: dict[int, _Template] = {}
        #: Not gone yet: one may wait for a disk, which no signal ends.
        self._killed_by_us: list[_Template] = []

    def get(self, heritage: TemplateHeritage) -> Fork | None:
        """How to fork a child of that generation; None while its template loads the application.
        Raises StartError."""
        number = heritage.generation
        template = self._by_number.get(number)
        if template is None:
            try:
                process.become_subreaper()
                template = self._by_number[number] = _Template(heritage, self._log)
            except OSError as error:
                raise StartError(process.why_no_fork(error)) from error
            made = template
            seconds = heritage.config.boot_timeout
            if seconds:
                late = partial(self._late, number, made, seconds)
                self._loop.timers.set(f"boot {made.pid}", monotonic() + seconds, late)
            self._loop.watch(made.pidfd, lambda: self._ended(number, made))
            self._loop.watch(made.fileno(), lambda: self._hear(made))
        return template.fork if template.ready else None

    def relisten(self, number: int) -> None:
        """Another listening socket has this descriptor now."""
        for template in self._by_number.values():
            template.relisten(number)

    def keep(self, numbers: set[int]) -> None:
        """End the templates of other generations: they have all the children that they will have."""
        for number in set(self._by_number) - numbers:
            self._kill(number)

    def end(self) -> None:
        """Kill all, and wait for their end, but not for long."""
        self.keep(set())
        ends = monotonic() + _END_SECONDS
        for template in list(self._killed_by_us):
            if select.select([template.pidfd], [], [], max(0.0, ends - monotonic()))[0]:
                self._collect(template)

    def pids(self) -> list[int]:
        return [template.pid for template in self._all()]

    def forget(self) -> None:
        """In a child."""
        for template in self._all():
            template.close()

    def _all(self) -> list[_Template]:
        return [*self._by_number.values(), *self._killed_by_us]

    def _kill(self, number: int) -> None:
        """It forks none any more from here on, whenever it is gone."""
        template = self._by_number.pop(number)
        self._loop.unwatch(template.fileno())
        self._loop.timers.cancel(f"boot {template.pid}")
        send(self._log, template, signal.SIGKILL)
        self._killed_by_us.append(template)
        self._loop.watch(template.pidfd, partial(self._gone, template))

    def _gone(self, template: _Template) -> None:
        self._collect(template)

    def _collect(self, template: _Template) -> int:
        """One that has ended. Returns its exit code, or minus the signal."""
        if template in self._killed_by_us:
            self._killed_by_us.remove(template)
        self._loop.unwatch(template.pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(template.pid, 0)[1])
        template.close()
        return code

    def _hear(self, template: _Template) -> None:
        self._loop.unwatch(template.fileno())  # what follows is read by `fork`
        template.hear()

    def _late(self, number: int, template: _Template, seconds: float) -> None:
        """It loads the application for too long: ask for its stacks, then end it."""
        if self._by_number.get(number) is not template or template.ready:
            return
        send(self._log, template, STACKS)
        end = partial(self._end_boot, number, template, seconds)
        self._loop.timers.set(f"boot {template.pid}", monotonic() + LAST_WORDS_SECONDS, end)

    def _end_boot(self, number: int, template: _Template, seconds: float) -> None:
        if self._by_number.get(number) is not template or template.ready:
            return
        stacks = os.pread(template.stacks, 1 << 16, 0).decode("utf-8", "replace").strip()
        fault = not_booted(str(template), seconds)
        where = stacks or process.state(template.pid)
        self._kill(number)
        self._failed(number, f"{fault}; it was here:\n{where}")

    def _ended(self, number: int, template: _Template) -> None:
        del self._by_number[number]
        self._loop.unwatch(template.fileno())
        template.hear()
        self._loop.timers.cancel(f"boot {template.pid}")
        ready, error, code = template.ready, template.error, self._collect(template)
        if error:
            self._failed(number, error)
        elif not ready and -code in FROM_OUTSIDE:
            self._killed(number, killed_at_boot(str(template), -code))
        elif not ready:
            how = process.how_ended(code)
            self._failed(
                number,
                f"the template ended {how} while it loaded the application; what it has printed is in the "
                "error log",
            )
        elif -code != signal.SIGKILL:
            self._log.warning(f"{template} is gone; the next child needs a new one")
