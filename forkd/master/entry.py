"""The process that is to be the master: what is done before there is one, and when it has ended."""

from __future__ import annotations

import errno
import os
import traceback

from forkd.config.sources import Sources, is_ours
from forkd.errors import AlreadyRunning, ForkdError
from forkd.ipc.handover import Inheritance
from forkd.ipc.pidfile import Pidfile
from forkd.logger.destinations import capture
from forkd.master.launch import Launch
from forkd.master.main import Master
from forkd.master.stand_in import stand_in
from forkd.models import registry
from forkd.system import process, terminal
from forkd.system.pinned import modules_of, pin
from forkd.title import set_title

#: What is imported later, and not by all: by a scrape, and by a worker whose application needs asyncio.
LATER = (
    "forkd.metrics.exposition", "forkd.metrics.names", "forkd.worker.asyncio_loop",
    "forkd.app.stream", "forkd.app.stream.handlers", "forkd.app.stream.transport", "forkd.app.stream.flow",
    "forkd.app.asgi", "forkd.app.asgi.cycle", "forkd.app.asgi.drain", "forkd.app.asgi.requests",
    "forkd.app.asgi.duplex", "forkd.app.asgi.handshake", "forkd.app.asgi.websocket", "forkd.http.frames",
    "forkd.app.asgi.interface", "forkd.app.asgi.lifespan", "forkd.app.asgi.response", "forkd.app.asgi.scope",
    "forkd.app.asgi.steps", "forkd.app.asgi.streams", "forkd.app.asgi.extensions", "forkd.app.asgi.sendfile",
    "forkd.app.asgi.tasks", "forkd.http.deflate", "forkd.worker.turns",
    "forkd.app.asgi.shortcut",
    "forkd.app.asgi.message_flow",
    "forkd.app.wsgi.timed", "forkd.worker.waits",
    "forkd.system.libuv", "forkd.worker.coupling", "forkd.worker.selector_coupling",
    "forkd.worker.uvloop_coupling",
    "forkd.app.asgi.self_test", "forkd.app.asgi.task_kind",
)  # fmt: skip


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
        return serve(heir.sources, launch)
    except ForkdError as error:
        heir.link.send({"ok": False, "text": str(error)})
        return error.exit_code
    except BaseException:
        crash = f"the new master crashed; this is a bug in forkd\n{traceback.format_exc().rstrip()}"
        heir.link.send({"ok": False, "text": crash})
        raise


def serve(sources: Sources, launch: Launch) -> int:
    """In the process that is to be the master. Returns its exit code."""
    config = launch.config
    terminal.leave()
    try:
        if launch.standard is None:
            launch.standard = capture(launch.error_log)
        launch.make_directories()
        set_title("master", config.name)
        if config.umask is not None:
            os.umask(config.umask)
        for name in filter(is_ours, list(os.environ)):
            del os.environ[name]  # they are in `sources`; the application has no use for them
        process.raise_descriptor_limit()
        process.require_signals()
        pin([*LATER, *(modules_of("forkd.storage") if config.storage else ())])
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
            launch.failed(why_denied(error))
        else:
            raise
        return 1


def why_denied(error: BaseException) -> str:
    """What to say of a system call that this process may not make at all."""
    assert isinstance(error, OSError)
    if isinstance(error, process.CallError):
        return process.why_no_fork(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    name = errno.errorcode[error.errno or 0]
    where = f"{frame.filename}:{frame.lineno}"
    return f"{frame.line} ({where}): {name}: {error.strerror}{process.ALLOW_IT}"


