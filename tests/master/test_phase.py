"""The table of the master's life."""

from __future__ import annotations

import inspect
from unittest.mock import MagicMock

import pytest

from forkd.errors import ForkdError
from forkd.master.operator import Operator
from forkd.master.phase import PHASES, Action, Cell, Event, Phase, after
from forkd.master.signals import SIGNALS

BOOTING = (Phase.STARTING, Phase.INHERITING)
TOLD = (Phase.LAME_DUCK, Phase.LAST_CALL)
STOPPING = (Phase.STOPPING, Phase.HANDED_OVER, Phase.LEAVING, Phase.ENDED)


def test_a_start_serves_or_is_given_up() -> None:
    for phase in BOOTING:
        assert after(phase, Event.PROVEN) == (Phase.SERVING, Action.ANNOUNCE)
        assert after(phase, Event.BOOT_FAILED) == (Phase.ENDED, Action.GIVE_UP)
    for phase in (Phase.SERVING, *TOLD, *STOPPING):
        assert after(phase, Event.PROVEN) == after(phase, Event.BOOT_FAILED) == (phase, Action.NOTHING)


def test_only_a_service_that_has_answered_goes_on_accepting_when_it_is_told_to_stop() -> None:
    assert after(Phase.SERVING, Event.LAME) == (Phase.LAME_DUCK, Action.HOLD_OUT)
    assert after(Phase.SERVING, Event.LAST_CALL) == (Phase.LAST_CALL, Action.HOLD_OUT)
    assert after(Phase.SERVING, Event.TERM) == (Phase.STOPPING, Action.WIND_UP)
    for event in (Event.TERM, Event.LAME, Event.LAST_CALL):
        for phase in (*BOOTING, *TOLD):  # told again
            assert after(phase, event) == (Phase.STOPPING, Action.WIND_UP)
        for phase in STOPPING:
            assert after(phase, event) == (phase, Action.NOTHING)
    for phase in TOLD:
        assert after(phase, Event.TIME_OVER) == (Phase.STOPPING, Action.WIND_UP)


def test_int_ends_what_is_left_in_every_phase() -> None:
    for phase in Phase:
        if phase in STOPPING:
            assert after(phase, Event.INT) == (phase, Action.QUIT)
        else:
            assert after(phase, Event.INT) == (Phase.STOPPING, Action.WIND_UP_AND_QUIT)


def test_the_end() -> None:
    assert after(Phase.STOPPING, Event.CHILDLESS) == (Phase.LEAVING, Action.RUN_ON_EXIT)
    assert after(Phase.LEAVING, Event.CHILDLESS) == (Phase.LEAVING, Action.NOTHING)  # once
    assert after(Phase.LEAVING, Event.HOOK_DONE) == (Phase.ENDED, Action.END)
    assert after(Phase.HANDED_OVER, Event.CHILDLESS) == (Phase.ENDED, Action.END)


def test_what_is_refused_when_the_master_has_been_told_to_stop() -> None:
    for phase in (*TOLD, *STOPPING):
        with pytest.raises(ForkdError, match="the master is stopping"):
            after(phase, Event.RELOAD)
        with pytest.raises(ForkdError, match="not now: a stop, a reload or an upgrade is under way"):
            after(phase, Event.UPGRADE)
    for phase in (*BOOTING, Phase.SERVING):
        assert after(phase, Event.RELOAD) == (phase, Action.RELOAD)
        assert after(phase, Event.UPGRADE) == (phase, Action.UPGRADE)


def test_an_upgrade_ends_well_or_changes_nothing() -> None:
    for phase in (Phase.STARTING, Phase.SERVING):
        assert after(phase, Event.HEIR_SERVES) == (Phase.HANDED_OVER, Action.HAND_OVER)
    for phase in Phase:
        assert after(phase, Event.HEIR_FAILED) == (phase, Action.GO_ON)


def test_each_phase_can_be_reached_and_left() -> None:
    cells = {key: cell for key, cell in PHASES.items() if isinstance(cell, Cell)}
    reached = {cell.phase for (phase, _), cell in cells.items() if cell.phase is not phase}
    left = {phase for (phase, _), cell in cells.items() if cell.phase is not phase}
    assert reached == set(Phase) - set(BOOTING)
    assert left == set(Phase) - {Phase.ENDED}


def test_the_docstring_has_the_phases_in_their_order() -> None:
    text = inspect.getdoc(inspect.getmodule(Phase)) or ""
    _, table, *_ = text.split("===\n")[1:]
    rows = [line.split()[0] for line in table.splitlines() if line[:1].isalpha()]
    assert rows == [phase.name for phase in Phase if phase is not Phase.ENDED]


def test_each_signal_names_what_is_done() -> None:
    anything = MagicMock()
    operator = Operator(anything, anything, anything, anything.reap)
    assert {row.does for row in SIGNALS} == set(operator.does)
