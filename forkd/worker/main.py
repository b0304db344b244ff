"""The child process: from the fork to its exit.

Everything that a fork must close, reset or open anew is in `_after_fork`, in order.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import random
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from forkd.app.hooks import Hooks, Place
from forkd.app.interfaces import InterfaceRow
from forkd.config import Config
from forkd.engine.context import ChildContext, Model
from forkd.engine.deadlines import NEVER
from forkd.engine.intake import Intake, ListenerIntake, QueueIntake
from forkd.errors import AppError, ForkdError, SystemCallError
from forkd.ipc.heritage import Heritage
from forkd.ipc.messages import (
    Deaf,
    Failed,
    Quit,
    Ready,
    Recycle,
    Relisten,
    Retire,
    Trim,
)
from forkd.log.lines import AccessLog, Log
from forkd.models import registry
from forkd.models.row import ModelRow
from forkd.session.begin import Begin, BoundBegin
from forkd.session.seam import Interface, Recorder
from forkd.system import accounts, forked, memory, process, rights, shared, stdio, terminal
from forkd.system.accounts import Identity
from forkd.system.cells import REQUESTS
from forkd.system.forked import in_fork, leave
from forkd.system.interpreter import set_requirements_aside
from forkd.system.lanes import Lanes
from forkd.system.originals import monotonic, os, signal, threads_are
from forkd.system.signal_sockets import SignalSockets
from forkd.system.signals import (
    LOOP_STACK,
    NEWS,
    STACKS,
    SignalQueue,
    block,
    set_by_application,
    set_theirs,
    share,
    write_stacks,
)
from forkd.system.signals import end_in_fork as end_signals
from forkd.title import set_title
from forkd.worker import loading

if TYPE_CHECKING:
    from forkd.worker.asyncio_loop import AsyncioLoop, Living

_MAX_STACKS_BYTES = 1 << 16  # bytes
#: What the master sends to those that run foreign code.
SENT = (signal.SIGKILL, STACKS, LOOP_STACK)
#: What reaches a child by mistake (`pkill -HUP forkd`, Ctrl-C in a terminal) and changes nothing.
QUIET = [
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGIO,
]  # fmt: skip
#: What a child blocks before it loads the application, by its io: it reads these from a descriptor.
BLOCKED = {"sigio": {NEWS, signal.SIGIO}, "aio": {NEWS}}

_NEVER = 1 << 62  # requests
#: Seconds until lines that a log did not take are tried again, if no request comes before.
_LOG_RETRY_SECONDS = 0.5


class Worker:
    """Implements `Host` of session/seam.py."""

    def __init__(self, heritage: Heritage) -> None:
        config, self._denied = registry.usable(heritage.config)
        if config is not heritage.config:
            heritage = replace(heritage, config=config)
        self.draining = self.ends = False
        self.ready = False
        # Threads of a pool write lanes of their own; without any, the main thread writes directly.
        lanes = registry.lanes(config)
        self._rows = heritage.lanes[: 1 + lanes]
        self._lanes = Lanes(self._rows, config.native) if lanes else None
        self.recorder: Recorder = (
            self._lanes.recorder if self._lanes is not None else self._rows[0].recorder(config.native)
        )
        self.log = Log(
            config.log_level, config.log_format, f"worker {heritage.slot}",
            heritage.logs.error(heritage.lanes[0]),
        )  # fmt: skip
        self.access: AccessLog | None = None
        self._heritage = heritage
        self._channel = heritage.channel
        self._model: Model | None = None
        self._hooks = Hooks({}, self.log)
        self._place = Place(
            "worker", os.getpid(), heritage.master, config.name, heritage.generation, heritage.slot,
            heritage.number,
        )
        self._recycle_at = _recycle_at(config)
        self._has_channel = True
        self._loop: AsyncioLoop | None = None  # where the application needs one

    def run(self) -> int:
        """Boot, serve, and return the exit code."""
        try:
            self._after_fork()
            self._hooks = Hooks.load(self._heritage.config.hooks, self.log)
            self._hooks.call("post_fork", self._place)
            interface, model_row, speaks = self._load()
            living = self._begin(interface, speaks)
            if self._loop is not None:
                self._loop.loaded()
            stdio.mend()  # an application that daemonises at import has closed them
        except ForkdError as error:
            self._channel.send(Failed(str(error)))
            if self._loop is not None:
                self._loop.give_up()
            return 3
        try:
            self._intakes = self._make_intakes(interface)
            self._model = model = self._make_model(interface, model_row)
        except ForkdError as error:
            self._channel.send(Failed(str(error)))
            return 3
        self._hooks.call("worker_ready", self._place)
        # What was loaded stays: keep the collector from walking (and so copying) its pages.
        gc.collect()
        gc.freeze()
        fallback = (
            f"{self._denied}: {self._heritage.config.model} serves instead" if self._denied else ""
        )
        if self._loop is not None:
            self._loop.time_turns(self._heritage, self._channel.send)
        loop = self._loop.name if self._loop is not None and speaks.needs_loop else ""
        tasks = living.tasks if living is not None else ""
        self._channel.send(Ready(speaks.name, loop, fallback, tasks))
        self.ready = True
        if self._loop is not None:
            self._loop.run(model, self.recorder, living)
        else:
            while not model.done:
                model.turn(None)
        if self.access is not None:
            self.access.finish()
        return 0

    @property
    def leaves_threads(self) -> bool:
        """Whether the process is to end without waiting for its threads, since that was done in vain."""
        return self._loop is not None and self._loop.leaves_threads

    def exit(self) -> None:
        """Last of all, however it ended."""
        self._hooks.call("worker_exit", self._place)
        self.log.sink.end()

    # ---- boot -----------------------------------------------------------------------------

    def _after_fork(self) -> None:
        heritage = self._heritage
        # Those that a template has loaded the application with; elsewhere it sets them after this.
        handled = (signal.SIGTERM, signal.SIGCHLD, *QUIET)
        theirs = set_by_application(handled) if heritage.app is not None else {}
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        heritage.forget()
        shared.enter(heritage.units, heritage.slot, self._rows[0].recorder(heritage.config.native).add)
        random.seed()  # children that share a seed would draw the same session keys
        if heritage.config.access_log is not None:
            self.access = AccessLog(
                heritage.logs.access(heritage.lanes[0]), heritage.config.log_format, self.log,
                heritage.config.native, heritage.config.access_log_format,
            )  # fmt: skip
        prepare(
            f"worker {heritage.slot}", heritage.config, heritage.identity, heritage.master, heritage.sockets
        )  # fmt: skip
        os.environ["FORKD_WORKER"] = str(heritage.number)  # for the application, before it is imported
        faulthandler.enable(heritage.stacks, all_threads=True)
        write_stacks(STACKS, heritage.stacks)
        process.enlarge_signal_stack()
        memory.keep_heap()
        # Before the application is loaded: programs and threads that it starts inherit the mask.
        self._signals = SignalQueue([signal.SIGTERM, *QUIET, NEWS])
        share()
        for handled_by_them, handler in theirs.items():
            set_theirs(handled_by_them, handler)
        process.unblock()
        if self._io() in BLOCKED:
            # In every thread that the application starts, too: there nobody would read them.
            block(BLOCKED[self._io()])
        forked.arm(self._end_in_fork)

    def _begin(self, interface: Any, speaks: InterfaceRow) -> Living | None:
        """Start what lives in the loop. Raises AppError."""
        if not speaks.lives:
            return None
        assert self._loop is not None
        living: Living = interface
        living.failed = lambda: self._channel.send(Recycle("lifespan"))
        self._loop.startup(living)
        return living

    def _load(self) -> tuple[Interface, ModelRow, InterfaceRow]:
        """The application as an interface, the model, and what it is of. Raises AppError."""
        config = self._heritage.config
        if self._denied and not config.io_fallback:
            raise ForkdError(f"io-fallback = false, and io_uring cannot be used: {self._denied}")
        row, io = registry.get(config.model), registry.io_of(config.model, config.io)
        def loop(made: Any = None) -> AsyncioLoop:
            if self._loop is None:
                stdio.mend()  # libuv aborts where a descriptor of its own has one of those numbers
                self._loop = loading.asyncio_loop(self.log, config.loop, made)
                self._loop.show_waits(self._heritage.stacks)
            return self._loop

        interface, speaks = loading.make_interface(
            config, self, io, self._heritage.admin, loop, self._heritage.app, self._heritage.number
        )
        if self._denied and registry.refusal(row, io, speaks.name, config.threads):
            config = replace(config, model="leader-followers")
            self._heritage = replace(self._heritage, config=config)
            row, io = registry.get(config.model), registry.io_of(config.model, config.io)
        why = registry.refusal(row, io, speaks.name, config.threads)
        if why is not None:
            raise AppError(f"app {config.app}: --model {config.model} --io {io}: {why}")
        if speaks.needs_loop and (patched := threads_are()):
            self.log.warning(
                f"{patched} has made greenlets of threads, which asyncio's executors need: getaddrinfo and "
                "run_in_executor will not complete; leave threads as they are (patch_all(thread=False))"
            )
        return interface, row, speaks

    def _end_in_fork(self) -> None:
        """In a process that the application has forked."""
        own = {self._heritage.watch.fileno(), *self._heritage.sockets.filenos()}
        if self._has_channel:
            own |= {held.fileno() for held in (self._channel, self._heritage.queue) if held is not None}
            own |= {sock.fileno() for sock, _ in self._heritage.listeners}
        if self._model is not None:
            own |= self._model.descriptors()
        if self._loop is not None:
            own |= self._loop.halt()
        end_in_fork(own, self._heritage.stacks)

    def _io(self) -> str:
        return registry.child_io(self._heritage.config.model, self._heritage.config.io)

    def _make_intakes(self, interface: Interface) -> list[Intake]:
        heritage = self._heritage

        def bind(begin: Begin) -> BoundBegin:
            return begin.bind(interface, heritage.config, self)

        if heritage.queue is not None:
            shared = heritage.config.dispatch == "competition"
            return [
                QueueIntake(
                    heritage.queue, heritage.lanes[0], lambda text: bind(Begin.parse(text)), shared=shared
                )
            ]
        shared = heritage.config.accept == "exclusive"
        return [ListenerIntake(sock, bind(begin), shared=shared) for sock, begin in heritage.listeners]

    def _make_model(self, interface: Interface, row: ModelRow) -> Model:
        """Raises ForkdError when the system has no room for what it waits on, or for its threads."""
        context = ChildContext(
            config=self._heritage.config,
            io=self._io(),
            slot=self._heritage.slot,
            row=self._heritage.lanes[0],
            lanes=self._lanes,
            lease=self._heritage.lease,
            intakes=self._intakes,
            interface=interface,
            host=self,
            log=self.log,
            access=self.access,
            deaf=self._say_deaf,
            watched={
                self._channel.fileno(): self._on_message,
                self._signals.fileno(): self._on_signal,
            },
            after_turn=self._after_turn,
            serves=self._serves,
            ask_stacks=self._ask_stacks,
        )
        try:
            return row.make(context)
        except OSError as error:
            what = SystemCallError("wait", "its descriptors", error)  # epoll_ctl(2) and the like
            raise ForkdError(f"model {self._heritage.config.model} could not begin: {what}") from error
        except RuntimeError as error:
            if "start new thread" not in str(error):
                raise
            why = process.why_no_fork(OSError(errno.EAGAIN, ""))  # all that pthread_create(3) says
            raise ForkdError(f"--threads {self._heritage.config.threads}: {why}") from error

    # ---- while it serves ------------------------------------------------------------------

    def _serves(self, model: Model) -> None:
        """In a process that the model has forked for a client, which has closed what is the worker's."""
        self._model = model
        self._has_channel = False

    def _ask_stacks(self, pidfd: int) -> Callable[[], str]:
        """A process that the model has forked writes where this one would."""
        stacks = self._heritage.stacks
        at = os.lseek(stacks, 0, os.SEEK_CUR)
        process.send_signal(pidfd, STACKS)
        return lambda: os.pread(stacks, _MAX_STACKS_BYTES, at).decode("utf-8", "replace").strip()

    def _on_message(self) -> None:
        assert self._model is not None
        messages = self._channel.receive(trusted=True)
        if messages is None:
            # The master is gone, and with it the service; PDEATHSIG is the belt to this brace.
            os._exit(0)
        for message in messages:
            if isinstance(message, Retire):
                for intake in self._intakes:
                    intake.final = message.ends
                self.ends = message.ends
                self._retire(message.idle_grace, message.drain_queue)
            elif isinstance(message, Quit):
                self._model.abandon()
            elif isinstance(message, Trim):
                memory.give_memory_back()
            elif isinstance(message, Relisten):
                self._model.relisten(*message)

    def _say_deaf(self, number: int) -> None:
        self._channel.send(Deaf(number))

    def _on_signal(self) -> None:
        if signal.SIGTERM in self._signals.read():
            self._channel.send(Recycle("SIGTERM"))  # by hand, to this child

    def _retire(self, idle_grace: float, drain_queue: bool) -> None:
        if not self.draining:
            assert self._model is not None
            self.draining = True
            set_title(f"worker {self._heritage.slot} (retiring)", self._heritage.config.name)
            self._hooks.call("worker_retiring", self._place)
            self._model.retire(idle_grace, drain_queue)

    def _after_turn(self) -> float:
        """When to be called again, at the latest."""
        again, access = NEVER, self.access
        if access is not None:
            now = monotonic()
            again = access.due(now)
            if again <= now or access.sink.waiting:
                again = now + _LOG_RETRY_SECONDS if access.flush() else NEVER
        if self.log.sink.waiting:
            self.log.sink.retry()
            again = min(again, monotonic() + _LOG_RETRY_SECONDS)
        if self._recycle_at != _NEVER and self._answered() >= self._recycle_at:
            self._recycle_at = _NEVER
            self._channel.send(Recycle("max-requests"))
        return again

    def _answered(self) -> int:
        return sum(row.cells[REQUESTS] for row in self._rows)


