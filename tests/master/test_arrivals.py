"""How the master is told of who has come to a listener: once each time it is armed, in either way."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from forkd.ipc.handover import _listener
from forkd.master.arrivals import Arrivals, ByEpoll, BySignal, arrivals
from forkd.system.address import Address
from forkd.system.loop import Loop
from forkd.system.sockets import Listener, listen

pytestmark = pytest.mark.alone  # SIGIO ends a process with a thread that does not block it


class Bell:
    """Two listeners, and how often somebody was told of them."""

    def __init__(self, private: bool) -> None:
        self.loop = Loop()
        self.heard = 0
        self.listeners = [listen(Address(kind="tcp", host="127.0.0.1", port=0), 16) for _ in "ab"]
        self.clients: list[socket.socket] = []
        if not private:
            for listener in self.listeners:
                listener.expose()
        self.arrivals: list[Arrivals] = arrivals(self.listeners, self.loop, self._came)

    def _came(self) -> None:
        self.heard += 1

    def arm(self) -> None:
        for each in self.arrivals:
            each.arm()

    def disarm(self) -> None:
        for each in self.arrivals:
            each.disarm()

    def connect(self, index: int) -> None:
        self.clients.append(
            socket.create_connection(self.listeners[index].sockets[0].getsockname())
        )

    def told(self) -> int:
        """How often somebody was told since the last call."""
        self.heard = 0
        for _ in range(5):
            self.loop.timers.set("now", 0.0, lambda: None)
            self.loop.turn()
        while signal.sigtimedwait({signal.SIGIO}, 0) is not None:
            self.heard += 1
        return self.heard

    def close(self) -> None:
        for each in self.arrivals:
            each.close()
        for thing in [*self.clients, *self.listeners]:
            thing.close()
        self.loop.close()


@pytest.fixture(params=[True, False], ids=["signal", "epoll"])
def bell(request: pytest.FixtureRequest) -> Iterator[Bell]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
    made = Bell(request.param)
    yield made
    made.close()
    while signal.sigtimedwait({signal.SIGIO}, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_it_tells_when_it_is_armed_only(bell: Bell) -> None:
    bell.connect(0)
    assert bell.told() == 0
    bell.arm()
    bell.connect(1)
    assert bell.told() >= 1
    bell.disarm()
    bell.connect(0)
    bell.connect(1)
    assert bell.told() == 0


def test_disarmed_at_once_although_somebody_is_there(bell: Bell) -> None:
    """As the doorbell does when it finds somebody after it was armed (doorbell.py, `look`)."""
    bell.connect(0)
    bell.connect(1)
    bell.arm()
    bell.disarm()
    assert bell.told() == 0


def test_disarmed_before_anybody_came(bell: Bell) -> None:
    bell.arm()
    bell.disarm()
    bell.connect(0)
    assert bell.told() == 0


def test_it_tells_again_each_time(bell: Bell) -> None:
    for _ in range(3):
        bell.arm()
        bell.connect(1)
        assert bell.told() == 1
        bell.disarm()
        bell.listeners[1].sockets[0].accept()[0].close()


def test_it_tells_of_a_crowd_once(bell: Bell) -> None:
    """Also where nobody accepts: the loop does not spin."""
    bell.arm()
    for _ in range(5):
        bell.connect(0)
    assert bell.told() == 1


def test_by_epoll_it_tells_of_who_was_there_before(bell: Bell) -> None:
    """By signal, who arms it has to look (doorbell.py)."""
    bell.connect(0)
    bell.arm()
    assert bell.told() == (0 if bell.listeners[0].private else 1)


def test_closed_it_tells_no_more(bell: Bell) -> None:
    bell.arm()
    for each in bell.arrivals:
        each.close()
    bell.connect(0)
    assert bell.told() == 0


def test_only_what_is_private_has_an_owner(bell: Bell) -> None:
    owner = os.getpid() if bell.listeners[0].private else 0
    for listener in bell.listeners:
        assert fcntl.fcntl(listener.sockets[0], fcntl.F_GETOWN) == owner


def test_what_is_exposed_has_no_owner_and_no_signal_of_its_own() -> None:
    listener = listen(Address(kind="tcp", host="127.0.0.1", port=0), 16)
    sock = listener.sockets[0]
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sock, fcntl.F_SETSIG, signal.SIGUSR2)
    fcntl.fcntl(sock, fcntl.F_SETFL, fcntl.fcntl(sock, fcntl.F_GETFL) | os.O_ASYNC)
    assert listener.private
    listener.expose()
    assert not listener.private
    assert fcntl.fcntl(sock, fcntl.F_GETOWN) == 0
    assert fcntl.fcntl(sock, fcntl.F_GETSIG) == 0
    assert not fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_ASYNC
    listener.close()


@pytest.mark.parametrize(
    ("said", "private"), [({"private": True}, True), ({"private": False}, False), ({}, False)]
)
def test_what_an_upgrade_hands_over(said: dict[str, bool], private: bool) -> None:
    """A forkd that is older than this says nothing of it."""
    made = listen(Address(kind="tcp", host="127.0.0.1", port=0), 16)
    item = {
        "wanted": asdict(made.wanted),
        "name": made.name,
        "backlog": 16,
        "fds": [os.dup(made.sockets[0].fileno())],
    }
    found = _listener({**item, **said})
    assert found.private is private
    found.close()
    made.close()


@pytest.mark.parametrize("private", [True, False])
def test_a_listener_that_was_passed_to_us_is_not_private(private: bool) -> None:
    made = listen(Address(kind="tcp", host="127.0.0.1", port=0), 16)
    passed: Listener = (
        made if private else listen(Address(kind="fd", fd=os.dup(made.sockets[0].fileno())), 16)
    )
    assert passed.private is private
    loop = Loop()
    by_signal, by_epoll = arrivals([passed], loop, lambda: None)
    assert isinstance(by_signal, BySignal) and isinstance(by_epoll, ByEpoll)
    by_epoll.arm()
    loop.timers.set("now", 0.0, lambda: None)
    socket.create_connection(made.sockets[0].getsockname()).close()
    loop.turn()
    loop.close()
    passed.close()
    made.close()
