"""The life of the master as a table: its phases, and what each event does in each of them.

A cell names the next phase and an action of master/main.py, or the refusal that the caller of the verb
reads. An event without a cell changes nothing. In the master.

===========  ========  ===========  =======================  =============  ===========  ==============
phase        proven    boot_failed  term, lame, last_call    int            heir_serves  besides
===========  ========  ===========  =======================  =============  ===========  ==============
STARTING     SERVING   ENDED        STOPPING                 STOPPING, now  HANDED_OVER
INHERITING   SERVING   ENDED        STOPPING                 STOPPING, now
SERVING                             STOPPING, or LAME_DUCK,  STOPPING, now  HANDED_OVER
                                    LAST_CALL
LAME_DUCK                           STOPPING                 STOPPING, now               time_over:
                                                                                         STOPPING
LAST_CALL                           STOPPING                 STOPPING, now               time_over:
                                                                                         STOPPING
STOPPING                                                     now                         childless:
                                                                                         LEAVING
HANDED_OVER                                                  now                         childless:
                                                                                         ENDED
LEAVING                                                      now                         hook_done:
                                                                                         ENDED
===========  ========  ===========  =======================  =============  ===========  ==============

`reload` and `upgrade` are carried out in the first three phases and refused in the others. `heir_failed`
leaves the phase as it is.

STARTING     the first generation boots, and has not served yet
INHERITING   the same in the heir of an upgrade: the listeners are the old master's until it serves
SERVING      the service has answered
LAME_DUCK    told to stop, and accepting for some seconds more (--lame-duck)
LAST_CALL    told to stop; connections that the kernel has held back are accepted for a moment
STOPPING     the children retire
HANDED_OVER  the heir of an upgrade serves; the children of this master retire
LEAVING      no child is left; the hook on_exit runs
ENDED        the loop ends

Beside the phase there are facts, which do not exclude each other: an incoming generation, an upgrade under
way, a pause (`Service.paused`), the crash breaker (`plan.Backoff`). The other signals (HUP and USR2
apart) and verbs, the events of children, and timers do not look at the phase.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from forkd.errors import ForkdError


class Phase(Enum):
    STARTING = auto()
    INHERITING = auto()
    SERVING = auto()
    LAME_DUCK = auto()
    LAST_CALL = auto()
    STOPPING = auto()
    HANDED_OVER = auto()
    LEAVING = auto()
    ENDED = auto()

    @property
    def booting(self) -> bool:
        """The service has never answered."""
        return self in (Phase.STARTING, Phase.INHERITING)

    @property
    def ending(self) -> bool:
        """Told to stop, or over: nothing new is begun."""
        return self not in (Phase.STARTING, Phase.INHERITING, Phase.SERVING)

    @property
    def stopping(self) -> bool:
        """The children retire, or have gone."""
        return self in (Phase.STOPPING, Phase.HANDED_OVER, Phase.LEAVING, Phase.ENDED)


class Event(Enum):
    PROVEN = auto()  # as many children are ready as prove the generation
    BOOT_FAILED = auto()
    TERM = auto()  # stop in order
    LAME = auto()  # the same, where --lame-duck is set
    LAST_CALL = auto()  # the same, where the kernel holds connections back
    INT = auto()  # stop at once
    TIME_OVER = auto()  # of LAME_DUCK or LAST_CALL
    RELOAD = auto()
    UPGRADE = auto()
    HEIR_SERVES = auto()
    HEIR_FAILED = auto()
    CHILDLESS = auto()
    HOOK_DONE = auto()  # on_exit


class Action(Enum):
    """What master/main.py does on the way into the next phase."""

    NOTHING = auto()
    ANNOUNCE = auto()
    GIVE_UP = auto()
    HOLD_OUT = auto()  # accept for some time more
    WIND_UP = auto()
    QUIT = auto()  # from the last phases: kill what is left
    WIND_UP_AND_QUIT = auto()
    HAND_OVER = auto()
    GO_ON = auto()  # after an upgrade that failed
    RELOAD = auto()
    UPGRADE = auto()
    RUN_ON_EXIT = auto()
    END = auto()


class Cell(NamedTuple):
    phase: Phase
    action: Action


class Refusal(NamedTuple):
    text: str


_STOPPING_NOW = Refusal("the master is stopping")
_NOT_NOW = Refusal("not now: a stop, a reload or an upgrade is under way")


def _table() -> dict[tuple[Phase, Event], Cell | Refusal]:
    table: dict[tuple[Phase, Event], Cell | Refusal] = {}
    for phase in Phase:
        table[phase, Event.HEIR_FAILED] = Cell(phase, Action.GO_ON)
        table[phase, Event.RELOAD] = _STOPPING_NOW if phase.ending else Cell(phase, Action.RELOAD)
        table[phase, Event.UPGRADE] = _NOT_NOW if phase.ending else Cell(phase, Action.UPGRADE)
        if phase.stopping:
            table[phase, Event.INT] = Cell(phase, Action.QUIT)
            continue
        table[phase, Event.INT] = Cell(Phase.STOPPING, Action.WIND_UP_AND_QUIT)
        for event in (Event.TERM, Event.LAME, Event.LAST_CALL):
            table[phase, event] = Cell(Phase.STOPPING, Action.WIND_UP)
        if phase.booting:
            table[phase, Event.PROVEN] = Cell(Phase.SERVING, Action.ANNOUNCE)
            table[phase, Event.BOOT_FAILED] = Cell(Phase.ENDED, Action.GIVE_UP)
    table[Phase.SERVING, Event.LAME] = Cell(Phase.LAME_DUCK, Action.HOLD_OUT)
    table[Phase.SERVING, Event.LAST_CALL] = Cell(Phase.LAST_CALL, Action.HOLD_OUT)
    for phase in (Phase.LAME_DUCK, Phase.LAST_CALL):
        table[phase, Event.TIME_OVER] = Cell(Phase.STOPPING, Action.WIND_UP)
    for phase in (Phase.STARTING, Phase.SERVING):
        table[phase, Event.HEIR_SERVES] = Cell(Phase.HANDED_OVER, Action.HAND_OVER)
    table[Phase.STOPPING, Event.CHILDLESS] = Cell(Phase.LEAVING, Action.RUN_ON_EXIT)
    table[Phase.HANDED_OVER, Event.CHILDLESS] = Cell(Phase.ENDED, Action.END)
    table[Phase.LEAVING, Event.HOOK_DONE] = Cell(Phase.ENDED, Action.END)
    return table


PHASES = _table()


def after(phase: Phase, event: Event) -> Cell:
    """The next phase and what to do. Raises ForkdError with the refusal, for whoever asked."""
    found = PHASES.get((phase, event), Cell(phase, Action.NOTHING))
    if isinstance(found, Refusal):
        raise ForkdError(found.text)
    return found
