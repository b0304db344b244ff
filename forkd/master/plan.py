"""What the master should do next, as a pure function of what is.

The master calls `plan` after every turn of its loop and performs the actions; what it forks or
kills changes the children, and the next call sees that. Nothing here reads a clock or makes a
system call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from forkd.master.children import Child, State

#: Consecutive crashes after which the breaker opens: one attempt at a time from then on.
BREAKER_CRASHES = 5
#: A child that served this long was no crash at start (seconds).
SETTLED_SECONDS = 5.0
#: Why a child is killed that has not become ready in time.
BOOT_TIMEOUT = "boot-timeout"
#: Seconds that a killed child may take to end, before a stop goes on without it.
DEATH_SECONDS = 3.0
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 30.0
_LONGEST_SHORTAGE_SECONDS = 1.0


@dataclass(frozen=True)
class Backoff:
    """How long to wait before children are forked again after crashes."""

    crashes: int = 0  # in a row
    not_before: float = 0.0  # monotonic seconds
    error: str = ""  # the last one
    waits: int = 0  # in a row, for what was no crash

    def crashed(self, now: float, error: str) -> Backoff:
        """Doubling from 0.1 s to 30 s; the first respawn is immediate."""
        later = now + _delay(self.crashes, _LONGEST_DELAY_SECONDS)
        return Backoff(self.crashes + 1, later, error, self.waits)

    def killed(self, now: float, error: str) -> Backoff:
        """As `crashed`, for one that was killed from outside while it booted: the breaker stays as it is."""
        later = now + _delay(self.waits, _LONGEST_DELAY_SECONDS)
        return Backoff(self.crashes, max(later, self.not_before), error, self.waits + 1)

    def short(self, now: float, error: str) -> Backoff:
        """None could be forked: the machine has no room. It is seldom for long, so a second is the most."""
        later = now + _delay(self.waits + 1, _LONGEST_SHORTAGE_SECONDS)
        return Backoff(self.crashes, max(later, self.not_before), error, self.waits + 1)

    def settled(self) -> Backoff:
        return replace(self, crashes=0, waits=0, not_before=0.0)

    @property
    def open(self) -> bool:
        """The crash-loop breaker is open."""
        return self.crashes >= BREAKER_CRASHES


def _delay(before: int, most: float) -> float:
    return 0.0 if before == 0 else min(most, _FIRST_DELAY_SECONDS * 2.0 ** min(before - 1, 30))


@dataclass(frozen=True)
class Scene:
    """All that a decision depends on."""

    now: float
    want: int  # children that the active generation should have
    active: int  # its number
    incoming: int | None = None  # the generation that a reload brings up
    incoming_want: int = 0
    surge: int = 0  # children beyond `want` that a reload may have; 0: as many as it needs
    stopping: bool = False
    stopping_soon: bool = False  # no child that still serves is worth replacing
    backoff: Backoff = Backoff()
    children: tuple[Child, ...] = ()
    incoming_not_before: float = 0.0  # when the incoming generation may have its next child


@dataclass(frozen=True)
class Spawn:
    generation: int
    count: int


@dataclass(frozen=True)
class RetireChild:
    child: Child
    why: str


@dataclass(frozen=True)
class KillChild:
    child: Child
    why: str


@dataclass(frozen=True)
class Activate:
    """The incoming generation is ready, or as much of it as there may be: it takes over."""


@dataclass(frozen=True)
class Exit:
    """Stopped, and no child is left."""


@dataclass(frozen=True)
class WakeAt:
    """Nothing to do before that time."""

    when: float


Action = Spawn | RetireChild | KillChild | Activate | Exit | WakeAt


def plan(scene: Scene) -> list[Action]:
    """What to do now, and at most one WakeAt: the earliest, since the next call finds the others."""
    actions = _decide(scene)
    wakes = [a for a in actions if isinstance(a, WakeAt)]
    todo = [a for a in actions if not isinstance(a, WakeAt)]
    return [*todo, *sorted(wakes, key=lambda a: a.when)[:1]]


def _decide(scene: Scene) -> list[Action]:
    actions: list[Action] = list(_overdue(scene))
    if scene.stopping:
        actions += [RetireChild(c, "stop") for c in scene.children if c.state in _SERVING]
        ends = [_ends_at(child) for child in scene.children]
        if all(end <= scene.now for end in ends):
            return [Exit()]
        return actions + [WakeAt(end) for end in ends if scene.now < end < _NEVER]
    actions += _bring_up(scene)
    if Activate() in actions:
        return actions  # what the generation before would need is of no use any more
    actions += _keep(scene)
    actions += [RetireChild(child, "reload") for child in _outdated(scene)]
    return actions


_SERVING = (State.STARTING, State.READY)
_NEVER = float("inf")


def _ends_at(child: Child) -> float:
    """Until when a stop waits for the end of a child. A killed one that waits in the kernel for a disk or a
    server that does not answer ends by no signal."""
    killed = child.state is State.KILLED and child.killed is not None
    return (child.killed or 0.0) + DEATH_SECONDS if killed else _NEVER


def _overdue(scene: Scene) -> Iterable[Action]:
    """Retiring children whose time is up are killed, and those that boot for too long."""
    for child in scene.children:
        if child.state in (State.RETIRING, State.STARTING):
            if child.deadline <= scene.now:
                booting = child.state is State.STARTING
                yield KillChild(child, BOOT_TIMEOUT if booting else child.why or "retire")
            elif child.deadline != float("inf"):
                yield WakeAt(child.deadline)


def _bring_up(scene: Scene) -> list[Action]:
    """The incoming generation: all its children first, then it takes over in one step; or, with a
    limit to their number, the first of them, and the others as those before them go."""
    if scene.incoming is None:
        return []
    serving = [c for c in scene.children if c.generation == scene.incoming and c.state in _SERVING]
    wanted = scene.incoming_want
    missing = (min(wanted, scene.surge) if scene.surge else wanted) - len(serving)
    if missing > 0:
        if scene.incoming_not_before > scene.now:
            return [WakeAt(scene.incoming_not_before)]
        return [Spawn(scene.incoming, missing)]
    if all(c.state is State.READY for c in serving):
        return [Activate()]
    return []


def _keep(scene: Scene) -> list[Action]:
    """The active generation: as many children as wanted, replacements one at a time."""
    mine = [c for c in scene.children if c.generation == scene.active]
    starting = [c for c in mine if c.state is State.STARTING]
    ready = [c for c in mine if c.state is State.READY]
    # A TERM for the whole process group asks all children to be replaced, too.
    worn = [c for c in ready if c.replace and not scene.stopping_soon]
    serving = len(starting) + len(ready)
    # One more while one is being replaced: the new one is ready before the old one retires.
    want = scene.want + (1 if worn and scene.want else 0)
    if serving < want:
        missing = want - serving
        if scene.surge and _old(scene):
            missing = min(missing, scene.want + scene.surge - len(scene.children))
        return _spawn(scene, missing, starting) if missing > 0 else []
    if worn and len(ready) > scene.want:
        gone = _succeeded(worn, ready)
        return [RetireChild(gone, gone.replace or "replace")]
    surplus = serving - want
    if surplus > 0:
        # The highest numbers go first, so that 1 to N are left; and those that do not serve yet before
        # those that do.
        doomed = sorted(starting, key=_rank) + sorted(ready, key=_rank)
        return [RetireChild(c, "scale-down") for c in doomed[:surplus]]
    return []


def _outdated(scene: Scene) -> list[Child]:
    """Who is to go of the generations before: all; or, with a limit to the number of children, one for
    each that is ready in its place, which has the same number, and so the same socket."""
    old = sorted((c for c in _old(scene) if c.state in _SERVING), key=lambda c: c.number)
    if not scene.surge:
        return old
    ready = sum(c.generation == scene.active and c.state is State.READY for c in scene.children)
    return old[: max(0, ready + len(old) - scene.want)]


def _old(scene: Scene) -> list[Child]:
    return [c for c in scene.children if c.generation not in (scene.active, scene.incoming)]


def _succeeded(worn: list[Child], ready: list[Child]) -> Child:
    """Which of the worn ones is replaced now: the one whose number, and so whose socket under reuseport, a
    new child has. Any other would leave its number unused for as long as its own successor boots."""
    fresh = {c.number for c in ready if not c.replace}
    return next((c for c in worn if c.number in fresh), worn[0])


def _rank(child: Child) -> tuple[int, float]:
    return (-child.number, -child.forked)


def _spawn(scene: Scene, missing: int, starting: list[Child]) -> list[Action]:
    backoff = scene.backoff
    if backoff.not_before > scene.now:
        return [WakeAt(backoff.not_before)]
    if backoff.open:
        return [] if starting else [Spawn(scene.active, 1)]
    return [Spawn(scene.active, missing)]
