"""The clients of a small server inside the master's loop: each has a place, for seconds, and one request.

A slow client must not keep others out (docs/decisions/0025-places.md). A client's
request is incomplete at first; when it is complete, its answer may be due at once or later; then the
client reads it. Each has five seconds for its part of that. When the places are taken, a newcomer gets
that of another: `gives_way` says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from forkd.system.handles import READ, WRITE
from forkd.system.loop import Loop
from forkd.system.originals import monotonic, socket

#: For a client to send its request and to read the answer.
CLIENT_SECONDS = 5.0
#: Places that no client has whose request is incomplete, and none whose answer is not due yet.
KEPT_PLACES = 4
#: A client that connected is about to send; so long it has its place for certain. It bounds as well what
#: a flood of newcomers may cost the master.
_CERTAIN_SECONDS = 0.02
#: Connections that wait in the kernel meanwhile (listen(2); net.core.somaxconn may allow fewer).
BACKLOG = 1024
_MAX_ACCEPTS_PER_TURN = 16
_RECEIVE_BYTES = 8192


class Phase(Enum):
    ASKING = "its request is incomplete"
    WAITING = "its answer is not due yet"
    READING = "its answer was not read yet"


@dataclass(eq=False)
class Client:
    sock: socket.socket
    since: float  # in its phase; READING: since it last read something
    deadline: float
    phase: Phase = Phase.ASKING
    data: bytes = b""  # received so far of a request that its owner collects here
    out: memoryview = field(default_factory=lambda: memoryview(b""))  # to be sent
    seconds_left: float = 0.0  # WAITING: of its own time, which stands still


def gives_way(clients: Iterable[Client], most: int) -> Client | None:
    """The client that makes room for a newcomer: the one whose request is incomplete for the longest, then
    the one that has not read its answer for the longest. None: there is a free place."""
    present = list(clients)
    asking = [client for client in present if client.phase is Phase.ASKING]
    if len(present) < most and len(asking) < most - KEPT_PLACES:
        return None
    candidates = asking or [client for client in present if client.phase is Phase.READING]
    return min(candidates, key=lambda client: client.since, default=None)


class Places:
    """Accepts clients, receives from them, and sends them their answers."""

    def __init__(
        self,
        sock: socket.socket,
        loop: Loop,
        most: int,
        heard: Callable[[Client, bytes], None],
        admits: Callable[[socket.socket], bool] = lambda sock: True,
        *,
        lingers: bool,
    ) -> None:
        """`heard` is called with what a client of incomplete request has sent, b"" at its EOF, and calls
        `answer`, `wait`, `drop`, or nothing while the request is incomplete. `lingers`: wait for the
        client's EOF after an answer, so that the close does not reset what it still reads."""
        self.clients: dict[int, Client] = {}
        self._sock = sock
        self._loop = loop
        self._most = most
        self._heard = heard
        self._admits = admits
        self._lingers = lingers
        self._timer = f"clients {sock.fileno()}"

    def open(self) -> None:
        self._loop.watch(self._sock.fileno(), self._accept)

    def move(self, sock: socket.socket) -> None:
        """Accept there from now on, instead of at the socket before, which is the caller's to close."""
        self._loop.unwatch(self._sock.fileno())
        self._sock = sock
        self.open()

    def close(self) -> None:
        for client in list(self.clients.values()):
            self.drop(client)
        self._loop.timers.cancel(self._timer)
        if self._sock.fileno() >= 0:
            self._loop.unwatch(self._sock.fileno())

    def forget(self) -> None:
        """In a child: close our copies."""
        for client in self.clients.values():
            client.sock.close()

    # ---- what the server decides ------------------------------------------------------------

    def wait(self, client: Client) -> bool:
        """Its request is complete, its answer will come later: its time stands still, and it keeps its place.
        False: too many wait already, and newcomers would find no place."""
        waiting = sum(other.phase is Phase.WAITING for other in self.clients.values())
        if waiting >= self._most - KEPT_PLACES:
            return False
        client.phase = Phase.WAITING
        client.seconds_left = max(0.0, client.deadline - monotonic())
        client.deadline = float("inf")
        # Only its going is heard (EPOLLHUP): half a close is none.
        self._loop.watch(client.sock.fileno(), lambda: self.drop(client), 0)
        return True

    def answer(self, client: Client, data: bytes) -> None:
        """Send that, and end. Harmless when the client has gone."""
        if client.sock.fileno() < 0:
            return
        now = monotonic()
        if client.phase is Phase.WAITING:
            client.deadline = now + client.seconds_left
            self._set_timer()
        client.phase, client.since = Phase.READING, now
        client.out = memoryview(data)
        self._loop.watch(client.sock.fileno(), lambda: self._write(client), WRITE)
        self._write(client)

    def drop(self, client: Client) -> None:
        if self.clients.pop(client.sock.fileno(), None) is client:
            self._loop.unwatch(client.sock.fileno())
            client.sock.close()

    # ---- events -------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_MAX_ACCEPTS_PER_TURN):
            leaving = gives_way(self.clients.values(), self._most)
            now = monotonic()
            if leaving is not None and leaving.since + _CERTAIN_SECONDS > now:
                self._loop.look_away(self._sock.fileno(), leaving.since + _CERTAIN_SECONDS - now)
                return
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return  # it has left
            except OSError as error:
                self._loop.snooze(self._sock.fileno(), error)
                return
            if not self._admits(sock):
                sock.close()
                continue
            if leaving is not None:
                self._make_room(leaving)
            sock.setblocking(False)
            client = Client(sock, now, now + CLIENT_SECONDS)
            self.clients[sock.fileno()] = client
            self._loop.watch(sock.fileno(), lambda client=client: self._read(client))  # type: ignore[misc]
            self._set_timer()
            self._read(client)  # as a rule the request is there

    def _make_room(self, leaving: Client) -> None:
        """Unless its request is there by now: then it leaves by itself, soon, and for a moment there is
        one client more."""
        if leaving.phase is Phase.ASKING:
            self._read(leaving)
        if leaving.phase is not Phase.WAITING and leaving.since + _CERTAIN_SECONDS <= monotonic():
            self.drop(leaving)

    def _read(self, client: Client) -> None:
        try:
            data = client.sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.drop(client)
            return
        self._heard(client, data)

    def _write(self, client: Client) -> None:
        try:
            sent = client.sock.send(client.out) if client.out else 0
            client.out = client.out[sent:]
            if sent:
                client.since = monotonic()
            if client.out:
                return
            if not self._lingers:
                self.drop(client)
                return
            client.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self.drop(client)
            return
        self._loop.watch(client.sock.fileno(), lambda: self._linger(client), READ)

    def _linger(self, client: Client) -> None:
        try:
            if client.sock.recv(_RECEIVE_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.drop(client)

    def _set_timer(self) -> None:
        first = min((client.deadline for client in self.clients.values()), default=float("inf"))
        self._loop.timers.cancel(self._timer)
        if first != float("inf"):
            self._loop.timers.set(self._timer, first, self._expire)

    def _expire(self) -> None:
        now = monotonic()
        for client in [c for c in self.clients.values() if c.deadline <= now]:
            self.drop(client)
        self._set_timer()
