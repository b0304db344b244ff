"""The template of a generation (`preload`): it loads the application once, and is forked often.

A process that the master forks for each generation. It becomes the configured user, imports the
application once, freezes the collector, and then forks the generation's children when the master asks
it to (master/templates.py). So they share the application's memory, and a reload, which makes a new template,
has new code.

Its children are forked twice: the process in between ends at once, and the kernel gives the child to
the nearest subreaper, which is the master (prctl(2), PR_SET_CHILD_SUBREAPER). So the master owns and
reaps them as any other, and stays free of the application's code and threads.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import random
import traceback
from typing import Any, NoReturn

from forkd.app import loader
from forkd.errors import AppError, ForkdError
from forkd.ipc.heritage import Heritage, TemplateHeritage
from forkd.ipc.messages import Channel
from forkd.log.lines import Log
from forkd.models import registry
from forkd.system import forked, process, programs, shared
from forkd.system.fd_passing import receive
from forkd.system.originals import os, renew_loops, signal, socket
from forkd.system.signal_sockets import SignalSockets
from forkd.system.signals import STACKS, handle, share, write_stacks
from forkd.system.sigpipe import NO_SIGPIPE, without_sigpipe
from forkd.system.stdio import mend
from forkd.worker import leftovers
from forkd.worker import main as worker

MAX_MESSAGE_BYTES = 60_000  # bytes of a message


def main(
    heritage: TemplateHeritage, sock: socket.socket, stacks: int, sockets: SignalSockets
) -> NoReturn:
    """The template's main; never returns to the master's code. `stacks`: memfd for faulthandler;
    `sockets`: by which it is signalled, as its children then are."""
    code = 70
    try:
        app = _load(heritage, sock, stacks, sockets)
        if app is not None:
            _serve(heritage, sock, app, stacks, sockets)
        code = 0
    except BaseException:
        Log("error", heritage.config.log_format, "template").exception("the template crashed")
        _tell(sock, f"the template crashed\n{traceback.format_exc().rstrip()}")
    finally:
        os._exit(code)


def _load(
    heritage: TemplateHeritage, sock: socket.socket, stacks: int, sockets: SignalSockets
) -> Any:
    """The application, in its one copy; None when it cannot be loaded, which the master was told."""
    config = heritage.config
    log = Log(config.log_level, config.log_format, "template")
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    heritage.forget()
    for number in worker.QUIET:  # not ignored: programs that the application starts would be, too
        handle(number)
    shared.enter(heritage.units, 0)
    worker.prepare("template", config, heritage.identity, heritage.master, sockets)
    write_stacks(STACKS, stacks)  # the master asks when this takes long
    share()
    process.unblock()
    io = registry.child_io(config.model, config.io)
    if io in worker.BLOCKED:  # its children will block them, and the application keeps names that it imports
        programs.let_through(worker.BLOCKED[io])
    own = [x.fileno() for x in heritage.all_sockets()] + [sock.fileno(), *sockets.filenos()]
    forked.arm(lambda: worker.end_in_fork(own, stacks))
    error, before = "", leftovers.descriptors()
    try:
        app = load(str(config.app))
    except ForkdError as failure:
        app, error = None, str(failure)
    mend()
    left = [] if error else leftovers.loops_and_tasks() + leftovers.connections(before)
    if left:
        log.warning(
            f"the application has made {', '.join(left)} at import: the workers have copies that do not "
            "work, or that disturb each other; make them in the workers, as at lifespan.startup or in the "
            "first request, or turn preload off"
        )
    threads = process.threads() - 1
    if threads and not error:
        log.warning(
            f"the application has started {threads} thread(s) at import: they run in the template only, "
            "and a lock that one of them holds at a fork stays held in the child; start them in the "
            "first request, or turn preload off"
        )
    gc.collect()
    gc.freeze()  # its pages are never written by the collector, and so stay shared
    _tell(sock, error)
    return app


def load(app: str) -> Any:
    """The application as a template has it, which has no loop. Raises AppError."""
    try:
        return loader.load(app)
    except AppError as error:
        if not leftovers.needs_loop(error):
            raise
        advice = "With --preload there is none at import: do this at lifespan.startup, or leave it out"
        raise AppError(f"{error}\n{advice}") from error


def _tell(sock: socket.socket, error: str) -> None:
    """The master: that the application is loaded, or why it is not. Its first word counts."""
    with contextlib.suppress(OSError):  # it is gone, and ends this process
        sock.send(json.dumps({"error": error[-MAX_MESSAGE_BYTES // 2 :]}).encode(), NO_SIGPIPE)


def _serve(
    heritage: TemplateHeritage, sock: socket.socket, app: Any, stacks: int, sockets: SignalSockets
) -> None:
    """Fork children until the master has gone."""
    while True:
        data, fds = receive(sock, MAX_MESSAGE_BYTES, 8)
        if not data:
            return
        asked = json.loads(data)
        answer: int | list[int | None] | None = None
        if isinstance(asked, int):  # see `_Template.relisten`
            if asked in {listener.fileno() for listener in heritage.all_sockets()}:
                for fd in fds:
                    os.dup2(fd, asked, inheritable=False)
        else:
            slot, number = asked
            try:
                answer = _fork(heritage, sock, app, slot, number, fds, stacks, sockets)
            except OSError as error:
                answer = [error.errno]
        for fd in fds:
            os.close(fd)
        if answer is not None:
            sock.send(json.dumps(answer).encode(), NO_SIGPIPE)


def _fork(
    heritage: TemplateHeritage, sock: socket.socket, app: Any, slot: int, number: int,
    fds: list[int], stacks: int, sockets: SignalSockets,
) -> int:  # fmt: skip
    """Returns the pid of the new child, which is the master's by then."""
    read, write = os.pipe()
    go, let_go = os.pipe()

    def between() -> NoReturn:
        with forked.own():
            pid = os.fork()
        if pid:
            without_sigpipe(os.write, write, b"%d" % pid)
            os._exit(0)
        for fd in (read, write, let_go):
            os.close(fd)
        if not os.read(go, 1):
            os._exit(0)  # the template is gone: it knows nothing of this child
        os.close(go)
        sock.close()
        os.close(stacks)
        sockets.close()
        renew_loops()
        worker.main(_heritage_of(heritage, app, slot, number, fds, len(sockets)))

    try:
        middle, pidfd = process.fork(between)
        os.close(write)
        write = -1
        found = os.read(read, 32)
        os.waitpid(middle, 0)
        os.close(pidfd)
        if not found:
            raise OSError(errno.EAGAIN, "the process in between could not fork")
        # Its parent has gone, so it has the master for one: see die_with_parent.
        without_sigpipe(os.write, let_go, b"!")
        return int(found)
    finally:
        for fd in (read, write, go, let_go):
            if fd >= 0:
                os.close(fd)


