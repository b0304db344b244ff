"""The template of a generation: `preload` (DESIGN: load once, fork often).

A process that the master forks for each generation. It becomes the configured user, imports the
application once, freezes the collector, and then forks the generation's children when the master asks
it to. So they share the application's memory, and a reload, which makes a new template, has new code.

Its children are forked twice: the process in between ends at once, and the kernel gives the child to
the nearest subreaper, which is the master (prctl(2), PR_SET_CHILD_SUBREAPER). So the master owns and
reaps them as any other, and stays free of the application's code and threads.

`Templates` and `_Template` run in the master; `main` and below in the template.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from forkd.app import loader
from forkd.errors import ForkdError, StartError
from forkd.log import Log
from forkd.supervise import worker
from forkd.supervise.generation import Generation
from forkd.supervise.messages import Channel
from forkd.system import process
from forkd.system.loop import Loop
from forkd.system.passing import receive
from forkd.system.scoreboard import Row
from forkd.system.standard import mend
from forkd.title import set_title

#: A template that has loaded the application only waits; it forks in a millisecond or so. One that
#: does not answer for that long, seconds, is stopped or starved by threads of the application.
_PATIENCE = 2.0
_MOST = 60_000  # bytes of a message

#: (pid, pidfd) of a child with that slot and number; it gets these descriptors.
Fork = Callable[[int, int, list[int]], tuple[int, int]]


@dataclass(frozen=True)
class Birth:
    """What the master gives a template on its way."""

    generation: Generation
    lanes: list[list[Row]]  # of the scoreboard, by slot
    identity: tuple[int, int, list[int]] | None
    admin: str | None
    master: int  # its pid
    forget: Callable[[], None]


# ---- in the master --------------------------------------------------------------------------


class _Template:
    def __init__(self, birth: Birth) -> None:
        """Raises OSError."""
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ready = False
        self.error = ""

        def template_main() -> NoReturn:
            self._sock.close()
            main(birth, theirs)

        try:
            self.pid, self.pidfd = process.fork(template_main)
        except OSError:
            self._sock.close()
            raise
        finally:
            theirs.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def hear(self) -> None:
        """Its one message: the application is loaded, or why it cannot be. EOF is no news: the pidfd
        tells."""
        try:
            data = self._sock.recv(_MOST, socket.MSG_DONTWAIT)
        except OSError:
            return
        if data:
            self.error = json.loads(data)["error"]
            self.ready = not self.error

    def fork(self, slot: int, number: int, fds: list[int]) -> tuple[int, int]:
        """Have a child forked. Raises OSError."""
        self._sock.settimeout(_PATIENCE)
        try:
            socket.send_fds(self._sock, [json.dumps([slot, number]).encode()], fds)
            answer = self._sock.recv(_MOST) or b'"nothing: it has ended"'
            found = json.loads(answer)
        except TimeoutError:
            process.send_signal(self.pidfd, signal.SIGKILL)
            why = f"the template (pid {self.pid}) does not answer; killed"
            raise OSError(errno.ETIMEDOUT, why) from None
        except ValueError:
            found = "nonsense"
        if type(found) is not int or process.parent(found) != os.getpid():
            # The application has run there: what it says may be wrong, and a pid a stranger's.
            raise OSError(errno.EPROTO, f"the template (pid {self.pid}) says {found!r}")
        return found, os.pidfd_open(found)  # ours to reap, so the pid is still its own

    def reopen(self, error_log: int) -> None:
        """Have it use that for its stdout and stderr. There is no answer."""
        try:
            self._sock.setblocking(False)
            socket.send_fds(self._sock, [b"null"], [error_log])
        except OSError:
            pass  # it has ended, or does not answer, as the next fork will find out

    def close(self) -> None:
        self._sock.close()
        os.close(self.pidfd)


class Templates:
    """The templates of the generations that may still fork."""

    def __init__(self, loop: Loop, log: Log, failed: Callable[[int, str], None]) -> None:
        """`failed` is told the number of a generation whose application cannot be loaded, and why."""
        self._loop = loop
        self._log = log
        self._failed = failed
        self._by_number: dict[int, _Template] = {}

    def get(self, birth: Birth) -> Fork | None:
        """How to fork a child of that generation; None while its template loads the application.
        Raises StartError."""
        number = birth.generation.number
        template = self._by_number.get(number)
        if template is None:
            try:
                process.become_subreaper()
                template = self._by_number[number] = _Template(birth)
            except OSError as error:
                raise StartError(f"fork: {error.strerror}") from error
            made = template
            self._loop.watch(made.pidfd, lambda: self._ended(number))
            self._loop.watch(made.fileno(), lambda: self._hear(made))
        return template.fork if template.ready else None

    def reopen(self, error_log: int) -> None:
        """The error log was rotated."""
        for template in self._by_number.values():
            template.reopen(error_log)

    def keep(self, numbers: set[int]) -> None:
        """End the templates of other generations: they have all the children that they will have."""
        for number in set(self._by_number) - numbers:
            process.send_signal(self._by_number[number].pidfd, signal.SIGKILL)
            self._ended(number)

    def pids(self) -> list[int]:
        return [template.pid for template in self._by_number.values()]

    def forget(self) -> None:
        """In a child."""
        for template in self._by_number.values():
            template.close()

    def _hear(self, template: _Template) -> None:
        self._loop.unwatch(template.fileno())  # what follows is read by `fork`
        template.hear()

    def _ended(self, number: int) -> None:
        template = self._by_number.pop(number)
        self._loop.unwatch(template.pidfd)
        self._loop.unwatch(template.fileno())
        template.hear()
        _, code = os.waitpid(template.pid, 0)
        ready, error = template.ready, template.error
        template.close()
        if error:
            self._failed(number, error)
        elif not ready and code != signal.SIGKILL:
            how = process.exit_reason(os.waitstatus_to_exitcode(code))
            self._failed(number, f"the template ended by {how} while it loaded the application")
        elif code != signal.SIGKILL:
            self._log.warning(
                f"the template (pid {template.pid}) is gone; the next child needs a new one"
            )


# ---- in the template ------------------------------------------------------------------------


def main(birth: Birth, sock: socket.socket) -> NoReturn:
    """The template's main; never returns to the master's code."""
    code = 70
    try:
        app = _load(birth, sock)
        if app is not None:
            _serve(birth, sock, app)
        code = 0
    except BaseException:
        Log("error", birth.generation.config.log_format, "template").exception(
            "the template crashed"
        )
    finally:
        os._exit(code)


def _load(birth: Birth, sock: socket.socket) -> Any:
    """The application, in its one copy; None when it cannot be loaded, which the master was told."""
    config = birth.generation.config
    log = Log(config.log_level, config.log_format, "template")
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for number in worker.QUIET:  # not ignored: programs that the application starts would be, too
        signal.signal(number, lambda *_: None)
    birth.forget()
    set_title("template", config.name)
    os.umask(config.umask)
    if birth.identity is not None:
        process.become(birth.identity)
    process.die_with_parent(birth.master)
    process.unblock()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    error = ""
    try:
        app = loader.load(str(config.app))
    except ForkdError as failure:
        app, error = None, str(failure)
    mend()
    threads = len(os.listdir("/proc/self/task")) - 1
    if threads and not error:
        log.warning(
            f"the application has started {threads} thread(s) at import: they run in the template only, "
            "and a lock that one of them holds at a fork stays held in the child; start them in the "
            "first request, or turn preload off"
        )
    gc.collect()
    gc.freeze()  # its pages are never written by the collector, and so stay shared
    sock.send(json.dumps({"error": error[-_MOST // 2 :]}).encode())
    return app


def _serve(birth: Birth, sock: socket.socket, app: Any) -> None:
    """Fork children until the master has gone."""
    while True:
        data, fds = receive(sock, _MOST, 8)
        if not data:
            return
        asked = json.loads(data)
        answer: int | str | None = None
        if asked is None:  # see `_Template.reopen`
            for fd in fds:
                os.dup2(fd, 1)
                os.dup2(fd, 2)
        else:
            slot, number = asked
            try:
                answer = _fork(birth, sock, app, slot, number, fds)
            except OSError as error:
                answer = f"fork: {error.strerror}"
        for fd in fds:
            os.close(fd)
        if answer is not None:
            sock.send(json.dumps(answer).encode())


def _fork(
    birth: Birth, sock: socket.socket, app: Any, slot: int, number: int, fds: list[int]
) -> int:
    """Returns the pid of the new child, which is the master's by then."""
    read, write = os.pipe()
    go, let_go = os.pipe()

    def between() -> NoReturn:
        pid = os.fork()
        if pid:
            os.write(write, b"%d" % pid)
            os._exit(0)
        for fd in (read, write, let_go):
            os.close(fd)
        if not os.read(go, 1):
            os._exit(0)  # the template is gone: nobody knows of this child
        os.close(go)
        sock.close()
        worker.main(_birth_of(birth, app, slot, number, fds))

    try:
        middle, pidfd = process.fork(between)
        os.close(write)
        write = -1
        found = os.read(read, 32)
        os.waitpid(middle, 0)
        os.close(pidfd)
        if not found:
            raise OSError(errno.EAGAIN, "the process in between could not fork")
        os.write(
            let_go, b"!"
        )  # its parent has gone, so it has the master for one: see die_with_parent
        return int(found)
    finally:
        for fd in (read, write, go, let_go):
            if fd >= 0:
                os.close(fd)


