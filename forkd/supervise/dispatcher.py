"""The asynchronous layer of Half-Sync/Half-Async: the master accepts, and hands sockets to children.

Woken by SIGIO (`--io sigio`) or by its epoll (`--io epoll`), it accepts until the queue is empty and
puts each socket into the request queue of a child, by `dispatch`:

round-robin         the next child in turn
least-connections   the child with the fewest, those still in its queue included
competition         one queue for all: an idle child takes it

When no child has room it stops accepting: connections wait in the kernel, where the metrics see
them. It never reads a byte of a client.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from time import monotonic

from forkd.log import Log
from forkd.supervise.children import Child
from forkd.supervise.generation import Generation
from forkd.system import signals
from forkd.system.loop import Loop
from forkd.system.passing import send_socket
from forkd.system.scoreboard import ACCEPTED, CONNECTIONS, Scoreboard

#: When to look again after no child had room, seconds.
_RETRY = 0.005


class Dispatcher:
    def __init__(
        self,
        loop: Loop,
        log: Log,
        board: Scoreboard,
        serving: Callable[[], list[Child]],
        nobody_free: Callable[[], None],
    ) -> None:
        """`serving` are the children that may get connections."""
        self._loop = loop
        self._log = log
        self._board = board
        self._serving = serving
        self._nobody_free = nobody_free
        self._generation: Generation | None = None
        self._by_signal = False
        self._sent: Counter[int] = Counter()  # by pid
        self._last = 0  # slot that got the last connection in turn
        self._held: tuple[socket.socket, int] | None = None  # accepted, and no queue had room

    def watch(self, generation: Generation, by_signal: bool) -> None:
        """Accept for `generation` from now on."""
        self.mute()
        self._generation = generation
        self._by_signal = by_signal
        for listener in generation.listeners:
            for sock in listener.sockets:
                if by_signal:
                    signals.own(sock)
                    signals.arm(sock)
                else:
                    self._loop.watch(sock.fileno(), self.accept)
        self.accept()  # what came before the signal was armed did not ring

    def give_up(self) -> None:
        """Another master accepts now: leave the flags, which are shared, as it sets them."""
        self._by_signal = False
        self.mute()

    def mute(self) -> None:
        """Accept no more."""
        self._loop.timers.cancel("dispatch")
        if self._generation is not None:
            for sock in self._generation.all_sockets():
                if sock.fileno() >= 0:
                    if self._by_signal:
                        signals.disarm(sock)
                    self._loop.unwatch(sock.fileno())
        self._generation = None

    def accept(self) -> None:
        """Accept until EAGAIN, or until no child has room."""
        if self._generation is None:
            return
        if self._held is not None and not self._hand_over(*self._held):
            self._later()
            return
        self._held = None
        for index, listener in enumerate(self._generation.listeners):
            while True:
                if not self._has_room():
                    self._later()
                    return
                try:
                    sock, _ = listener.sockets[0].accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    self._log.error(f"accept: {error.strerror}")
                    self._later()
                    return
                if not self._hand_over(sock, index):
                    self._held = (sock, index)
                    self._later()
                    return

    def gone(self, child: Child) -> None:
        self._sent.pop(child.pid, None)

    def _later(self) -> None:
        """Nobody has room: look again soon, rather than be told at once and for ever."""
        self._nobody_free()
        if not self._by_signal and self._generation is not None:
            for sock in self._generation.all_sockets():
                self._loop.unwatch(sock.fileno())
        self._loop.timers.set("dispatch", monotonic() + _RETRY, self._again)

    def _again(self) -> None:
        if self._generation is not None and not self._by_signal:
            for sock in self._generation.all_sockets():
                self._loop.watch(sock.fileno(), self.accept)
        self.accept()

    def _hand_over(self, sock: socket.socket, listener: int) -> bool:
        """Put the socket into a queue and close our copy. False when there is no room."""
        generation = self._generation
        assert generation is not None
        child = None
        if generation.queue is not None:
            queue = generation.queue[0]
        else:
            child = self._choose()
            if child is None or child.queue is None:
                return False
            queue = child.queue
        try:
            if not send_socket(queue, sock, listener):
                return False
        except OSError:
            return False  # the child is gone; its pidfd will say so
        if child is not None:
            self._sent[child.pid] += 1
            self._last = child.slot
        sock.close()
        return True

    def _has_room(self) -> bool:
        generation = self._generation
        assert generation is not None
        if generation.queue is not None:
            return bool(self._serving())
        return self._choose() is not None

    def _choose(self) -> Child | None:
        assert self._generation is not None
        most = self._generation.config.worker_connections
        loads = {child: self._load(child) for child in self._serving()}
        free = sorted((c for c, load in loads.items() if load < most), key=lambda c: c.slot)
        if not free:
            return None
        if self._generation.config.dispatch == "round-robin":
            return next((c for c in free if c.slot > self._last), free[0])
        return min(free, key=lambda c: loads[c])

    def _load(self, child: Child) -> int:
        """Connections of the child, and those in its queue."""
        taken = self._board.counter(child.slot, ACCEPTED)
        return self._board.gauge(child.slot, CONNECTIONS) + max(0, self._sent[child.pid] - taken)
