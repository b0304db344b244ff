"""Asynchronous operations, io_uring's and aio's: one contract, on sockets of our own."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import socket
import sys
import termios
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest

from forkd.system.aio import AioOperations
from forkd.system.handles import READ, READ_END
from forkd.system.operations import Kind, Operations
from forkd.system.uring import UringOperations

pytestmark = pytest.mark.alone  # as in test_handles.py, by the signals of POSIX AIO

LISTENER = socket.create_server(("127.0.0.1", 0), backlog=1000)
LISTENER.setblocking(False)

MAKERS: dict[str, Callable[[], Operations]] = {
    "io_uring, multishot": lambda: UringOperations(set(), shared=False, pooled=False),
    "io_uring, one shot": lambda: UringOperations(set(), shared=True, pooled=True),
    "io_uring, without native code": lambda: UringOperations(
        set(), shared=False, pooled=False, native=False
    ),
    "aio": AioOperations,
}


@pytest.fixture(params=MAKERS)
def operations(request: pytest.FixtureRequest) -> Iterator[Operations]:
    made = MAKERS[request.param]()
    yield made
    made.close()


class Heard:
    """Waits until something is true, and remembers all that was told."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.ready: list[int] = []
        self.received: dict[int, list[bytes | OSError]] = defaultdict(list)
        self.sent: dict[int, int] = defaultdict(int)
        self.errors: list[OSError] = []
        self.accepted: list[int] = []

    def until(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "not told in time"
            self.turn(0.05)

    def turn(self, timeout: float) -> None:
        self.ready += [fd for fd, _ in self.operations.wait(timeout)]
        for kind, fd, result in self.operations.completed():
            if isinstance(result, OSError):
                self.errors.append(result)
            elif kind is Kind.RECEIVED:
                self.received[fd].append(result)
            elif kind is Kind.SENT:
                self.sent[fd] += result
            else:
                self.accepted.append(result)

    def bytes(self, fd: int) -> bytes:
        return b"".join(piece for piece in self.received[fd] if isinstance(piece, bytes))


def connection(operations: Operations) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(10)
    operations.adopt(ours.fileno())
    return ours, theirs


def test_bytes_and_then_the_end_are_received(operations: Operations) -> None:
    ours, theirs = connection(operations)
    fd = ours.fileno()
    heard = Heard(operations)
    operations.add(fd, READ)
    heard.turn(0)
    theirs.send(b"one")
    heard.until(lambda: heard.bytes(fd) == b"one")
    theirs.send(b"two")
    operations.modify(fd, READ)
    heard.until(lambda: heard.bytes(fd) == b"onetwo")
    theirs.close()
    operations.modify(fd, READ)
    heard.until(lambda: heard.received[fd][-1:] == [b""])
    operations.remove(fd)
    operations.release(ours)


def test_what_is_not_wanted_yet_is_held_in_order(operations: Operations) -> None:
    ours, theirs = connection(operations)
    fd = ours.fileno()
    heard = Heard(operations)
    operations.add(fd, READ)
    theirs.send(b"first")
    heard.until(lambda: heard.received[fd])
    operations.remove(fd)
    sent = b"first"
    for number in range(30):  # more than is held: the rest waits in the socket
        piece = b"%04d" % number * 50
        theirs.send(piece)
        sent += piece
        heard.turn(0)
    assert heard.bytes(fd) == b"first"
    operations.add(fd, READ)
    heard.until(lambda: heard.bytes(fd) == sent)
    operations.release(ours)


@pytest.mark.parametrize("native", [True, False])
def test_a_paced_connection_holds_one_piece_and_is_told_its_end(native: bool) -> None:
    operations = UringOperations(set(), shared=True, pooled=False, paced=True, native=native)
    ours, theirs = connection(operations)
    fd, heard, sent = ours.fileno(), Heard(operations), 0
    theirs.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += theirs.send(bytes(10_000))
    operations.add(fd, READ)
    heard.until(lambda: heard.received[fd])
    operations.modify(fd, READ_END)
    for _ in range(5):
        heard.turn(0.01)
    waiting = array.array("i", [0])
    fcntl.ioctl(ours, termios.FIONREAD, waiting)
    assert sent - waiting[0] <= 2 * 16384 < sent
    assert b"" not in heard.received[fd]
    theirs.close()
    heard.until(lambda: heard.received[fd][-1] == b"")
    operations.modify(fd, READ)
    heard.until(lambda: len(heard.bytes(fd)) == sent)
    heard.received.clear()
    heard.until(lambda: heard.received[fd] == [b""])
    operations.release(ours)
    operations.close()


def test_a_large_send_arrives_whole_at_a_slow_reader(operations: Operations) -> None:
    ours, theirs = connection(operations)
    fd = ours.fileno()
    heard = Heard(operations)
    data = os.urandom(1 << 16) * 128
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(theirs.recv(30_000))

    reader = threading.Thread(target=read)
    reader.start()
    operations.send(fd, data)
    assert operations.sending(fd)
    heard.until(lambda: not operations.sending(fd))
    reader.join(10)
    assert heard.sent[fd] == len(data)
    assert bytes(got) == data
    operations.release(ours)


def test_a_send_to_a_peer_that_left_is_an_error(operations: Operations) -> None:
    ours, theirs = connection(operations)
    theirs.close()
    heard = Heard(operations)
    operations.send(ours.fileno(), b"anybody?")
    heard.until(lambda: heard.errors)
    assert isinstance(heard.errors[0], BrokenPipeError)
    assert not operations.sending(ours.fileno())
    operations.release(ours)


def test_what_comes_while_the_caller_sends_itself_is_held(operations: Operations) -> None:
    ours, theirs = connection(operations)
    fd = ours.fileno()
    heard = Heard(operations)
    operations.add(fd, READ)
    theirs.send(b"head")
    data = b""
    while not data:
        operations.wait(10)
        for _, _, data in operations.completed():
            assert data == b"head"
            operations.remove(fd)
            theirs.send(b"body")
            operations.sends_itself(fd)
            assert ours.send(b"mine") == 4
            assert theirs.recv(100) == b"mine"
    operations.add(fd, READ)
    theirs.send(b"next")
    heard.until(lambda: heard.bytes(fd) == b"bodynext")
    operations.release(ours)


def test_the_caller_may_receive_the_rest_itself(operations: Operations) -> None:
    ours, theirs = connection(operations)
    other, client = connection(operations)  # whose bytes come meanwhile, and are not lost
    fd = ours.fileno()
    heard = Heard(operations)
    for number in (fd, other.fileno()):
        operations.add(number, READ)
    heard.turn(0)
    whole = bytes(range(256)) * 400
    theirs.sendall(whole)
    client.sendall(b"mine")
    theirs.close()
    taken = b""
    deadline = time.monotonic() + 10
    while not taken and time.monotonic() < deadline:
        operations.wait(0.05)
        for _, number, result in operations.completed():
            assert isinstance(result, bytes)
            if number == fd:
                taken = result + operations.receives_itself(fd)
            else:
                heard.received[number].append(result)
    ours.setblocking(True)
    while piece := ours.recv(65536):
        taken += piece
    assert taken == whole
    heard.until(lambda: heard.bytes(other.fileno()) == b"mine")
    for sock in (ours, other):
        operations.remove(sock.fileno())
        operations.release(sock)
    client.close()


def test_releasing_ends_what_is_under_way(operations: Operations) -> None:
    """Neither the receive nor the send keeps the connection open, and the next one that gets its
    descriptor hears nothing of them."""
    heard = Heard(operations)
    for _ in range(20):
        ours, theirs = connection(operations)
        fd = ours.fileno()
        operations.add(fd, READ)
        heard.turn(0)
        operations.remove(fd)
        operations.send(fd, bytes(1 << 22))  # more than the socket takes
        heard.turn(0)
        operations.release(ours)
        ended = threading.Event()

        def read(peer: socket.socket = theirs, ended: threading.Event = ended) -> None:
            try:
                while peer.recv(65536):
                    pass
            except ConnectionResetError:
                pass
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        heard.until(ended.is_set)
        heard.sent.clear()
        theirs.close()
    assert not any(heard.received.values())


def test_plain_handles_are_level_triggered(operations: Operations) -> None:
    bell = os.eventfd(0, os.EFD_NONBLOCK)
    heard = Heard(operations)
    operations.add(bell, READ)
    heard.turn(0)
    assert heard.ready == []
    os.eventfd_write(bell, 1)
    heard.until(lambda: heard.ready.count(bell) == 3)  # it was not read
    os.eventfd_read(bell)
    heard.turn(0)
    heard.ready.clear()
    heard.turn(0)
    assert heard.ready == []
    operations.remove(bell)
    os.eventfd_write(bell, 1)
    heard.turn(0.05)
    assert heard.ready == []
    os.close(bell)


def test_what_has_completed_and_was_not_told_has_come(operations: Operations) -> None:
    """It is in the socket no more, and a connection that is about to be given up must not be."""
    heard = Heard(operations)
    ours, theirs = connection(operations)
    operations.add(ours.fileno(), READ)
    heard.turn(0)
    assert not operations.has_come(ours.fileno())
    theirs.send(b"late")
    deadline = time.monotonic() + 10
    while not operations.has_come(ours.fileno()):
        assert time.monotonic() < deadline
    heard.until(lambda: heard.bytes(ours.fileno()) == b"late")
    assert not operations.has_come(ours.fileno())
    operations.release(ours)
    theirs.close()


def test_what_an_operation_has_taken_has_come_before_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """glibc's thread may be kept from the processor between its read(2) and its word that it has ended."""
    operations = AioOperations()
    monkeypatch.setattr("forkd.system.aio._Operation.ended", lambda operation, libc: False)
    ours, theirs = connection(operations)
    operations.modify(ours.fileno(), READ)
    assert not operations.has_come(ours.fileno())
    theirs.sendall(b"GET")
    deadline = time.monotonic() + 10
    while not _is_empty(ours):  # it is looked there first: engine/completing.py
        assert time.monotonic() < deadline
    assert operations.has_come(ours.fileno())
    theirs.close()
    heard = Heard(operations)
    heard.until(lambda: heard.received[ours.fileno()])
    operations.release(ours)
    operations.close()


def _is_empty(sock: socket.socket) -> bool:
    """Nothing is in it, so that what was sent has been taken out."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder) == 0


def test_many_connections_at_once(operations: Operations) -> None:
    """More than there are buffers for."""
    heard = Heard(operations)
    pairs = [connection(operations) for _ in range(200)]
    for ours, theirs in pairs:
        operations.add(ours.fileno(), READ)
        theirs.send(b"x" * 5000)
    heard.until(lambda: all(len(heard.bytes(ours.fileno())) == 5000 for ours, _ in pairs))
    for ours, theirs in pairs:
        operations.release(ours)
        theirs.close()


@pytest.mark.parametrize("shared", [True, False], ids=["one shot", "multishot"])
def test_accepting_stops_without_losing_anybody(shared: bool) -> None:
    """Each connection is returned, or waits in the accept queue for another process."""
    operations = UringOperations({LISTENER.fileno()}, shared=shared, pooled=False)
    heard = Heard(operations)
    clients = []
    for _ in range(20):
        operations.add(LISTENER.fileno(), READ)
        heard.turn(0)
        clients += [socket.create_connection(LISTENER.getsockname()) for _ in range(10)]
        heard.turn(0)
        operations.remove(LISTENER.fileno())
        heard.turn(0)
    told = len(heard.accepted)
    assert told >= 20
    operations.close()
    while len(heard.accepted) < len(clients):
        heard.accepted.append(LISTENER.accept()[0].detach())
    with pytest.raises(BlockingIOError):
        LISTENER.accept()
    for fd in heard.accepted:
        os.close(fd)
    for client in clients:
        client.close()


def test_an_operation_whose_signal_was_lost_is_found() -> None:
    """The queue of real-time signals is full: glibc cannot send the signal, and drops the result."""
    operations = AioOperations()
    ours, theirs = connection(operations)
    heard = Heard(operations)
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, hard))
    try:
        operations.add(ours.fileno(), READ)
        theirs.send(b"quiet")
        heard.until(lambda: heard.errors)
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))
    assert isinstance(heard.errors[0], BlockingIOError)
    operations.release(ours)
    operations.close()


def test_so_it_is_while_others_go_on() -> None:
    """Whose signals come all the time."""
    operations = AioOperations()
    (ours, theirs), (other, its) = connection(operations), connection(operations)
    heard = Heard(operations)
    operations.add(other.fileno(), READ)
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, hard))
    try:
        operations.add(ours.fileno(), READ)
        control = operations._handles[ours.fileno()].receive.control
        theirs.send(b"quiet")
        deadline = time.monotonic() + 10
        while operations._libc.aio_error(ctypes.byref(control)) != errno.EAGAIN:
            assert time.monotonic() < deadline, "the signal was sent"
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))

    def told() -> bool:
        its.send(b"busy")
        return bool(heard.errors)

    heard.until(told)
    operations.release(ours)
    operations.release(other)
    operations.close()