def _recycle_at(config: Config) -> int:
    """After how many requests this child asks to be replaced; jitter keeps children apart."""
    if not config.max_requests:
        return _NEVER
    return config.max_requests + random.SystemRandom().randint(0, config.max_requests_jitter)


def main(heritage: Heritage) -> NoReturn:
    """The child's main; never returns to the master's code."""
    code, worker = 70, None
    try:
        worker = Worker(heritage)
        try:
            code = worker.run()
        finally:
            if in_fork:
                leave(_not_of_forkd(sys.exc_info()[1]))
            worker.exit()
    except BaseException as error:  # what escapes from here is a bug in forkd, or the app's exit
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 1
        if worker is None or not worker.ready:  # the master tells whoever waits for that, and the log
            trace = traceback.format_exc().rstrip()
            heritage.channel.send(Failed(f"worker {heritage.slot} crashed while it booted\n{trace}"))
        elif not isinstance(error, SystemExit):
            log = Log("error", heritage.config.log_format, f"worker {heritage.slot}")
            log.exception("the child crashed")
    finally:
        forked.finish(code, joins=worker is None or not worker.leaves_threads)


def _not_of_forkd(error: BaseException | None) -> BaseException | None:
    """In a process that the application has forked in a handler of a signal: forkd may have noticed it by
    what could not be waited for any more."""
    return None if isinstance(error, OSError) else error


