"""What a service manager is told: sd_notify(3), without a library.

Ready, reloading and stopping; which process is the main one after an upgrade; that the children are
well (WATCHDOG=1); and the listeners and the tables of storage, for systemd to keep (FDSTORE=1): a master
that was killed is started again with them, and no client is refused meanwhile. In the master. Without
NOTIFY_SOCKET nothing is said.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic, monotonic_ns

from forkd.ipc.manager import Manager, table_name
from forkd.ipc.manager import stored_name as _name
from forkd.master.children import Child, Children, State
from forkd.system import process
from forkd.system.loop import Loop
from forkd.system.scoreboard import Scoreboard
from forkd.system.sockets import Listener

#: Seconds until what the manager's queue had no room for is said again; and how much may wait for that before
#: what has been superseded is left out.
_AGAIN_SECONDS = 0.1
_MANY_UNSAID = 64
_SUPERSEDED = "RELOADING=1", "READY=1"  # all but the last two, those of the last reload


class Notifier:
    """The master's words to its manager. Those that its queue has no room for are said again, in order; what
    says only that all is well is not."""

    def __init__(
        self,
        loop: Loop,
        board: Scoreboard,
        children: Children,
        manager: Manager,
        stored: Iterable[Listener],
        tables: Mapping[str, int],
        stored_tables: Mapping[str, int],
    ) -> None:
        """`stored`, `stored_tables`: what the manager has kept; `tables`: of storage, by the name of the
        unit."""
        self._loop = loop
        self._board = board
        self._children = children
        self._manager = manager
        self._unsaid: deque[tuple[str, list[int]]] = deque()  # with copies of the descriptors
        self._done = False
        self._stored: set[str] = {_name(listener) for listener in stored}
        self._tables = {table_name(unit): fd for unit, fd in tables.items()}
        self._stored_tables = {table_name(unit): fd for unit, fd in stored_tables.items()}

    @property
    def keeps_listeners(self) -> bool:
        """Whether somebody may hand the listeners to the next master."""
        return bool(self._manager.path)

    @property
    def waits(self) -> bool:
        """Whether something is to be said yet."""
        return bool(self._unsaid)

    def ready(
        self, generation: int, workers: int, last_error: str, listeners: Iterable[Listener]
    ) -> None:
        """The service answers, from the first generation or after a reload, failed or not. `workers`: that
        are ready."""
        self._keep(listeners)
        self._keep_tables()
        error = f", last error: {_first_line(last_error)}" if last_error else ""
        self._say(f"READY=1\nSTATUS=generation {generation}, {workers} workers ready{error}")
        self._beat()

    def reloading(self) -> None:
        self._say(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._say("STOPPING=1\nSTATUS=finishing what is under way")

    def main(self, pid: int) -> None:
        """Another process is the master from now on."""
        self._say(f"MAINPID={pid}")
        self._done = True  # who serves no more says no more

    def _say(self, text: str, fds: Sequence[int] = ()) -> None:
        if self._done or (not self._unsaid and self._manager.send(text, list(fds))):
            return
        if len(self._unsaid) >= _MANY_UNSAID:
            old = [one for one in self._unsaid if one[0].startswith(_SUPERSEDED)]
            if len(old) > 2:
                self._unsaid.remove(old[0])
        self._unsaid.append((text, [os.dup(fd) for fd in fds]))
        self._again()

    def _again(self) -> None:
        while self._unsaid and self._manager.send(*self._unsaid[0]):
            for fd in self._unsaid.popleft()[1]:
                os.close(fd)
        if self._unsaid:
            self._loop.timers.set("notify", monotonic() + _AGAIN_SECONDS, self._again)

    def _keep(self, listeners: Iterable[Listener]) -> None:
        # A group of SO_REUSEPORT sockets is not kept: the store does not keep their order.
        found = {
            _name(x): x.sockets[0].fileno()
            for x in listeners
            if x.wanted.kind != "fd" and len(x.sockets) == 1
        }
        for name in self._stored - set(found):
            self._say(f"FDSTOREREMOVE=1\nFDNAME={name}")
        for name in set(found) - self._stored:
            self._say(f"FDSTORE=1\nFDNAME={name}", [found[name]])
        self._stored = set(found)

    def _keep_tables(self) -> None:
        """Once: they are the same until a restart."""
        kept, self._stored_tables = self._stored_tables, self._tables
        for name, fd in kept.items():
            if self._tables.get(name) != fd:
                self._say(f"FDSTOREREMOVE=1\nFDNAME={name}")
        for name, fd in self._tables.items():
            if kept.get(name) != fd:
                self._say(f"FDSTORE=1\nFDNAME={name}", [fd])

    def renewed(self, listener: Listener, listeners: Iterable[Listener]) -> None:
        """Another socket has taken the place of this listener's, one of `listeners`: the old one is not to
        come back."""
        name = _name(listener)
        if name in self._stored:
            self._say(f"FDSTOREREMOVE=1\nFDNAME={name}")
            self._stored.remove(name)
            self._keep(listeners)

    # ---- the watchdog ---------------------------------------------------------------------

    def _beat(self) -> None:
        """Twice in each period: all is well, as long as not every child is wedged."""
        period = self._manager.watchdog / 2
        if not period or self._done:
            return
        self._loop.timers.set("watchdog", monotonic() + period, self._beat)
        serving = [child for child in self._children if child.state is State.READY]
        if not serving or not all(self._wedged(child, period) for child in serving):
            self._manager.send("WATCHDOG=1")

    def _wedged(self, child: Child, seconds: float) -> bool:
        """Whether the child is stopped, or its main thread is inside one request for that long."""
        if process.is_stopped(child.pid):
            return True
        board, now = self._board, monotonic_ns()
        working, longest = board.working(child.slot, now), board.longest(child.slot, now)
        return bool(working and longest and min(working, longest[0]) > seconds)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
