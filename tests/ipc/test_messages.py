"""The control channel: every message arrives as it was sent, and nonsense does no harm."""

from __future__ import annotations

import json
import os
import resource
import socket

import pytest

from forkd.ipc.messages import (
    Blocked,
    Channel,
    Failed,
    Message,
    Quit,
    Ready,
    Recycle,
    Relisten,
    Retire,
)

MESSAGES: list[Message] = [
    Ready("wsgi", "", "", ""), Failed("Traceback …\n  'ü' \0 \udcff"), Recycle("max-requests"),
    Retire(2.0, True, False), Retire(0.05, False, True), Quit(),
    Blocked("GET /ü HTTP/1.1", ""),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_round_trip(message: Message) -> None:
    ours, theirs = Channel.pair()
    assert theirs.send(message)
    found = ours.receive()
    assert found == [message]
    assert found is not None and type(found[0]) is type(message)
    ours.close()
    theirs.close()


def test_a_descriptor_is_passed_to_a_child_and_not_to_the_master() -> None:
    ours, theirs = Channel.pair()
    first, second = os.pipe()
    free = os.dup(first)
    os.close(free)
    for trusted, expected in ((True, free), (False, -1)):
        assert ours.send(Relisten(7, True, second))
        before = len(os.listdir("/proc/self/fd"))
        assert theirs.receive(trusted) == [Relisten(7, True, expected)]
        assert len(os.listdir("/proc/self/fd")) - before == trusted
    assert not os.get_inheritable(free)
    os.write(free, b"passed")
    assert os.read(first, 10) == b"passed"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        assert ours.send(Relisten(7, True, second))
        assert theirs.receive(True) == [Relisten(7, True, -1)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for fd in (first, second, free):
        os.close(fd)
    ours.close()
    theirs.close()


def test_several_arrive_in_order_and_then_nothing() -> None:
    ours, theirs = Channel.pair()
    for message in MESSAGES:
        assert ours.send(message)
    assert theirs.receive() == MESSAGES
    assert theirs.receive() == []
    ours.close()
    theirs.close()


def test_the_last_words_come_before_the_end() -> None:
    ours, theirs = Channel.pair()
    theirs.send(Failed("no"))
    theirs.close()
    assert ours.receive() == [Failed("no")]
    assert ours.receive() is None
    ours.close()


def test_sending_to_nobody_says_so() -> None:
    ours, theirs = Channel.pair()
    theirs.close()
    assert ours.send(Quit()) is False and ours.gone
    ours.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"x", b"\xff\xfe", b"[]", b"{}", b"null", b"1", b'["Ready"]', b'["Nope", {}]',
        b'["Ready", {"pid": 1}]', b'["Ready", [1]]', b'[["Ready"], {}]', b'["Ready", {}, 1]',
        b"[" * 50_000,
        b'"ab"',
    ],
)  # fmt: skip
def test_garbage_from_a_child_is_skipped(garbage: bytes) -> None:
    raw, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(end)
    raw.send(garbage)
    raw.send(json.dumps(["Ready", {"interface": "wsgi", "loop": "", "fallback": "", "tasks": ""}]).encode())
    assert channel.receive() == [Ready("wsgi", "", "", "")]
    raw.close()
    channel.close()


@pytest.mark.parametrize(
    "wrong",
    [
        ["Ready", {"interface": 7}],
        ["Recycle", {"why": None}],
        ["Recycle", {"why": {"a": 1}}],
        ["Failed", {"error": ["x"]}],
    ],
)
def test_a_field_of_a_wrong_type_is_nonsense_too(wrong: list[object]) -> None:
    raw, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(end)
    raw.send(json.dumps(wrong).encode())
    assert channel.receive() == []
    raw.close()
    channel.close()


@pytest.mark.parametrize("text", ["x" * 1_000_000, "ü€𝄞" * 300_000, "\x01" * 1_000_000])
def test_a_long_traceback_is_cut_in_the_middle(text: str) -> None:
    ours, theirs = Channel.pair()
    assert theirs.send(Failed("first" + text + "last"))
    found = ours.receive()
    assert found is not None and len(found) == 1
    error = found[0]
    assert isinstance(error, Failed)
    assert error.error.startswith("first")
    assert error.error.endswith("last")
    ours.close()
    theirs.close()


def test_a_reader_that_does_not_read_never_blocks_the_sender() -> None:
    ours, theirs = Channel.pair()
    results = [ours.send(Failed("x" * 10_000)) for _ in range(1000)]
    assert results[0] and not results[-1]
    assert not ours.gone
    assert theirs.receive()
    ours.close()
    theirs.close()


def test_the_end_of_the_other_process_is_heard() -> None:
    ours, theirs = Channel.pair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        os._exit(0)
    theirs.close()
    os.waitpid(pid, 0)
    assert ours.receive() is None
    ours.close()
