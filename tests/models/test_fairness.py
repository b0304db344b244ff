"""Every client gets its turn, however many connect: model x accept x native or not x threads.

What is asserted is the order of events (fairness.py), never a duration: at most 16 connections are accepted
between two turns, and in each turn every connection that was ready is served, before the new ones.
"""

from __future__ import annotations

import pytest

from forkd.models import registry
from forkd.native import native
from forkd.system.uring import usable
from tests.models.fairness import KEPT, Cell, Event, play

SHARE = 16  # accepts in one turn


def _cells() -> list[Cell]:
    """Of the models whose children accept. Threads of leader-followers take over in the middle of a turn:
    they are apart."""
    found = []
    for row in registry.MODELS:
        if row.master_accepts:
            continue
        for io in row.ios:
            if io == "blocking" or (io == "io_uring" and usable()):
                continue
            accepts = ["lock", "exclusive", "reuseport"] if io == "epoll" else ["lock"]
            threads = [4] if row.pooled else [1, 4] if row.name == "proactor" else [1]
            found += [
                Cell(row.name, io, accept, with_native, count)
                for accept in accepts
                for with_native in ([True, False] if native is not None else [False])
                for count in threads
            ]
    return found


CELLS = _cells()
#: Where the thread that waits also runs the application, as soon as it can.
INLINE = [cell for cell in CELLS if cell.threads == 1 and cell.io != "aio"]
OTHERS = [cell for cell in CELLS if cell not in INLINE]
THREADS = [
    Cell("leader-followers", "epoll", accept, with_native, 4)
    for accept in ("lock", "exclusive")
    for with_native in ([True, False] if native is not None else [False])
]
needs_native = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")


def between(events: list[Event], kind: str, what: str = "new") -> int:
    """The most new connections that were served, or accepted, between two events of that kind."""
    most = count = 0
    for found, _ in events:
        if found == what:
            count += 1
            most = max(most, count)
        elif found == kind:
            count = 0
    return most


def waited(events: list[Event], since: str, until: str) -> int:
    """The most new connections that were served while an older one was ready and waited."""
    most, count = 0, 0
    began: dict[int, int] = {}
    for kind, number in events:
        if kind == "new":
            count += 1
        elif kind == since:
            began[number] = count
        elif kind == until and number in began:
            most = max(most, count - began.pop(number))
    return max([most, *(count - each for each in began.values())])


def uneven(events: list[Event], window: int) -> int:
    """The fewest new connections that either of two listeners had in any window of so many."""
    new = [number for kind, number in events if kind == "new"]
    assert len(new) >= 2 * window
    return min(
        min(sum(part), window - sum(part))
        for part in (new[at : at + window] for at in range(len(new) - window))
    )


def served(events: list[Event], kind: str) -> set[int]:
    return {number for found, number in events if found == kind}


@pytest.mark.parametrize("cell", INLINE, ids=str)
def test_between_two_shares_all_that_was_ready_is_served(cell: Cell) -> None:
    events = play(cell)
    assert between(events, "turn") <= SHARE  # the log, --max-requests
    assert between(events, "bell") <= SHARE  # the bell, the master's channel
    assert served(events, "kept") == set(range(KEPT))
    assert waited(events, "ready", "kept") <= SHARE
    assert between(events, "stream") <= 2 * SHARE  # its client has to have read what came before
    assert served(events, "late") == {0}
    assert waited(events, "due", "late") <= 2 * SHARE  # it may pass just after the look at the clock
    assert uneven(events, 4 * SHARE) >= SHARE


@pytest.mark.parametrize("cell", OTHERS, ids=str)
def test_so_it_is_where_others_run_the_application(cell: Cell) -> None:
    """When the threads of a pool, or those that read for aio, are woken is the system's choice."""
    events = play(cell)
    assert between(events, "turn", "accepted") <= SHARE
    assert between(events, "bell", "accepted") <= SHARE
    assert served(events, "kept") == set(range(KEPT))
    assert waited(events, "ready", "kept") <= 16 * SHARE
    assert served(events, "late") == {0}
    assert uneven(events, 4 * SHARE) >= SHARE // 2


@pytest.mark.parametrize("cell", THREADS, ids=str)
def test_so_it_is_where_threads_take_turns(cell: Cell) -> None:
    """A turn may end in the hands of another thread, which the system may hold up at any time."""
    events = play(cell)
    assert served(events, "kept") == set(range(KEPT))
    assert waited(events, "ready", "kept") <= 16 * SHARE
    assert between(events, "bell") <= 16 * SHARE
    assert served(events, "late") == {0}
    assert uneven(events, 4 * SHARE) >= SHARE // 2


@needs_native
@pytest.mark.parametrize("accept", ["lock", "exclusive"])
def test_so_it_is_where_native_code_accepts_batches(accept: str) -> None:
    events = play(Cell("leader-followers", "epoll", accept, True, 1), brief=True)
    # The first clients may have been accepted before they have sent anything, and be served later.
    del events[: [at for at, (kind, _) in enumerate(events) if kind == "new"][60]]
    # So may any other share, whose clients are then served beside the next one.
    assert between(events, "turn") <= 2 * SHARE
    assert between(events, "bell") <= 2 * SHARE


@pytest.mark.parametrize(
    "cell", [cell for cell in INLINE if cell.accept == "lock" and cell.io != "io_uring"], ids=str
)
def test_a_share_is_over_after_10_ms(cell: Cell) -> None:
    """Four milliseconds each: a third one may begin, and no fourth."""
    events = play(cell, seconds=0.004)
    assert between(events, "turn") <= 3
    assert between(events, "bell") <= 3


@needs_native
def test_a_batch_whose_time_is_over_is_left_to_later_turns() -> None:
    events = play(Cell("leader-followers", "epoll", "lock", True, 1), seconds=0.004, brief=True)
    first = [kind for kind, _ in events].index("turn")
    assert [kind for kind, _ in events[:first]].count("new") <= 3


@pytest.mark.parametrize(
    "cell",
    [cell for cell in INLINE if cell.accept == "lock" and cell.io != "io_uring" and not cell.native],
    ids=str,
)
def test_without_the_bound_it_is_seen(cell: Cell) -> None:
    events = play(cell, unbounded=True)
    assert between(events, "turn") > 10 * SHARE
    assert between(events, "bell") > 10 * SHARE
    assert waited(events, "ready", "kept") > 10 * SHARE
    assert waited(events, "due", "late") > 10 * SHARE
