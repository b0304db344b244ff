"""The handle sets: one contract for epoll, poll, select and sigio, and what each has of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
from collections.abc import Iterator

import pytest

from forkd.system.handles import (
    FD_SETSIZE,
    HANGUP,
    READ,
    WRITE,
    HandleSet,
    NativeEpollSet,
    make_handle_set,
)
from forkd.system.signals import NEWS

pytestmark = pytest.mark.alone  # SIGIO ends a process with a thread that does not block it


class Listed(NativeEpollSet):
    """Its events are a sequence of the kernel's; here they are to be equal to lists."""

    def __init__(self) -> None:
        super().__init__()
        wait = self.wait
        self.wait = lambda timeout=None: list(wait(timeout))


def made_for(io: str) -> HandleSet:
    if io == "native":
        pytest.importorskip("forkd._native")
        return Listed()
    return make_handle_set(io)


@pytest.fixture(params=["epoll", "poll", "select", "sigio", "native"])
def handles(request: pytest.FixtureRequest) -> Iterator[HandleSet]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    made = made_for(request.param)
    yield made
    made.close()
    while signal.sigtimedwait({NEWS, signal.SIGIO}, 0):
        pass  # none is left to end the tests' process when they are unblocked
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_nothing_is_ready_at_first(
    handles: HandleSet, pair: tuple[socket.socket, socket.socket]
) -> None:
    handles.add(pair[0].fileno(), READ)
    assert handles.wait(0) == []
    assert handles.wait(0.01) == []


def test_input_is_told_until_it_is_read(
    handles: HandleSet, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Level-triggered, whatever is underneath: a handler need not read all."""
    ours, theirs = pair
    handles.add(ours.fileno(), READ)
    theirs.send(b"ab")
    for _ in range(2):
        assert [(fd, mask & READ) for fd, mask in handles.wait(5)] == [(ours.fileno(), READ)]
        ours.recv(1)
    assert handles.wait(0) == []


def test_what_was_there_before_is_told(
    handles: HandleSet, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    theirs.send(b"early")
    handles.add(ours.fileno(), READ)
    assert handles.wait(5)


def test_interest_can_change(handles: HandleSet, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    handles.add(ours.fileno(), READ)
    theirs.send(b"x")
    handles.modify(ours.fileno(), WRITE)
    assert [(fd, mask & (READ | WRITE)) for fd, mask in handles.wait(5)] == [(ours.fileno(), WRITE)]
    handles.modify(ours.fileno(), READ)
    assert [(fd, mask & (READ | WRITE)) for fd, mask in handles.wait(5)] == [(ours.fileno(), READ)]


@pytest.mark.parametrize("watched", ["first", "last"])
@pytest.mark.parametrize("size", [1000, 65536, 1 << 20])
def test_room_is_told(
    handles: HandleSet, pair: tuple[socket.socket, socket.socket], size: int, watched: str
) -> None:
    """Whether the send before took all of its bytes, some or none, and whether it was watched."""
    ours, theirs = pair
    theirs.setblocking(False)
    if watched == "last":
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(bytes(size))
    handles.add(ours.fileno(), WRITE)
    while handles.wait(0):
        ours.send(bytes(size))
    with contextlib.suppress(BlockingIOError):
        while True:
            theirs.recv(1 << 20)
    assert handles.wait(5) == [(ours.fileno(), WRITE)]
    handles.modify(ours.fileno(), READ)
    assert handles.wait(0) == []
    theirs.send(b"x")
    assert handles.wait(5) == [(ours.fileno(), READ)]


def test_a_removed_handle_is_silent_and_can_come_back(
    handles: HandleSet, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    handles.add(ours.fileno(), READ)
    handles.remove(ours.fileno())
    theirs.send(b"x")
    assert handles.wait(0.01) == []
    handles.add(ours.fileno(), READ)
    assert handles.wait(5)


def test_the_end_is_told(handles: HandleSet, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    handles.add(ours.fileno(), READ)
    theirs.close()
    [(fd, mask)] = handles.wait(5)
    assert fd == ours.fileno()
    assert mask & (READ | HANGUP)


def test_listeners_and_eventfds_are_told(handles: HandleSet) -> None:
    """What cannot signal, or whose signals belong to the master, is told all the same."""
    bell = os.eventfd(0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        handles.add(bell, READ)
        handles.add(listener.fileno(), READ)
        assert handles.wait(0) == []
        os.eventfd_write(bell, 1)
        with socket.create_connection(listener.getsockname()):
            told: set[int] = set()
            while told != {bell, listener.fileno()}:
                told |= {fd for fd, _ in handles.wait(5)}
        handles.remove(listener.fileno())
    handles.remove(bell)
    os.close(bell)


@pytest.mark.parametrize("handles", ["sigio"], indirect=True)
def test_more_signals_than_the_queue_holds_lose_nothing(handles: HandleSet) -> None:
    """Beyond RLIMIT_SIGPENDING the kernel sends one plain SIGIO for all that follow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    pairs = [socket.socketpair() for _ in range(100)]
    for ours, _ in pairs:
        ours.setblocking(False)
        handles.add(ours.fileno(), READ)
    assert handles.wait(0) == []
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (10, hard))
    try:
        for _, theirs in pairs:
            theirs.send(b"x")
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))
    told: set[int] = set()
    while len(told) < len(pairs):
        found = handles.wait(5)
        assert found, f"only {len(told)} of {len(pairs)} were told"
        told |= {fd for fd, _ in found}
    for ours, theirs in pairs:
        handles.remove(ours.fileno())
        ours.close()
        theirs.close()


@pytest.mark.parametrize("handles", ["select"], indirect=True)
def test_select_refuses_what_it_cannot_wait_for(handles: HandleSet) -> None:
    with pytest.raises(OSError, match=str(FD_SETSIZE)) as caught:
        handles.add(FD_SETSIZE, READ)
    assert caught.value.errno == errno.EMFILE
