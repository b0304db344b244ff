"""`forkd check`: would a start succeed? Imports the application, in a process that then ends.

That process is forked for it, and is what a worker would be: the command may be root's, and the
application's code never is.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import sys
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from forkd.app.asgi.task_kind import wanted_tasks
from forkd.app.hooks import Hooks
from forkd.app.interfaces import flag_of
from forkd.command import advice
from forkd.command.arguments import add_all
from forkd.command.probe import probe
from forkd.command.start import load
from forkd.command.storage_places import Tried, import_client, require_places, try_places
from forkd.config import Config
from forkd.config.sources import Sources
from forkd.errors import AppError, CheckError, ForkdError, StartError
from forkd.ipc.control import ANNOUNCE_SECONDS
from forkd.log.lines import Log
from forkd.master import exposure
from forkd.master.generation import enter_directory, permissions_of
from forkd.master.lateness import LAST_WORDS_SECONDS, loading, not_booted
from forkd.master.storage import SharedTables
from forkd.metrics.access import Access
from forkd.models import registry
from forkd.models.unused import unused
from forkd.system import accounts, forked, process, shared
from forkd.system.accounts import Identity
from forkd.system.originals import os, select, signal
from forkd.system.output import complain, native_or_not, say, tasks_said
from forkd.system.scoreboard import Scoreboard
from forkd.system.signal_sockets import SignalSockets
from forkd.system.signals import STACKS
from forkd.worker import main as worker
from forkd.worker import template
from forkd.worker.loading import asyncio_loop, make_interface

if TYPE_CHECKING:
    from forkd.worker.asyncio_loop import AsyncioLoop

add_flags = add_all

#: For the process that has imported the application to run its exit hooks.
_LEAVE_SECONDS = 5.0



def run(args: argparse.Namespace) -> int:
    """Try what a start would; change nothing."""
    say(check(*load(args)))
    return 0


class _Host:
    """A host without clients."""

    def __init__(self, config: Config) -> None:
        self.draining = self.ends = False
        self.recorder = Scoreboard(1).lanes[1][0]
        self.access = None
        self.log = Log(config.log_level, config.log_format, "check")


def check(sources: Sources, config: Config) -> str:
    """What would be served. Raises CheckError with all for which a start would fail."""
    found = probe(sources, config)
    interface, places = "", Tried([], [])
    try:
        identity = accounts.find(config.user, config.group)
        enter_directory(config)
        permissions_of(config)
        log = Log(config.log_level, config.log_format, "check")
        exposure.warn(log, sources.path, config, identity)
        Access.of(config)
        require_places(config)
        interface, places = _import_as_a_worker(config, identity)
        found.problems += places.problems
    except ForkdError as error:
        found.problems.append(str(error))
    _, denied = registry.usable(config)
    if denied and not config.io_fallback:
        found.problems.append(f"io-fallback = false, and io_uring cannot be used: {denied}")
    if found.problems:
        raise CheckError(found.problems)
    how = registry.io_of(config.model, config.io)
    lines = [
        f"ok: {config.app or 'the built-in welcome app'} ({flag_of(interface)}) under "
        f"{config.model}/{how}, {native_or_not(registry.without_native(config))}"
        f"{tasks_said(wanted_tasks(config) if flag_of(interface) == 'asgi' else '')}, workers "
        f"{config.workers}, on {', '.join(map(str, config.bind))}"
    ]
    if sources.path is not None:
        lines.append(f"configuration: {sources.path}")
    if found.held:
        lines.append(f"held by the running daemon itself (pid {found.pid}): {', '.join(found.held)}")
    meanings = advice.meanings(config, flag_of(interface))
    lines += [f"note: {note}" for note in (*found.notes, *advice.notes(config), *meanings)]
    lines += [
        f"warning: {line}"
        for line in (*advice.warnings(sources, config), *places.warnings, *unused(config, interface))
    ]
    return "\n".join(lines)


def _import_as_a_worker(config: Config, identity: Identity | None) -> tuple[str, Tried]:
    """The name of the interface of the application, and what its storage units are to it. Raises AppError."""
    import_client(config)
    try:
        stacks = process.make_memfd("forkd-stacks-check")
    except OSError as error:
        raise StartError(process.why_no_fork(error)) from error
    read, write = os.pipe()
    command = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    sockets, listening = SignalSockets.pair(worker.SENT)

    def child() -> NoReturn:
        os.close(read)
        sockets.close()
        answer, places = "", Tried([], [])
        code = 1
        try:
            worker.prepare("check", config, identity, command, listening)
            faulthandler.register(STACKS, stacks, all_threads=True)
            process.unblock()
            forked.arm(lambda: worker.end_in_fork([write], stacks))
            log = Log(config.log_level, config.log_format, "check")
            # Empty ones of its own: an application may write to its unit when it is imported.
            shared.enter(SharedTables(config, 1, log, {}, {}).units(config), 1)
            answer, code = _load(config), 0
            places = try_places(config)
        except ForkdError as error:
            answer = str(error)
        except BaseException:
            answer = f"a bug in forkd\n{traceback.format_exc().rstrip()}"
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps([not code, answer, places]) + "\n")
        forked.finish(code)

    try:
        pid, pidfd = process.fork(child)
    except OSError as error:
        os.close(read)
        os.close(stacks)
        sockets.close()
        raise StartError(process.why_no_fork(error)) from error
    finally:
        os.close(write)
        listening.close()
    with os.fdopen(stacks), os.fdopen(read, "rb", buffering=0) as pipe:
        late = _late(read, pid, pidfd, stacks, sockets, config)
        text = b"" if late else _answer(pipe, pidfd)
    if text and not select.select([pidfd], [], [], _LEAVE_SECONDS)[0]:
        process.send_signal(pidfd, signal.SIGKILL, sockets)  # a thread of the application's goes on
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(pidfd)
    sockets.close()
    if late:
        raise AppError(f"app {config.app!r}: {late}")
    if not text:
        how = process.how_ended(code)
        raise AppError(f"app {config.app!r}: the process that imported it ended {how}")
    done, answer, places = json.loads(text)
    if not done:
        raise AppError(answer)
    return str(answer), Tried(*places)


def _answer(pipe: io.FileIO, pidfd: int) -> bytes:
    """Its line, or what there is of it when it has ended. Not until EOF: a process that the import has
    started may have a copy of the pipe."""
    text = b""
    while not text.endswith(b"\n"):
        if pipe.fileno() not in select.select([pipe.fileno(), pidfd], [], [])[0]:
            break
        more = pipe.read(1 << 16)
        if not more:
            break
        text += more
    return text


def _late(read: int, pid: int, pidfd: int, stacks: int, sockets: SignalSockets, config: Config) -> str:
    """Wait for the answer of the process that imports. What is to be said of one that has none in time,
    and is killed then; nothing of one that has."""
    seconds = config.boot_timeout
    first = min(ANNOUNCE_SECONDS, seconds or ANNOUNCE_SECONDS)
    if select.select([read, pidfd], [], [], first)[0]:
        return ""
    if first != seconds:
        complain(f"forkd: {loading(config, [pid])}")
        if select.select([read, pidfd], [], [], seconds - first if seconds else None)[0]:
            return ""
    process.send_signal(pidfd, STACKS, sockets)
    select.select([pidfd], [], [], LAST_WORDS_SECONDS)
    where = os.pread(stacks, 1 << 16, 0).decode("utf-8", "replace").strip() or process.state(pid)
    process.send_signal(pidfd, signal.SIGKILL, sockets)
    return f"{not_booted(f'the process that imports it (pid {pid})', seconds)}; it was here:\n{where}"


def _load(config: Config) -> str:
    Hooks.load(config.hooks, Log(config.log_level, config.log_format, "check"))
    row, how = registry.get(config.model), registry.io_of(config.model, config.io)
    host = _Host(config)

    def loop(made: Any = None) -> AsyncioLoop:
        return asyncio_loop(host.log, config.loop, made)

    preloaded = template.load(config.app) if config.preload and config.app is not None else None
    _, speaks = make_interface(config, host, how, None, loop, preloaded)
    why = registry.refusal(row, how, speaks.name, config.threads)
    if why is not None:
        raise AppError(why)
    return speaks.name
