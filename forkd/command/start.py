"""`forkd start`: in the foreground, or detached with the result reported to the command that asked.

A detached start returns only once the service answers or has failed. The command forks;
the new process detaches (python-daemon's part) and becomes the master. Over a socketpair it says, in
lines of JSON, what takes long, and in the last one that it serves, or the error; its end without such a
line means that the master died. Before that, the end of the command's side means that nobody waits any
more (Ctrl-C): the master ends.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import traceback
from typing import Any, NoReturn

from daemon.daemon import DaemonProcessDetachError, detach_process_context

from forkd.command import advice
from forkd.command.arguments import add_all
from forkd.command.storage_places import require_places
from forkd.config import Config
from forkd.config.sources import Sources
from forkd.errors import ForkdError, StartError, SystemCallError
from forkd.ipc.handover import inherited
from forkd.ipc.manager import manager_of, passed
from forkd.ipc.pidfile import require_ours
from forkd.logger.destinations import capture
from forkd.master.entry import serve, take_over, why_denied
from forkd.master.generation import enter_directory, permissions_of
from forkd.master.launch import Launch
from forkd.master.needs import with_need
from forkd.metrics.access import Access
from forkd.models import registry
from forkd.system import accounts, process
from forkd.system.output import complain, say
from forkd.system.sockets import Listener

add_flags = add_all


def run(args: argparse.Namespace) -> int:
    """Also what an upgrade executes, as the process that is to take over."""
    heir = inherited(os.environ)
    return take_over(heir) if heir is not None else start(*load(args))


def load(args: argparse.Namespace) -> tuple[Sources, Config]:
    sources = Sources.gather(args, os.environ)
    return sources, sources.load(registry.RULES)


def start(sources: Sources, config: Config) -> int:
    """Run the master, or have one run. Returns the exit code of the command."""
    units, stored, tables = passed(os.environ, config.backlog)
    activated = tuple(units)
    launch = Launch(
        config, (), activated, manager=manager_of(os.environ), stored=stored, stored_tables=tables
    )
    launch.binds = launch.binds_of(config)
    launch.warnings = advice.warnings(sources, config)
    launch.error_log = error_log_of(config)
    for path in (config.pidfile, config.control, launch.error_log or ""):
        require_ours(os.path.dirname(path))  # before the log is opened there
    require_places(config)
    if config.foreground:
        if launch.error_log is not None:
            launch.terminal = os.dup(2)
        return serve(sources, launch)
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
    accounts.find(config.user, config.group)
    permissions_of(config)
    Access.of(config)
    require_places(config)


def error_log_of(config: Config) -> str | None:
    """The file that descriptors 1 and 2 lead to; None: as they are. Raises StartError."""
    if config.foreground:
        return None if config.error_log == "-" else config.error_log
    if config.error_log == "-":
        raise StartError(
            "error-log: a detached daemon has no stderr; name a file, or use --foreground"
        )
    return config.default_error_log if config.error_log is None else config.error_log


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
        launch.make_directories()
        # Only detaching is python-daemon's part: descriptors, signals, privileges, the pid file are forkd's.
        # Its DaemonContext closes each number up to the limit of open files, which may be 2 ** 30.
        detach_process_context()
        keep += [*standard.pipes.values(), *_descriptors(launch.stored), *launch.stored_tables.values()]
        process.close_all_but({0, 1, 2, *keep})
        _read_nothing()
        code = serve(sources, launch)
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
        launch.failed(why_denied(error) if denied else crash)
    os._exit(code)


def _read_nothing() -> None:
    """Have no standard input: it is the command's. Raises SystemCallError."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
    except OSError as error:
        raise SystemCallError("open", os.devnull, error) from error
    os.dup2(null, 0)
    os.close(null)


def _descriptors(listeners: list[Listener]) -> list[int]:
    return [sock.fileno() for listener in listeners for sock in listener.sockets]