def _heritage_of(
    heritage: TemplateHeritage, app: Any, slot: int, number: int, fds: list[int], signals: int
) -> Heritage:
    """In the child: what it would have from the master. `fds`: its channel, its memfd for stacks, the
    master's stdout and stderr, which the application may have closed here, what it is signalled by, and its
    queue, if it has one."""
    channel, stacks, out, err, *others = fds
    sockets, queue = SignalSockets.of(worker.SENT, others[:signals]), others[signals:]
    for fd, standard in ((out, 1), (err, 2)):
        os.dup2(fd, standard)
        os.close(fd)
    random.seed()
    mine = [] if heritage.master_accepts else heritage.sockets_of(number)
    taken = {sock for sock, _ in mine}

    def forget() -> None:
        for sock in heritage.all_sockets():
            if sock not in taken:
                sock.close()

    return Heritage(
        config=heritage.config,
        slot=slot,
        number=number + 1,
        generation=heritage.generation,
        channel=Channel(socket.socket(fileno=channel)),
        lanes=heritage.lanes[slot],
        lease=heritage.lease,
        listeners=mine,
        queue=socket.socket(fileno=queue[0]) if queue else heritage.queue,
        stacks=stacks,
        sockets=sockets,
        logs=heritage.logs,
        identity=None,  # the template has become it
        admin=heritage.admin,
        units=heritage.units,
        watch=heritage.watch,
        master=heritage.master,
        forget=forget,
        app=app,
    )