def end_in_fork(own: Iterable[int], stacks: int) -> None:
    """In a process that the application has forked: its signals are those of a process that knows nothing of
    forkd, and so are its descriptors, but for their numbers. Those stay taken, each by a descriptor that can
    do nothing: objects that have them here may close them, and must not close others. The parent is not
    disturbed, and its clients see the end of their connections when it ends them.

    `stacks` leads to stderr: a crash of this process is no report of the parent's.
    """
    own = set(own)
    own |= end_signals(own)
    nothing = os.open("/", os.O_PATH | os.O_CLOEXEC)
    for fd in own:
        if fd >= 0:
            os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)
    with contextlib.suppress(OSError):
        os.dup2(2, stacks, inheritable=False)


def prepare(
    title: str, config: Config, identity: Identity | None, master: int,
    sockets: SignalSockets,
) -> None:  # fmt: skip
    """What each process that the master forks does once it has closed what is not its own: be named,
    be who the configuration says, gain no rights any more, and end with the master. Foreign code is
    imported after it, and does not find what forkd has imported for itself."""
    set_requirements_aside()
    set_title(title, config.name)
    if config.umask is not None:
        os.umask(config.umask)
    if identity is not None:
        if identity[0] != os.geteuid():
            rights.empty_bounding_set()
        accounts.become(identity)
        if config.user is not None:
            os.environ.update(accounts.login_environ(identity[0]))
    rights.empty_inheritable_set()
    if not config.new_privileges:
        rights.allow_no_new_privileges()
    terminal.leave()  # of a master that leads a session
    process.die_with_parent(master)  # after become(), which clears it
    sockets.listen()
    stdio.print_by_lines()
