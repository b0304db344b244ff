"""Reload: a new generation beside the old, which takes over when all its children are ready.

One at a time; what is asked for meanwhile (SIGHUP, `forkd reload`) supersedes it: whoever waits for it is
told so, and the new one begins (docs/decisions/0026-boot.md).
A configuration that is wrong, an address that cannot be bound, a child that cannot boot: the old
generation goes on serving, and whoever asked is told why. In the master.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from forkd.config import keep_unreloadable, unreloadable
from forkd.errors import BindError, ConfigError, StartError
from forkd.models import registry
from forkd.supervise import plan
from forkd.supervise.children import State
from forkd.supervise.control import Request
from forkd.supervise.generation import Generation
from forkd.system import process
from forkd.system.sockets import Listener

if TYPE_CHECKING:
    from forkd.supervise.master import Master


class Reloader:
    def __init__(self, master: Master) -> None:
        self.incoming: Generation | None = None
        self.backoff = plan.Backoff()  # of the incoming generation's children
        self.results: Counter[str] = Counter(success=0, failure=0, superseded=0)
        self._master = master
        self._waiters: list[Request] = []
        self._fixed: list[str] = []  # options that changed and that a reload cannot change
        #: Who asked for one that begins when children that were killed have gone: they have the slots.
        self._again: list[Request] | None = None

    def begin(self, request: Request | None = None) -> None:
        """Bring up a new generation; `request` is answered when that has ended. One that is not ready yet
        is given up for it: its code may be what was mended."""
        self._supersede()
        self._begin([request] if request else [])

    def proceed(self) -> None:
        """A child has gone: there may be room for a reload that waits for that."""
        if self._again is not None:
            again, self._again = self._again, None
            self._begin(again)

    def _supersede(self) -> None:
        if self.incoming is None and self._again is None:
            return
        master = self._master
        why = "superseded: another reload was asked for before this one was ready"
        master.log.warning(f"reload {why}")
        self.results["superseded"] += 1
        waiting, self._again = self._again or [], None
        self._waiters += waiting
        self._withdraw(why, "superseded")
        master.generation.defer()
        master.errands.give_up_boot()

    def _begin(self, waiters: list[Request]) -> None:
        self._waiters = waiters
        master, old = self._master, self._master.generation
        try:
            loaded = master.sources.load(registry.RULES)
            config = keep_unreloadable(old.config, loaded)
            if registry.lanes(config) > master.board.threads:
                raise StartError(
                    f"model {config.model} needs more rows of the scoreboard than this master has; "
                    "restart"
                )
            # After SIGWINCH the number is back at what is configured.
            same_size = config.workers == old.config.workers and master.paused != "SIGWINCH"
            most = old.most if same_size else config.workers.max
            if most > master.most_workers:
                raise StartError(
                    f"workers {config.workers}: there may be up to {master.most_workers} (--max-workers) "
                    "until the next restart"
                )
            if len(master.children) + most > master.children.slots:
                if any(child.state is State.KILLED for child in master.children):
                    self._again, self._waiters = waiters, []
                    return
                raise StartError(
                    f"workers {config.workers}: {len(master.children)} are there still, and there is room "
                    f"for {master.children.slots}, old and new together; try again when some have gone"
                )
            binds = master.launch.binds_of(config)
            master.listening.restore_own()
            master.listening.restore(binds)
            self.incoming = Generation.build(
                old.number + 1, config, binds, master.bells,
                known=old.listeners,
            )  # fmt: skip
        except (ConfigError, BindError, StartError) as error:
            self.fail(str(error))
            return
        for listener in old.listeners:
            if listener not in self.incoming.listeners:
                listener.defer(False)  # until it is closed, what was held back has come
        self.backoff = plan.Backoff()
        self.incoming.warn(master.log)
        process.share_heap()
        master.logs.open(self.incoming.number, config)
        if same_size:
            self.incoming.keep_size(old)
        self._fixed = unreloadable(old.config, loaded)
        if self._fixed:
            master.log.warning(f"reload: changed, but need a restart: {', '.join(self._fixed)}")
        master.notifier.reloading()
        master.log.info(f"reloading: generation {self.incoming.number}")
        master.errands.run("on_reload", self.incoming, lambda: None)

    def complete(self) -> Generation:
        """The incoming generation is ready: return it, to be made the active one."""
        new = self.incoming
        assert new is not None
        self.incoming = None
        return new

    def succeeded(self) -> None:
        """The new generation serves."""
        self.results["success"] += 1
        generation = self._master.generation
        unused = generation.unused()
        for line in unused:
            self._master.log.warning(f"reload: {line}")
        self._master.notifier.ready()
        for waiter in self._waiters:
            waiter.answer(generation=generation.number, restart=self._fixed, unused=unused)
        self._waiters = []

    def fail(self, error: str) -> None:
        """The old generation goes on."""
        master = self._master
        master.last_error = error
        master.log.error(f"reload failed; generation {master.generation.number} goes on:\n{error}")
        self.results["failure"] += 1
        self._withdraw(error, "reload-failed")
        master.generation.defer()
        master.notifier.ready()

    def abort(self, why: str) -> None:
        """The master has something better to do; nothing more is begun."""
        if self._again is not None:
            self._waiters += self._again
            self._again = None
        self._withdraw(why, "reload-failed")

    def listeners(self) -> list[Listener]:
        return self.incoming.listeners if self.incoming is not None else []

    def _withdraw(self, error: str, reason: str) -> None:
        new, self.incoming = self.incoming, None
        if new is not None:
            for child in self._master.children:
                if child.generation == new.number:
                    self._master.kill(child, reason)
            # The next generation has the same number, and shall not have this one's code.
            self._master.keep_templates()
            new.close(keep=self._master.generation.listeners)
            self._master.logs.close(new.number)
        for waiter in self._waiters:
            waiter.refuse(error)
        self._waiters = []
