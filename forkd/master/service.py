"""The service as the master knows it: facts, and what follows from them.

Only master/main.py assigns a field. A decision takes the fields that it reads, by name, and returns what
is to be done; `status` and `verbs` read all of it. In the master.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from forkd.config.sources import Sources
from forkd.log.lines import Log
from forkd.master import plan
from forkd.master.children import Child, Children, State
from forkd.master.events import Events
from forkd.master.generation import Generation
from forkd.master.launch import Launch
from forkd.master.phase import Phase
from forkd.master.upgrade import Upgrade
from forkd.session.begin import Begin
from forkd.system.loop import Loop
from forkd.system.scoreboard import Scoreboard
from forkd.system.sockets import Listener


@dataclass
class Service:
    sources: Sources
    launch: Launch
    loop: Loop
    log: Log
    events: Events
    board: Scoreboard
    children: Children
    generation: Generation  # the newest that serves, or that is to serve first
    phase: Phase
    #: The listeners' flags are for this master to set: not in an heir before it serves, nor after an upgrade.
    owns: bool
    #: For so many there is room, whatever a reload brings.
    max_workers: int
    incoming: Generation | None = None  # a reload brings it up
    leaving: tuple[Generation, ...] = ()  # replaced, with children left; the newest last
    backoff: plan.Backoff = field(default_factory=plan.Backoff)
    incoming_backoff: plan.Backoff = field(default_factory=plan.Backoff)
    upgrade: Upgrade | None = None  # under way, or carried out
    paused: str = ""  # by what there are to be no children until they are asked for; "": there are
    fallback: str = ""  # why the children do not use the configured --io
    last_error: str = ""
    exit_code: int = 0
    started: float = field(default_factory=monotonic)

    def generations(self) -> list[Generation]:
        """All that have listeners or a lease open."""
        incoming = [self.incoming] if self.incoming is not None else []
        return [self.generation, *incoming, *self.leaving]

    def generations_that_serve(self) -> list[Generation]:
        """The newest first."""
        return [self.generation, *reversed(self.leaving)]

    def generation_of(self, child: Child) -> Generation | None:
        """None when that was withdrawn, and the child killed with it."""
        return next((g for g in self.generations() if g.number == child.generation), None)

    def children_of(self, generation: Generation) -> list[Child]:
        return [child for child in self.children if child.generation == generation.number]

    def serving(self, generation: Generation) -> list[Child]:
        """The children of a generation that serve."""
        return [child for child in self.children_of(generation) if child.state is State.READY]

    def ready_count(self) -> int:
        """Children that serve, those that a reload has not replaced yet included."""
        return sum(len(self.serving(generation)) for generation in self.generations_that_serve())

    def listeners(self) -> list[Listener]:
        """Those that are to let clients in, the incoming generation's included."""
        incoming = self.incoming.listeners if self.incoming is not None else []
        return list(dict.fromkeys(self.generation.listeners + incoming))

    def begin_of(self, listener: Listener) -> Begin:
        """What connections begin with that one of these accepts."""
        return next(g.begins[listener] for g in self.generations() if listener in g.begins)

    @property
    def responsible(self) -> bool:
        """This master has to see to it that the listeners let clients in. Not one that stops, whose children
        shut them down, nor one beside which another is responsible."""
        return self.owns and not self.phase.stopping

    @property
    def handed_over(self) -> bool:
        """A new master serves on the listeners."""
        return self.upgrade is not None and self.upgrade.succeeded
