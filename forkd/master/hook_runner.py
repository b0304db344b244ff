"""Hooks of the daemon: each runs in a process that the master forks for it, and that then ends.

So the master stays free of the application's code. A hook that fails, or takes longer than `--timeout`
(or, where that is 0, `--boot-timeout`) is logged, and what waited for it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, NoReturn

from forkd.app.hooks import Hooks, Place
from forkd.errors import ForkdError, StartError
from forkd.log.lines import Log
from forkd.master import plan
from forkd.master.generation import Generation
from forkd.master.signalling import send
from forkd.master.spawn import Spawner
from forkd.system import forked, process, shared
from forkd.system.accounts import Identity
from forkd.system.loop import Loop
from forkd.system.originals import monotonic, os, signal
from forkd.system.signal_sockets import SignalSockets
from forkd.worker import main as worker


class HookProcess(NamedTuple):
    """The process of one hook, and what waits for it."""

    hook: str
    pid: int
    pidfd: int
    sockets: SignalSockets
    then: Callable[[], None]

    @property
    def timer(self) -> str:
        return f"hook {self.pid}"

    def __str__(self) -> str:
        return f"hook {self.hook} (pid {self.pid})"

    def close(self) -> None:
        os.close(self.pidfd)
        self.sockets.close()


class HookRunner:
    """In the master."""

    def __init__(self, loop: Loop, log: Log, spawner: Spawner) -> None:
        self._loop = loop
        self._log = log
        self._nursery = spawner
        self._running: dict[int, HookProcess] = {}  # by pid

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def describe(self) -> str:
        """What runs, in a sentence; empty when nothing does."""
        running = [f"{child} is still running" for child in self._running.values()]
        return running[0] if running else ""

    def pids(self) -> list[int]:
        return list(self._running)

    def run(self, hook: str, generation: Generation, then: Callable[[], None]) -> None:
        """Call `then` when the hook is done, or will not be."""
        config = generation.config
        if config.hooks is None:
            then()
            return
        try:
            generation.enter()
            child = self._fork(hook, generation, then)
        except (OSError, StartError) as error:
            why = process.why_no_fork(error) if isinstance(error, OSError) else error
            self._log.error(f"hook {hook} is left out: {why}")
            then()
            return
        self._running[child.pid] = child
        self._loop.watch(child.pidfd, partial(self._ended, child))
        limits = ("--timeout", config.timeout), ("--boot-timeout", config.boot_timeout)
        for option, seconds in limits:
            if seconds:
                late = partial(self._late, child, f"{seconds:g} s ({option})")
                self._loop.timers.set(child.timer, monotonic() + seconds, late)
                break

    def _fork(self, hook: str, generation: Generation, then: Callable[[], None]) -> HookProcess:
        """Raises OSError."""
        ours, theirs = SignalSockets.pair((signal.SIGKILL, signal.SIGTERM))
        masters = self._nursery.forgetting(keep=set())

        def forget() -> None:
            ours.close()
            masters()

        identity = self._nursery.identity
        units = self._nursery.shared.units(generation.config)
        try:
            forked = process.fork(
                partial(_main, hook, generation, os.getpid(), identity, units, forget, theirs)
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return HookProcess(hook, *forked, ours, then)

    def give_up_boot(self, seconds: float) -> None:
        """What is about to boot is not wanted any more: nor is its hook, which gets `seconds` to end in
        order."""
        for child in self._running.values():
            if child.hook != "on_exit":  # no child waits for that one
                send(self._log, child, signal.SIGTERM)
                kill = partial(self._kill, child)
                self._loop.timers.set(child.timer, monotonic() + seconds, kill)

    def kill(self) -> None:
        for child in self._running.values():
            self._kill(child)

    def forget(self) -> None:
        """In a child."""
        for child in self._running.values():
            child.close()

    def _late(self, child: HookProcess, limit: str) -> None:
        self._log.error(f"{child}: not done in {limit}; killed")
        self._kill(child)

    def _kill(self, child: HookProcess) -> None:
        send(self._log, child, signal.SIGKILL)
        late = partial(self._leave, child)
        self._loop.timers.set(child.timer, monotonic() + plan.DEATH_SECONDS, late)

    def _leave(self, child: HookProcess) -> None:
        """SIGKILL does not end it: it waits in the kernel, for a disk perhaps, and nobody waits for it."""
        self._log.error(f"{child} {process.unkillable(child.pid)}")
        self._done(child)

    def _ended(self, child: HookProcess) -> None:
        code = process.reap(child.pid)
        if code is None:
            return
        if code:
            how = f"exit code {code}" if code > 0 else process.exit_reason(code)
            self._log.error(f"{child} failed: {how}")
        self._done(child)

    def _done(self, child: HookProcess) -> None:
        del self._running[child.pid]
        self._loop.unwatch(child.pidfd)
        child.close()
        self._loop.timers.cancel(child.timer)
        child.then()


# ---- in the forked process ------------------------------------------------------------------


def _main(
    hook: str,
    generation: Generation,
    master: int,
    identity: Identity | None,
    units: shared.Units,
    forget: Callable[[], None],
    sockets: SignalSockets,
) -> NoReturn:
    """Become what a worker is, without its sockets; run the hook; exit."""
    config, code = generation.config, 1
    log = Log(config.log_level, config.log_format, f"hook {hook}")
    try:
        for number in (signal.SIGTERM, signal.SIGCHLD, *worker.QUIET):
            signal.signal(number, signal.SIG_DFL)
        forget()
        shared.enter(units, 0)
        worker.prepare(f"hook {hook}", config, identity, master, sockets)
        process.unblock()
        forked.arm(lambda: None)  # there is nothing of forkd's in it
        here = Place("own", os.getpid(), master, config.name, generation.number)
        code = 0 if Hooks.load(config.hooks, log).call(hook, here) else 1
    except ForkdError as error:
        log.error(str(error))
    except BaseException:
        log.exception("a bug in forkd")
    log.sink.end()
    forked.finish(code)
