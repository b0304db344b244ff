"""`forkd check`: would a start succeed? Imports the application, in a process that then ends.

That process is forked for it, and is what a worker would be: the command may be root's, and the
application's code never is.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from forkd.app.hooks import Hooks
from forkd.config import Config
from forkd.errors import AppError, ForkdError, StartError, SystemCallError
from forkd.log import Log
from forkd.models import registry
from forkd.sources import Sources
from forkd.supervise import exposure, worker
from forkd.system import process
from forkd.system.scoreboard import Scoreboard


class _Host:
    """A host that serves nobody."""

    def __init__(self, config: Config) -> None:
        self.draining = False
        self.ledger = Scoreboard(1).lanes[1][0]
        self.access = None
        self.log = Log(config.log_level, config.log_format, "check")


def check(sources: Sources, config: Config) -> str:
    """A sentence that says what would be served. Raises ForkdError for what a start would."""
    identity = process.identity(config.user, config.group)
    if config.chdir is not None:
        _try("chdir", config.chdir, lambda: os.chdir(str(config.chdir)))
    exposure.warn(Log(config.log_level, config.log_format, "check"), sources.path, config, identity)
    name = _import_as_a_worker(config, identity)
    _, denied = registry.usable(config)
    if denied and not config.io_fallback:
        raise StartError(f"io-fallback = false, and io_uring cannot be used: {denied}")
    io = registry.io_of(config.model, config.io)
    return (
        f"ok: {config.app or 'the built-in welcome app'} ({name}) under "
        f"{config.model}/{io}, workers {config.workers}, on {', '.join(map(str, config.bind))}"
    )


def _import_as_a_worker(config: Config, identity: process.Identity | None) -> str:
    """The interface of the application. Raises AppError."""
    read, write = os.pipe()
    command = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()

    def child() -> NoReturn:
        os.close(read)
        answer, code = "", 1
        try:
            worker.settle("check", config, identity, command)
            process.unblock()
            answer, code = _load(config), 0
        except ForkdError as error:
            answer = str(error)
        except BaseException:
            answer = f"a bug in forkd\n{traceback.format_exc().rstrip()}"
        with os.fdopen(write, "w") as pipe:
            json.dump([not code, answer], pipe)
        worker.leave(code)

    try:
        pid, pidfd = process.fork(child)
    except OSError as error:
        os.close(read)
        raise StartError(f"fork: {error.strerror}") from error
    finally:
        os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(pidfd)
    if not text:
        how = f"exit code {code}" if code >= 0 else process.exit_reason(code)
        raise AppError(f"app {config.app!r}: the process that imported it ended: {how}")
    done, answer = json.loads(text)
    if not done:
        raise AppError(answer)
    return str(answer)


def _load(config: Config) -> str:
    Hooks.load(config.hooks, Log(config.log_level, config.log_format, "check"))
    row, io = registry.get(config.model), registry.io_of(config.model, config.io)
    interface, flavour = worker.make_interface(config, _Host(config), io, None)
    why = registry.refusal(row, io, flavour, config.threads)
    if why is not None:
        raise AppError(why)
    return interface.name


def _try(call: str, target: str, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        raise SystemCallError(call, target, error) from error
