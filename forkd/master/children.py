"""The master's record of each child, and the table of its states.

Forked and ready are different facts: a child is STARTING until it says so itself.

=========  ===============  ================  ==============  ==========
state      ready            retire            kill            exit
=========  ===============  ================  ==============  ==========
STARTING   READY            KILLED            KILLED          gone
READY      –                RETIRING          KILLED          gone
RETIRING   –                –                 KILLED          gone
KILLED     –                –                 –               gone
=========  ===============  ================  ==============  ==========
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from time import monotonic

from forkd.ipc.messages import Channel
from forkd.system import process
from forkd.system.fd_passing import Queue
from forkd.system.signal_sockets import SignalSockets


class State(Enum):
    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"
    KILLED = "killed"


TRANSITIONS: dict[tuple[State, str], State] = {
    (State.STARTING, "ready"): State.READY,
    (State.STARTING, "retire"): State.KILLED,  # it has nothing to finish
    (State.STARTING, "kill"): State.KILLED,
    (State.READY, "retire"): State.RETIRING,
    (State.READY, "kill"): State.KILLED,
    (State.RETIRING, "kill"): State.KILLED,
}


@dataclass(eq=False)
class Block:
    """A turn of a child's event loop that takes longer than --lag-limit (master/lag.py)."""

    turn: int  # when it began: ns of CLOCK_MONOTONIC
    step: int  # when the step in it began that was found; 0: none had
    seconds: float = 0.0  # so far
    by: str = ""  # the route that holds the loop, or the name of a task; "": not known yet
    many: bool = False  # by many steps, of which this is one
    lasts: bool = True  # when that was looked at last
    told: bool = False  # it is in the log


@dataclass(eq=False)
class Child:
    slot: int  # its row of the scoreboard; unique among the living
    number: int  # its place in its generation, from 0, which its successor takes over; see `worker_number`
    generation: int
    pid: int
    pidfd: int
    channel: Channel
    stacks: int  # memfd that faulthandler writes to
    sockets: SignalSockets  # for signals, where they have to go that way
    forked: float  # monotonic seconds, as all times here
    state: State = State.STARTING
    ready: float | None = None
    deadline: float = float("inf")  # STARTING, RETIRING: when it is killed
    killed: float | None = None  # KILLED: since when
    why: str | None = None  # the reason that we ended it for
    expires: float = float("inf")  # READY: when it is to be replaced for its age
    replace: str | None = None  # READY, but to be replaced, and why
    accused: bool = False  # its stacks are being taken before it is killed
    crowd: int = 0  # the most connections it had, since it last gave memory back
    fault: str | None = None  # the sentence for which it is killed: more than a retirement
    doing: str = ""  # what the kernel said of it before that
    rss: int = 0  # bytes of memory when last looked at
    cpu_ns: int = 0  # processor time when last looked at
    queue: Queue | None = None  # of accepted sockets, if it has one of its own
    error: str | None = None  # what it said when it could not boot
    block: Block | None = None  # the last one
    worst: Block | None = None  # the longest one

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})"

    @property
    def worker_number(self) -> int:
        """What the application is told, as FORKD_WORKER: from 1, and the same after a replacement."""
        return self.number + 1

    def on(self, event: str) -> bool:
        """Change state by the table; False when the event means nothing in this state."""
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            return False
        self.state = after
        if after is State.KILLED:
            self.killed = monotonic()
        return True

    def note_worst(self, block: Block) -> None:
        if self.worst is None or block.seconds > self.worst.seconds:
            self.worst = block

    def look_at_cpu(self) -> int:
        """Its processor time, ns; what was seen last where that cannot be read."""
        self.cpu_ns = max(self.cpu_ns, process.cpu_ns(self.pid))
        return self.cpu_ns

    def read_stacks(self) -> str:
        """What faulthandler wrote: every thread's Python stack, or nothing."""
        data = os.pread(self.stacks, 1 << 18, 0)
        return data.decode("utf-8", "replace").strip()

    def forget_stacks(self) -> None:
        """Before new ones are asked for. The file's offset is the child's, too: what it writes next
        is at the start."""
        os.lseek(self.stacks, 0, os.SEEK_SET)
        os.ftruncate(self.stacks, 0)

    def close(self) -> None:
        self.channel.close()
        os.close(self.pidfd)
        os.close(self.stacks)
        for end in self.queue or ():
            end.close()
        self.sockets.close()


class Children:
    """The living, by slot."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._by_slot: dict[int, Child] = {}

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self._by_slot.values()))

    def __len__(self) -> int:
        return len(self._by_slot)

    def get(self, slot: int) -> Child | None:
        return self._by_slot.get(slot)

    def free_slot(self) -> int | None:
        """The lowest free slot: worker labels stay few, whatever is restarted."""
        return next((s for s in range(1, self.slots + 1) if s not in self._by_slot), None)

    def free_number(self, generation: int) -> int:
        """The lowest place in `generation` that no serving child has."""
        taken = {
            c.number
            for c in self
            if c.generation == generation
            and c.state in (State.STARTING, State.READY)
            and not c.replace  # its successor serves the same socket
        }
        return next(n for n in range(self.slots + 1) if n not in taken)

    def add(self, child: Child) -> None:
        self._by_slot[child.slot] = child

    def remove(self, child: Child) -> None:
        del self._by_slot[child.slot]
