"""plan.plan: what the master does next, as tables of scene and actions. Nothing is forked here."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from forkd.master import plan
from forkd.master.children import Child, State
from forkd.master.plan import Activate, Backoff, Exit, KillChild, RetireChild, Scene, Spawn, WakeAt

NOW = 100.0
STARTING, READY, RETIRING, KILLED = State.STARTING, State.READY, State.RETIRING, State.KILLED


def child(slot: int, state: State = READY, generation: int = 1, **fields: Any) -> Child:
    fields.setdefault("forked", float(slot))
    none: Any = None
    return Child(
        slot=slot, number=slot - 1, generation=generation, pid=1000 + slot, pidfd=-1,
        channel=none, stacks=-1, sockets=none, queue=None, state=state, **fields,
    )  # fmt: skip


def scene(*children: Child, want: int = 2, **fields: Any) -> Scene:
    return Scene(now=NOW, want=want, active=1, children=children, **fields)


def slots(actions: list[Any], kind: type) -> list[int]:
    return [a.child.slot for a in actions if isinstance(a, kind)]


# ---- start and respawn --------------------------------------------------------------------


def test_start_forks_what_is_wanted() -> None:
    assert plan.plan(scene(want=3)) == [Spawn(1, 3)]


@pytest.mark.parametrize("state", [STARTING, READY])
def test_enough_means_nothing_to_do(state: State) -> None:
    assert plan.plan(scene(child(1, state), child(2, state))) == []


@pytest.mark.parametrize("state", [RETIRING, KILLED])
def test_who_is_leaving_does_not_count(state: State) -> None:
    assert Spawn(1, 1) in plan.plan(scene(child(1), child(2, state)))


def test_a_dead_child_is_replaced_at_once() -> None:
    backoff = Backoff().crashed(NOW, "boom")
    assert plan.plan(scene(child(1), backoff=backoff)) == [Spawn(1, 1)]


def test_only_the_earliest_wake_up_is_asked_for() -> None:
    leaving = [child(n, RETIRING, deadline=NOW + d) for n, d in ((1, 9.0), (2, 3.0), (3, 6.0))]
    backoff = Backoff(2, NOW + 5.0)
    found = plan.plan(scene(*leaving, backoff=backoff))
    assert [a for a in found if isinstance(a, WakeAt)] == [WakeAt(NOW + 3.0)]


# ---- a reload with a limit to the number of children ------------------------------------------


@pytest.mark.parametrize("surge", [1, 2, 3, 9])
@pytest.mark.parametrize("want", [1, 2, 4])
def test_a_rolling_reload_has_never_too_many_nor_too_few(want: int, surge: int) -> None:
    """Each step does what the plan says, then one child, drawn at random, gets ready or is gone."""
    rng = random.Random(want * 10 + surge)
    for _ in range(50):
        children = [child(n + 1) for n in range(want)]
        incoming: int | None = 2
        active = 1
        for _ in range(1000):
            while True:
                found = plan.plan(
                    Scene(NOW, want, active, incoming, want, surge, children=tuple(children))
                )
                todo = [a for a in found if not isinstance(a, WakeAt)]
                if not todo:
                    break
                for action in todo:
                    if isinstance(action, Spawn):
                        taken = {c.number for c in children if c.generation == action.generation}
                        for number in [n for n in range(want + 1) if n not in taken][
                            : action.count
                        ]:
                            new = child(number + 1, STARTING, action.generation)
                            children.append(new)
                    elif isinstance(action, Activate):
                        active, incoming = 2, None
                    else:
                        assert isinstance(action, RetireChild)
                        assert action.child.on("retire")
                        action.child.deadline = NOW + 1
                serving = [c for c in children if c.state is READY and c.generation <= active]
                assert len(serving) >= want
                assert len(children) <= want + surge
            changing = [c for c in children if c.state is not READY]
            if not changing:
                break
            one = rng.choice(changing)
            if one.state is STARTING:
                one.on("ready")
            else:
                children.remove(one)
        assert sorted((c.generation, c.number) for c in children) == [(2, n) for n in range(want)]


def test_the_one_that_is_replaced_is_the_one_with_the_same_number() -> None:
    old, new = [child(n) for n in (1, 2, 3)], child(4, generation=2)
    new.number = 0
    found = plan.plan(Scene(NOW, 3, 2, surge=1, children=(*reversed(old), new)))
    assert slots(found, RetireChild) == [1]


def test_a_crash_loop_in_a_rolling_reload_leaves_the_others_alone() -> None:
    waiting = Backoff(crashes=2, not_before=NOW + 3)
    found = plan.plan(
        Scene(NOW, 2, 2, surge=1, backoff=waiting, children=(child(2), child(3, generation=2)))
    )
    assert found == [WakeAt(NOW + 3)]


# ---- backoff and breaker ------------------------------------------------------------------


def test_backoff_doubles_and_is_bounded() -> None:
    backoff, delays = Backoff(), []
    for _ in range(20):
        backoff = backoff.crashed(NOW, "boom")
        delays.append(backoff.not_before - NOW)
    assert delays[0] == 0
    assert delays[1] > 0
    rising = [d for d in delays[1:] if d < max(delays)]
    assert len(rising) > 3
    for before, after in pairwise(rising):
        assert after == pytest.approx(2 * before)
    assert max(delays) <= 60
    assert delays[-1] == delays[-2] == max(delays)


def test_nothing_is_forked_before_its_time() -> None:
    waiting = Backoff(crashes=2, not_before=NOW + 3)
    assert plan.plan(scene(child(1), backoff=waiting)) == [WakeAt(NOW + 3)]


def test_waiting_is_over_exactly_on_time() -> None:
    assert plan.plan(scene(child(1), backoff=Backoff(2, NOW))) == [Spawn(1, 1)]


def test_breaker_opens_after_several_crashes_and_keeps_the_error() -> None:
    backoff = Backoff()
    for number in range(plan.BREAKER_CRASHES):
        assert not backoff.open
        backoff = backoff.crashed(NOW, f"error {number}")
    assert backoff.open
    assert backoff.error == f"error {plan.BREAKER_CRASHES - 1}"


def test_open_breaker_tries_one_child_at_a_time() -> None:
    open_ = Backoff(plan.BREAKER_CRASHES, NOW - 1)
    assert plan.plan(scene(want=8, backoff=open_)) == [Spawn(1, 1)]
    assert plan.plan(scene(child(1, STARTING), want=8, backoff=open_)) == []


def test_settled_closes_the_breaker() -> None:
    settled = Backoff(plan.BREAKER_CRASHES + 3, NOW + 30, "boom").settled()
    assert not settled.open
    assert plan.plan(scene(want=8, backoff=settled)) == [Spawn(1, 8)]


# ---- reload -------------------------------------------------------------------------------


def reloading(*children: Child) -> Scene:
    return scene(child(1), child(2), *children, incoming=2, incoming_want=2)


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ((), [Spawn(2, 2)]),
        ((child(3, STARTING, 2),), [Spawn(2, 1)]),
        ((child(3, READY, 2),), [Spawn(2, 1)]),
        ((child(3, STARTING, 2), child(4, STARTING, 2)), []),
        ((child(3, READY, 2), child(4, STARTING, 2)), []),
        ((child(3, READY, 2), child(4, READY, 2)), [Activate()]),
    ],
)
def test_the_new_generation_takes_over_when_all_are_ready(
    new: tuple[Child, ...], expected: list[Any]
) -> None:
    assert plan.plan(reloading(*new)) == expected


def test_what_takes_over_takes_over_alone() -> None:
    """A child of the old generation died in the same turn: none is forked in its place."""
    ready = (child(3, READY, 2), child(4, READY, 2))
    assert plan.plan(scene(child(1), *ready, incoming=2, incoming_want=2)) == [Activate()]


def test_the_old_generation_serves_until_then() -> None:
    actions = plan.plan(reloading(child(3, READY, 2), child(4, STARTING, 2)))
    assert not slots(actions, RetireChild)


def test_the_old_generation_is_kept_complete_during_a_reload() -> None:
    """A child of the old generation that dies is replaced: the new one may still fail."""
    actions = plan.plan(scene(child(1), child(3, STARTING, 2), incoming=2, incoming_want=1))
    assert actions == [Spawn(1, 1)]


def test_after_the_takeover_the_old_generation_retires() -> None:
    after = Scene(
        now=NOW, want=2, active=2,
        children=(child(1), child(2, STARTING), child(3, READY, 2), child(4, READY, 2)),
    )  # fmt: skip
    assert sorted(slots(plan.plan(after), RetireChild)) == [1, 2]


def test_a_failed_boot_goes_away_with_its_generation() -> None:
    """No incoming any more: what is left of it is told to go, the old stays."""
    actions = plan.plan(scene(child(1), child(2), child(3, STARTING, 2)))
    assert slots(actions, RetireChild) == [3]
    assert not [a for a in actions if isinstance(a, Spawn)]


# ---- replacement --------------------------------------------------------------------------


def test_a_new_child_is_ready_before_the_worn_one_retires() -> None:
    worn = child(1, replace="max-requests")
    assert plan.plan(scene(worn, child(2))) == [Spawn(1, 1)]
    assert plan.plan(scene(worn, child(2), child(3, STARTING))) == []
    actions = plan.plan(scene(worn, child(2), child(3)))
    assert actions == [RetireChild(worn, "max-requests")]


def test_children_are_replaced_one_at_a_time() -> None:
    worn = [child(n, replace="max-rss") for n in (1, 2, 3)]
    assert plan.plan(scene(*worn, want=3)) == [Spawn(1, 1)]
    assert slots(plan.plan(scene(*worn, child(4), want=3)), RetireChild) == [1]


def test_the_worn_one_retires_whose_number_the_new_child_has() -> None:
    """Else the other's number, and its socket under reuseport, would be nobody's until its own successor
    is ready."""
    first, second = child(5, replace="max-age"), child(2, replace="max-age")
    first.number = 0  # it has been replaced before, and so is the younger
    new = child(6)
    new.number = 0
    assert slots(plan.plan(scene(second, first, new)), RetireChild) == [5]


def run(all_children: list[Child], want: int, chance: random.Random, steps: int) -> list[int]:
    """Perform what the plan says with children that become ready or leave at random.

    Returns how many were ready at each step."""
    history: list[int] = []
    living = list(all_children)
    slot = len(living)
    for step in range(steps):
        for action in plan.plan(Scene(now=NOW + step, want=want, active=1, children=tuple(living))):
            if isinstance(action, Spawn):
                for _ in range(action.count):
                    slot += 1
                    living.append(child(slot, STARTING, forked=NOW + step))
            elif isinstance(action, RetireChild):
                action.child.on("retire")
        assert len([c for c in living if c.state in (STARTING, READY)]) <= want + 1
        history.append(len([c for c in living if c.state is READY]))
        movable = [c for c in living if c.state is not READY]
        if movable:
            moved = chance.choice(movable)
            if moved.state is STARTING:
                moved.on("ready")
            else:
                living.remove(moved)
    assert not [c for c in living if c.replace]
    return history


@pytest.mark.parametrize("seed", range(10))
def test_replacing_all_children_never_serves_with_fewer(seed: int) -> None:
    worn = [child(n, replace="max-requests") for n in (1, 2, 3)]
    history = run(worn, 3, random.Random(seed), 60)
    assert min(history) >= 3


# ---- scale --------------------------------------------------------------------------------


def test_scale_up_forks_the_difference() -> None:
    assert plan.plan(scene(child(1), child(2), want=5)) == [Spawn(1, 3)]


def test_scale_down_begins_with_who_serves_nobody_yet_then_the_youngest() -> None:
    actions = plan.plan(scene(child(1), child(2), child(3), child(4, STARTING), want=2))
    assert slots(actions, RetireChild) == [4, 3]


def test_scale_down_leaves_the_lowest_numbers() -> None:
    """Whatever was replaced meanwhile: who asks for worker 1 finds one."""
    first = child(9)  # the youngest
    first.number = 0
    assert slots(plan.plan(scene(first, child(2), child(3), want=2)), RetireChild) == [3]


def test_scale_to_none_retires_all() -> None:
    assert sorted(slots(plan.plan(scene(child(1), child(2), want=0)), RetireChild)) == [1, 2]


def test_none_wanted_and_one_worn_forks_nobody() -> None:
    actions = plan.plan(scene(child(1, replace="max-rss"), want=0))
    assert not [a for a in actions if isinstance(a, Spawn)]
    assert slots(actions, RetireChild) == [1]


# ---- the end ------------------------------------------------------------------------------


def test_stopping_retires_all_of_all_generations_and_forks_nobody() -> None:
    actions = plan.plan(
        scene(
            child(1),
            child(2, STARTING),
            child(3, READY, 2),
            child(4, RETIRING, deadline=NOW + 9),
            stopping=True,
            incoming=2,
            incoming_want=5,
            want=5,
        )  # fmt: skip
    )
    assert sorted(slots(actions, RetireChild)) == [1, 2, 3]
    assert not [a for a in actions if isinstance(a, Spawn | Activate | Exit)]
    assert WakeAt(NOW + 9) in actions


def test_exit_when_the_last_has_gone_and_not_before() -> None:
    assert plan.plan(scene(stopping=True)) == [Exit()]
    for state in State:
        assert Exit() not in plan.plan(scene(child(1, state), stopping=True))


def test_just_before_a_stop_the_dead_are_replaced_and_not_the_worn() -> None:
    worn = child(1, replace="SIGTERM")
    assert plan.plan(scene(worn, child(2))) == [Spawn(1, 1)]
    assert plan.plan(scene(worn, child(2), stopping_soon=True)) == []
    assert plan.plan(scene(worn, stopping_soon=True)) == [Spawn(1, 1)]


@pytest.mark.parametrize("stopping", [False, True])
def test_who_does_not_retire_in_time_is_killed(stopping: bool) -> None:
    late = child(1, RETIRING, deadline=NOW, why="max-requests")
    early = child(2, RETIRING, deadline=NOW + 1, why="reload")
    actions = plan.plan(scene(late, early, child(3), child(4), stopping=stopping))
    kills = [a for a in actions if isinstance(a, KillChild)]
    assert [(k.child.slot, k.why) for k in kills] == [(1, "max-requests")]
    assert WakeAt(NOW + 1) in actions


def test_planning_changes_nothing() -> None:
    children = (child(1, replace="x"), child(2, RETIRING, deadline=NOW), child(3, STARTING))
    before = [replace(c) for c in children]
    first = plan.plan(scene(*children))
    assert [vars(c) for c in children] == [vars(c) for c in before]
    assert repr(plan.plan(scene(*children))) == repr(first)


# ---- boots that do not end, or are ended -----------------------------------------------------


@pytest.mark.parametrize("generation", [1, 2])
def test_who_is_not_ready_in_time_is_killed(generation: int) -> None:
    late = child(3, STARTING, generation, deadline=NOW)
    early = child(4, STARTING, generation, deadline=NOW + 2)
    actions = plan.plan(scene(child(1), late, early, incoming=2, incoming_want=2))
    kills = [a for a in actions if isinstance(a, KillChild)]
    assert [(k.child.slot, k.why) for k in kills] == [(3, "boot-timeout")]
    assert WakeAt(NOW + 2) in actions


def test_without_a_limit_nobody_looks_at_the_clock() -> None:
    assert plan.plan(scene(child(1), child(2, STARTING))) == []


def test_who_is_killed_from_outside_is_tried_again_later_and_opens_no_breaker() -> None:
    backoff, delays = Backoff(), []
    for _ in range(12):
        backoff = backoff.killed(NOW, "killed")
        delays.append(round(backoff.not_before - NOW, 3))
        backoff = replace(backoff, not_before=0.0)
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert not backoff.open
    assert backoff.settled() == Backoff(error="killed")


def test_without_room_for_a_fork_it_is_tried_again_within_a_second() -> None:
    backoff, delays = Backoff(), []
    for _ in range(6):
        backoff = backoff.short(NOW, "fork")
        delays.append(round(backoff.not_before - NOW, 3))
        backoff = replace(backoff, not_before=0.0)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert not backoff.open


def test_neither_shortens_the_wait_after_crashes() -> None:
    waiting = Backoff(crashes=7, not_before=NOW + 9)
    assert waiting.killed(NOW, "x").not_before == NOW + 9
    assert waiting.short(NOW, "x").not_before == NOW + 9


def test_the_incoming_generation_waits_for_its_own_next_try() -> None:
    coming = [child(3, STARTING, 2)]
    found = plan.plan(
        scene(child(1), child(2), *coming, incoming=2, incoming_want=2, incoming_not_before=NOW + 1)
    )
    assert found == [WakeAt(NOW + 1)]