def _birth_of(birth: Birth, app: Any, slot: int, number: int, fds: list[int]) -> worker.Birth:
    """In the child: what it would have from the master. `fds`: its channel, its memfd for stacks, the
    master's stdout and stderr as they are now, its queue and its access log, if it has these."""
    generation = birth.generation
    channel, stacks, out, err, *queue = fds
    access = queue.pop() if generation.access is not None else None
    for fd, standard in ((out, 1), (err, 2)):
        os.dup2(fd, standard)
        os.close(fd)
    random.seed()
    mine = [] if generation.master_accepts else generation.sockets_of(number)
    taken = {sock for sock, _ in mine}

    def forget() -> None:
        for sock in generation.all_sockets():
            if sock not in taken:
                sock.close()

    receiving = (
        socket.socket(fileno=queue[0]) if queue else generation.queue and generation.queue[1]
    )
    return worker.Birth(
        config=replace(generation.config),
        slot=slot,
        generation=generation.number,
        channel=Channel(socket.socket(fileno=channel)),
        lanes=birth.lanes[slot],
        lease=generation.lease,
        listeners=mine,
        queue=receiving or None,
        stacks=stacks,
        access=access,
        identity=None,  # the template has become it
        admin=birth.admin,
        master=birth.master,
        forget=forget,
        app=app,
    )
