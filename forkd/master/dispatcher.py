"""The asynchronous layer of Half-Sync/Half-Async: the master accepts, and hands sockets to children.

Woken by SIGIO (`--io sigio`) or by its epoll (`--io epoll`), it accepts until the queue is empty and
puts each connection into the request queue of a child, by `dispatch`:

round-robin         the next child in turn
least-connections   the child with the fewest, those still in its queue included
competition         one queue for all: an idle child takes it

When no child has room it stops accepting: connections wait in the kernel, where the metrics see
them. It never reads a byte of a client.

The master keeps both ends of every queue. So it takes back what waits in the queue of a child that
retires or dies, or in the one queue of a generation that is replaced, and gives it to others. At the
end, when there are no others, it closes its ends, and each child reads its queue to EOF.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator
from time import monotonic, monotonic_ns

from forkd.engine.share import MOST_ACCEPTS, SHARE_SECONDS
from forkd.log.lines import Log
from forkd.master.children import Child, Children, State
from forkd.master.generation import Generation
from forkd.session.begin import Begin
from forkd.system import signals
from forkd.system.accept_wait import AcceptWait
from forkd.system.cells import ACCEPTED, CONNECTIONS
from forkd.system.fd_passing import Passed, Queue, receive_socket, send_socket
from forkd.system.loop import QUIET, Loop
from forkd.system.retry import Retry
from forkd.system.scoreboard import Scoreboard
from forkd.system.sockets import Listener

#: When to look again after no child had room, seconds.
_RETRY_SECONDS = 0.005
#: After so many looks that found no client, see whether one can come.
_LOOK_EVERY_ROUNDS = 64


class Dispatcher:
    def __init__(
        self,
        loop: Loop,
        log: Log,
        board: Scoreboard,
        children: Children,
        nobody_free: Callable[[], bool],
        shut_down: Callable[[], None],
        queued: Callable[[], None],
    ) -> None:
        """`nobody_free`: clients wait and every child is full; returns whether there will be more of them.
        `shut_down`: a process has shut a listener down. `queued`: clients may be waiting in one."""
        self.ending: list[Listener] = []  # to accept from until they are empty
        self._begins: dict[Listener, str] = {}  # as texts
        self._loop = loop
        self._log = log
        self._board = board
        self._accept_wait = AcceptWait(board.lanes[0][0])  # no child has slot 0
        self._children = children
        self._nobody_free = nobody_free
        self._shut_down = shut_down
        self._queued = queued
        self._in_vain = 0  # looks at listeners that found no client
        self._retry = Retry(log.error)
        self._generation: Generation | None = None  # whose children get connections
        self._by_signal = False
        self._listeners: list[Listener] = []  # to accept from, for as long as there is a generation
        self._held: deque[Passed] = deque()  # accepted, and in no queue
        self._finishing = False  # nothing comes after what is held, and what waits in `_ending`
        self._sent: Counter[int] = Counter()  # by pid
        self._last = 0  # slot that got the last connection in turn

    # ---- generations ----------------------------------------------------------------------

    def watch(self, generation: Generation, by_signal: bool) -> None:
        """Accept for `generation` from now on. Its children also get what the one before leaves."""
        old = self._generation
        self._deafen()
        if old is not None and old is not generation:
            self._drain(old, keep=generation.listeners)
            for queue in self._queues():
                self._take_back(queue)
        self._generation = generation
        self._listeners = list(generation.listeners)  # the order is that of their turns
        self._begins = {x: self._begins[x] for x in self.ending}
        self._begins.update((x, str(begin)) for x, begin in generation.begins.items())
        self._by_signal = by_signal
        self._finishing = False
        self._listen()
        self.accept()  # what came before the signal was armed did not ring

    def look_away(self) -> None:
        """Look away from the listeners, until `watch`."""
        self._deafen()

    def finish(self, keep: list[Listener]) -> None:
        """Accept what still waits in the listeners, but for `keep`; hand all over to those who retire;
        then let them know that nothing more will come."""
        generation = self._generation
        if generation is None or self._finishing:
            return
        self._deafen()
        self._finishing = generation.last = True
        self._listeners = []
        self._drain(generation, keep)
        self.accept()

    def give_up(self) -> None:
        """Another master accepts now: leave the flags, which are shared, as it sets them."""
        self._by_signal = False
        self._deafen()

    def retire(self, child: Child) -> None:
        """`child` is about to: the rest of the service takes over what waits in its queue."""
        if not self._finishing:
            self.gone(child)

    def gone(self, child: Child) -> None:
        self._sent.pop(child.pid, None)
        if self._generation is not None and child.queue is not None:
            self._take_back(child.queue)
            child.queue = None
            self._again_in(0.0)

    def empty(self, listener: Listener, begin: Begin) -> None:
        """Accept from it, too, until it is empty, and close it then."""
        self.ending.append(listener)
        self._begins[listener] = str(begin)

    def forget(self) -> None:
        """In a child, and at the end."""
        for listener in self.ending:
            for sock in listener.sockets:
                sock.close()
        for sock, *_ in self._held:
            sock.close()

    # ---- accepting ------------------------------------------------------------------------

    def accept(self) -> object:
        """Accept and hand over, until no client waits, no child has room, or this turn's share is over.
        Returns QUIET, unless there will be more children or it comes to its end."""
        if self._generation is None:
            return None
        ends = self._finishing
        return None if self._accept() or ends else QUIET

    def _accept(self) -> bool:
        """Returns whether there will be more children."""
        crew = self._crew()
        if self._finishing and not crew:
            self._end()
            return False
        self._queued()
        ends = monotonic() + SHARE_SECONDS
        for number in range(MOST_ACCEPTS):
            if number and monotonic() >= ends:
                break
            child = self._choose(crew)
            if child is None:
                if self._anybody_waits():
                    self._again_in(_RETRY_SECONDS)
                    return self._nobody_free()
                if self._finishing:
                    self._end()  # the last to come has taken the last room
                return False
            passed = self._next()
            if passed is None:
                return False
            if not self._hand_over(passed, child):
                self._held.appendleft(passed)
                self._again_in(_RETRY_SECONDS)
                return False
        self._again_in(0.0)
        return False

    def _next(self) -> Passed | None:
        """The next connection; None when there is none, or when it cannot be accepted now."""
        if self._held:
            return self._held.popleft()
        for listener in [*self.ending, *self._open()]:
            try:
                sock = listener.sockets[0].accept()[0]
                self._served(listener)
                now_ns = monotonic_ns()
                if now_ns / 1e9 >= self._accept_wait.due:
                    self._accept_wait.look(sock, now_ns / 1e9)
                return sock, self._begins[listener], now_ns
            except BlockingIOError:
                self._found_nobody(listener)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    self._found_nobody(listener)
                    continue
                self._board.lanes[0][0].failed(error.errno or 0)
                self._again_in(self._retry.pause("accept", error))
                return None
        if self._finishing:
            self._end()
        return None

    def _served(self, listener: Listener) -> None:
        """It has had its turn: the others are asked before it."""
        turns = self.ending if listener in self.ending else self._listeners
        if len(turns) > 1:
            turns.remove(listener)
            turns.append(listener)

    def _open(self) -> list[Listener]:
        return [listener for listener in self._listeners if not listener.broken]

    def _found_nobody(self, listener: Listener) -> None:
        """Once that is so for good, no client is waited for."""
        if listener in self.ending:
            self.ending.remove(listener)
            del self._begins[listener]
            listener.close()
            return
        # As the acceptor of a child does: a unix socket that was shut down is ready for ever.
        self._in_vain += 1
        if self._in_vain % _LOOK_EVERY_ROUNDS == 0 and listener.shut_down():
            self._shut_down()

    def _hand_over(self, passed: Passed, child: Child) -> bool:
        """Put a connection into a queue and close our copy. False when there is no room."""
        assert self._generation is not None
        queue = child.queue or self._generation.queue
        assert queue is not None
        if not send_socket(queue[0], passed):
            return False
        passed[0].close()
        self._sent[child.pid] += 1
        self._last = child.slot
        return True

    def _again_in(self, seconds: float) -> None:
        """Look again then, rather than be told at once and for ever."""
        self._unheed()
        self._loop.timers.set("dispatch", monotonic() + seconds, self._again)

    def _again(self) -> object:
        self._heed()
        return self.accept()

    def _listen(self) -> None:
        for sock in self._sockets(self._open(), by_signal=True):
            signals.own(sock)
            signals.arm(sock)
        self._heed()

    def _heed(self) -> None:
        for sock in self._sockets(self._open(), by_signal=False):
            self._loop.watch(sock.fileno(), self.accept)

    def _deafen(self) -> None:
        self._loop.timers.cancel("dispatch")
        for sock in self._sockets(self._listeners, by_signal=True):
            if sock.fileno() >= 0:
                signals.disarm(sock)
        self._unheed()

    def _unheed(self) -> None:
        for sock in self._sockets(self._listeners, by_signal=False):
            if sock.fileno() >= 0:
                self._loop.unwatch(sock.fileno())

    def _sockets(self, listeners: list[Listener], *, by_signal: bool) -> list[socket.socket]:
        """Those of which the master is told by SIGIO, or by its epoll: also of those that other processes
        have (see arrivals.py), whatever the configuration says."""
        return [
            sock
            for listener in listeners
            for sock in listener.sockets
            if (self._by_signal and listener.private) is by_signal
        ]

    def _anybody_waits(self) -> bool:
        poll = select.poll()
        for listener in [*self.ending, *self._open()]:
            poll.register(listener.sockets[0], select.POLLIN)
        return bool(self._held or poll.poll(0))

    # ---- children and their queues --------------------------------------------------------

    def _crew(self) -> list[Child]:
        """Who may get connections; at the end also those that retire."""
        assert self._generation is not None
        states = (State.READY, State.RETIRING) if self._finishing else (State.READY,)
        return [
            child
            for child in self._children
            if child.generation == self._generation.number
            and child.state in states
            and (child.queue or self._generation.queue)
        ]

    def _choose(self, crew: list[Child]) -> Child | None:
        """The child to hand the next connection to; of `competition`, one of those that may take it."""
        assert self._generation is not None
        config = self._generation.config
        loads = {child: self._load(child) for child in crew}
        free = sorted(
            (c for c, load in loads.items() if load < config.worker_connections),
            key=lambda c: c.slot,
        )
        if not free:
            return None
        if config.dispatch == "round-robin":
            return next((c for c in free if c.slot > self._last), free[0])
        return min(free, key=lambda c: loads[c])

    def _load(self, child: Child) -> int:
        """Connections of the child, and those in its queue."""
        # In this order: one that is taken meanwhile is counted twice rather than not at all.
        taken = self._board.counter(child.slot, ACCEPTED)
        queued = max(0, self._sent[child.pid] - taken) if child.queue is not None else 0
        return self._board.gauge(child.slot, CONNECTIONS) + queued

    def _take_back(self, queue: Queue) -> None:
        ours, theirs = queue
        ours.close()
        try:
            while True:
                self._held.append(receive_socket(theirs))
        except (EOFError, BlockingIOError):
            pass  # empty; no EOF as long as a child that was just forked has our end
        except OSError as error:
            self._log.error(f"what waits in the queue of a child cannot be taken back: {error}")
        theirs.close()

    def _queues(self) -> Iterator[Queue]:
        """The queues of the generation; they are its children's alone from now on."""
        assert self._generation is not None
        for owner in (self._generation, *self._children):
            mine = owner is self._generation or owner.generation == self._generation.number
            if mine and owner.queue is not None:
                yield owner.queue
                owner.queue = None

    def _drain(self, generation: Generation, keep: list[Listener]) -> None:
        for listener in generation.listeners:
            if listener not in keep:
                listener.shut()
                self.ending.append(listener)

    def _end(self) -> None:
        """All is handed over, or no child is left to take it."""
        for listener in self.ending:
            listener.close()
        self.ending.clear()
        self._begins.clear()
        self.forget()
        self._held.clear()
        for ours, theirs in self._queues():
            ours.close()
            theirs.close()
        self._generation = None
        self._finishing = False
