"""Hooks of the daemon: each runs in a process that the master forks for it, and that then ends.

So the master stays free of the application's code. A hook that fails, or takes longer than `--timeout`
(or, where that is 0, `--boot-timeout`) is logged, and what waited for it goes on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from forkd.app.hooks import Hooks, Place
from forkd.errors import ForkdError
from forkd.log import Log
from forkd.supervise import plan, worker
from forkd.supervise.generation import Generation
from forkd.supervise.nursery import Nursery
from forkd.system import process

if TYPE_CHECKING:
    from forkd.supervise.master import Master


class Errands:
    """In the master."""

    def __init__(self, master: Master, nursery: Nursery) -> None:
        self._master = master
        self._nursery = nursery
        self._running: dict[int, int] = {}  # pid to pidfd
        self._waiting: dict[int, tuple[str, Callable[[], None]]] = {}  # pid to (hook, what waits for it)
        self._booting: set[int] = set()  # those without which no child is forked

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def pids(self) -> list[int]:
        return list(self._running)

    def run(self, hook: str, generation: Generation, then: Callable[[], None]) -> None:
        """Call `then` when the hook is done, or will not be."""
        config = generation.config
        if config.hooks is None:
            then()
            return
        master = self._master
        errand = partial(
            _main,
            hook,
            generation,
            os.getpid(),
            self._nursery.identity,
            self._nursery.forgetting(keep=set()),
        )
        try:
            pid, pidfd = process.fork(errand)
        except OSError as error:
            master.log.error(f"hook {hook} is left out: {process.why_no_fork(error)}")
            then()
            return
        self._running[pid] = pidfd
        self._waiting[pid] = hook, then
        if hook != "on_exit":
            self._booting.add(pid)
        master.loop.watch(pidfd, partial(self._ended, hook, pid, then))
        limits = ("--timeout", config.timeout), ("--boot-timeout", config.boot_timeout)
        for option, seconds in limits:
            if seconds:
                late = partial(self._late, hook, pid, f"{seconds:g} s ({option})")
                master.loop.timers.set(f"hook {pid}", monotonic() + seconds, late)
                break

    def give_up_boot(self) -> None:
        """What is about to boot is not wanted any more: nor is its hook, which gets time to end in order."""
        seconds = self._master.generation.config.graceful_timeout
        for pid in self._booting:
            process.send_signal(self._running[pid], signal.SIGTERM)
            self._master.loop.timers.set(f"hook {pid}", monotonic() + seconds, partial(self._kill, pid))

    def kill(self) -> None:
        for pid in self._running:
            self._kill(pid)

    def forget(self) -> None:
        """In a child."""
        for pidfd in self._running.values():
            os.close(pidfd)

    def _late(self, hook: str, pid: int, limit: str) -> None:
        self._master.log.error(f"hook {hook} (pid {pid}): not done in {limit}; killed")
        self._kill(pid)

    def _kill(self, pid: int) -> None:
        process.send_signal(self._running[pid], signal.SIGKILL)
        late = partial(self._leave, pid)
        self._master.loop.timers.set(f"hook {pid}", monotonic() + plan.DEATH, late)

    def _leave(self, pid: int) -> None:
        """SIGKILL does not end it: it waits in the kernel, for a disk perhaps, and nobody waits for it."""
        hook, then = self._waiting[pid]
        self._master.log.error(f"hook {hook} (pid {pid}) {process.unkillable(pid)}")
        self._forget(pid)
        then()

    def _forget(self, pid: int) -> None:
        pidfd = self._running.pop(pid)
        del self._waiting[pid]
        self._booting.discard(pid)
        self._master.loop.unwatch(pidfd)
        os.close(pidfd)
        self._master.loop.timers.cancel(f"hook {pid}")

    def _ended(self, hook: str, pid: int, then: Callable[[], None]) -> None:
        code = process.reap(pid)
        if code is None:
            return
        self._forget(pid)
        if code:
            how = f"exit code {code}" if code > 0 else process.exit_reason(code)
            self._master.log.error(f"hook {hook} (pid {pid}) failed: {how}")
        then()


# ---- in the forked process ------------------------------------------------------------------


def _main(
    hook: str,
    generation: Generation,
    master: int,
    identity: tuple[int, int, list[int]] | None,
    forget: Callable[[], None],
) -> NoReturn:
    """Become what a worker is, without its sockets; run the hook; exit."""
    config, code = generation.config, 1
    log = Log(config.log_level, config.log_format, f"hook {hook}")
    try:
        for number in (signal.SIGTERM, signal.SIGCHLD, *worker.QUIET):
            signal.signal(number, signal.SIG_DFL)
        forget()
        worker.settle(f"hook {hook}", config, identity, master)
        process.unblock()
        here = Place("own", os.getpid(), master, config.name, generation.number)
        code = 0 if Hooks.load(config.hooks, log).call(hook, here) else 1
    except ForkdError as error:
        log.error(str(error))
    except BaseException:
        log.exception("a bug in forkd")
    log.sink.end()
    worker.leave(code)
