"""The state table of children: complete over state and event, and the registry by slot."""

from __future__ import annotations

import os
import socket
import time

import pytest

from forkd.ipc.messages import Channel
from forkd.master.children import TRANSITIONS, Child, Children, State
from forkd.system.signal_sockets import SignalSockets

STARTING, READY, RETIRING, KILLED = State.STARTING, State.READY, State.RETIRING, State.KILLED

#: (state, event) to the state after it; None: the event means nothing there.
TABLE = {
    (STARTING, "ready"): READY,
    (STARTING, "retire"): KILLED,
    (STARTING, "kill"): KILLED,
    (READY, "ready"): None,
    (READY, "retire"): RETIRING,
    (READY, "kill"): KILLED,
    (RETIRING, "ready"): None,
    (RETIRING, "retire"): None,
    (RETIRING, "kill"): KILLED,
    (KILLED, "ready"): None,
    (KILLED, "retire"): None,
    (KILLED, "kill"): None,
}


def make(slot: int = 1, number: int = 0, state: State = STARTING, generation: int = 1) -> Child:
    _, theirs = Channel.pair()
    return Child(
        slot=slot,
        number=number,
        generation=generation,
        pid=os.getpid(),
        pidfd=os.pidfd_open(os.getpid()),
        channel=theirs,
        stacks=os.memfd_create("stacks"),
        sockets=SignalSockets({}),
        queue=None,
        forked=time.monotonic(),
        state=state,
    )


def test_the_table_names_every_state_and_event() -> None:
    events = {event for _, event in TRANSITIONS}
    assert events == {"ready", "retire", "kill"}
    assert set(TABLE) == {(state, event) for state in State for event in events}


@pytest.mark.parametrize(("cell", "after"), TABLE.items(), ids=lambda x: str(x))
def test_every_cell(cell: tuple[State, str], after: State | None) -> None:
    child = make(state=cell[0])
    assert child.on(cell[1]) is (after is not None)
    assert child.state is (after or cell[0])
    child.close()


def test_nothing_comes_back_from_killed() -> None:
    assert not [after for (before, _), after in TRANSITIONS.items() if before is KILLED]


def test_the_lowest_free_slot_is_used_again() -> None:
    children = Children(3)
    made = [make(slot) for slot in (1, 2, 3)]
    assert children.free_slot() == 1
    for child in made:
        children.add(child)
    assert children.free_slot() is None
    children.remove(made[1])
    assert children.free_slot() == 2
    assert children.get(2) is None
    assert children.get(3) is made[2]
    assert len(children) == 2
    for child in made:
        child.close()


def test_numbers_are_unique_among_those_who_serve_in_a_generation() -> None:
    children = Children(8)
    made = [
        make(1, 0, READY), make(2, 1, RETIRING), make(3, 2, STARTING), make(4, 0, READY, 2),
    ]  # fmt: skip
    for child in made:
        children.add(child)
    assert children.free_number(1) == 1  # its holder retires
    assert children.free_number(2) == 1
    assert children.free_number(3) == 0
    for child in made:
        child.close()


def test_children_can_be_removed_while_they_are_walked() -> None:
    children = Children(4)
    for slot in (1, 2, 3):
        children.add(make(slot))
    for child in children:
        children.remove(child)
        child.close()
    assert not len(children)


def test_stacks_are_text_whatever_was_written() -> None:
    child = make()
    os.write(child.stacks, b"Thread 1\n  File \xff\xfe\n")
    assert "Thread 1" in child.read_stacks()
    child.close()


def test_close_leaves_no_descriptor() -> None:
    left, right = socket.socketpair()
    child = make()
    fds = [child.pidfd, child.stacks, child.channel.fileno()]
    child.close()
    for fd in fds:
        with pytest.raises(OSError):
            os.fstat(fd)
    left.close()
    right.close()
