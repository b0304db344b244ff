"""WebSocket's frames and the flow of its messages in native code, against their twins in Python."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from forkd.app.asgi.message_flow import MessageFlow
from forkd.engine.link import Link
from forkd.http import frames
from forkd.http.deflate import Inflater, agree
from forkd.http.frames import BadFrame, FrameReader
from forkd.native import native
from tests.http.test_deflate import OFFER, squeezed
from tests.http.test_frames import masked

pytestmark = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "20000")) // 20
SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)


def conversation(chance: random.Random, deflate: bool) -> bytes:
    """A client's frames, with a change here and there."""
    raw, inside = b"", False
    for _ in range(chance.randrange(1, 8)):
        data = chance.choice((b"", b"a", "é€😀".encode(), b"\xc3", chance.randbytes(chance.choice((5, 130)))))
        data *= chance.choice((1, 1, 3, 40, 2000 if chance.random() < 0.1 else 2))
        kind = chance.choice((1, 1, 2, 2, 0, 9, 10, 8 if chance.random() < 0.2 else 9))
        if kind < 8 and chance.random() < 0.9:
            kind = 0 if inside else (kind or 1)
        last, bits = kind > 7 or chance.random() < 0.6, 0
        inside = inside if kind > 7 else not last
        if kind > 7:
            data = data[:125]
        if kind == 8:
            data = chance.choice((b"", b"\x03\xe8" + data[:20], b"\x03\xed", b"\x03"))
        if deflate and kind in (1, 2) and chance.random() < 0.6:
            data, bits = squeezed(data), 0x40
        raw += masked(kind, data, fin=last, reserved=bits)
    if raw and chance.random() < 0.3:
        at = chance.randrange(len(raw))
        raw = raw[:at] + bytes((raw[at] ^ 1 << chance.randrange(8),)) + raw[at + 1 :]
    return raw


def pieces(raw: bytes, chance: random.Random, least: int = 1) -> Iterator[bytes]:
    step = least * chance.choice((1, 3, 20, 300, 1 << 20))
    while raw:
        size = chance.randrange(1, step + 1)
        yield raw[:size]
        raw = raw[size:]


def test_frames_are_read_as_the_twin_reads_them() -> None:
    assert native is not None
    for seed in range(SEED, SEED + ROUNDS):
        chance = random.Random(seed)
        deflate, most = chance.random() < 0.5, chance.choice((0, 100, 1000, 1 << 20))
        raw = conversation(chance, deflate)
        chunks = list(pieces(raw, chance))
        agreed = agree(OFFER) if deflate else None
        found = []
        for kind in (FrameReader, native.FrameReader):
            chance.seed(seed)
            reader = kind(most=most, inflater=None if agreed is None else Inflater(agreed))
            found.append(list(_read(reader, chunks, chance)))
        assert found[0] == found[1], seed


def _read(reader: Any, chunks: list[bytes], chance: random.Random) -> Iterator[Any]:
    try:
        for chunk in chunks:
            taken = reader.feed(chunk)
            for each in taken:
                yield each
                if chance.random() < 0.3:
                    break  # the rest later
            yield reader.midway
        yield from reader.feed(b"")
    except BadFrame as bad:
        yield bad.code, bad.reason


class General:
    """What a flow calls; it notes how."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.flow: Any = None

    async def say(self, message: Any) -> None:
        self.calls.append(("say", message))

    async def spill(self, rest: bytes) -> None:
        self.calls.append(("spill", len(rest)))

    def control(self, frame: Any) -> None:
        self.calls.append(frame)
        if frame.opcode == frames.CLOSE:
            self.flow.over = True
            self.flow.end = {"type": "websocket.disconnect"}
            self.flow.release()

    def wrong(self, bad: BadFrame) -> None:
        self.calls.append((bad.code, bad.reason))
        self.flow.over = True
        self.flow.end = {"type": "websocket.disconnect"}
        self.flow.release()

    def drained(self) -> None:
        self.calls.append("drained")
        self.flow.read(b"")


def flow_of(kind: Any, reader: Any, peer: Any = None) -> tuple[Any, General]:
    general = General()
    peer = Link() if peer is None else peer
    loop = asyncio.get_running_loop()
    frames = reader(most=1 << 20, inflater=None)
    flow = kind(peer=peer, general=general, loop=loop, reader=frames, compresses=False)
    general.flow = flow
    return flow, general


async def talk(seed: int, kind: Any, reader: Any) -> list[Any]:
    """Bytes come, and messages are received by waits that end early, several at a time."""
    chance, seen = random.Random(seed), []
    flow, general = flow_of(kind, reader)
    raw = b"".join(
        masked(chance.choice((1, 2)), b"%d" % number * chance.choice((1, 1, 1, 2500))) for number in range(60)
    ) + conversation(chance, False)
    waits: list[Any] = []
    assert await flow.receive() == {"type": "websocket.connect"}
    for chunk in pieces(raw, chance, 20):
        flow.read(chunk)
        for _ in range(chance.randrange(4)):
            match chance.randrange(5):
                case 0:
                    waits.append(asyncio.ensure_future(flow.receive()))
                case 1 if waits:
                    waits[chance.randrange(len(waits))].cancel()
                case 2:
                    await asyncio.sleep(0)
                case 3:
                    flow.receive().close()  # not awaited: nothing happens
                case 4:
                    await flow.send({"type": "websocket.send", "text": "x"})
        seen.append((flow.full, flow.reader.midway and not flow.over, flow.over))
        done = [each for each in waits if each.done()]
        waits = [each for each in waits if not each.done()]
        seen += [None if each.cancelled() else each.result() for each in done]
    while flow.end is None:
        await asyncio.sleep(0)
        if not waits:
            waits.append(asyncio.ensure_future(flow.receive()))
            await asyncio.sleep(0)
        if not waits[0].done():
            break
        first = waits.pop(0)
        seen.append(None if first.cancelled() else first.result())
    if flow.end is None:
        flow.end = {"type": "websocket.disconnect"}
        flow.release()
    seen += await asyncio.gather(*waits, return_exceptions=True)
    flow.discard()
    flow.detach()
    with pytest.raises(ConnectionError):
        await flow.send({"type": "websocket.send", "text": "x"})
    return [str(each) for each in (*seen, *general.calls)]


def test_messages_flow_as_in_the_twin() -> None:
    assert native is not None
    for seed in range(SEED, SEED + ROUNDS // 40):
        found = [
            asyncio.run(talk(seed, *kinds))
            for kinds in ((MessageFlow, FrameReader), (native.MessageFlow, native.FrameReader))
        ]
        assert found[0] == found[1], seed


def frame_of(text: str | None = None, bytes: bytes | None = None, **_: str) -> bytes:
    return frames.frame(2, bytes or b"") if text is None else frames.frame(1, text.encode())


async def sent_by(flow: Any, general: General, messages: list[Any]) -> None:
    for message in messages:
        await flow.send(message)


USUAL = [
    {"type": "websocket.send", "text": "é" * 10}, {"type": "websocket.send", "bytes": bytes(126)},
    {"type": "websocket.send", "text": None, "bytes": b""},
    {"type": "websocket.send", "bytes": b"x" * 70_000},
    {"type": "websocket.send", "text": "x" * 20_000, "bytes": None},
]  # fmt: skip
UNUSUAL = [
    {"type": "websocket.send"}, {"type": "websocket.send", "text": "a", "bytes": b"b"}, {"text": "a"},
    {"type": "websocket.send", "bytes": bytearray(b"a")}, {"type": "websocket.send", "text": "\ud800"},
    {"type": "websocket.close"}, {"type": "websocket.send", "text": b"a"}, {"type": 1, "text": "a"}, [1],
]  # fmt: skip


def test_what_is_plain_is_sent_at_once_and_all_else_is_for_the_twin() -> None:
    assert native is not None
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    link = Link()
    link.fd = ours.fileno()

    async def run() -> None:
        assert native is not None
        flow, general = flow_of(native.MessageFlow, native.FrameReader, link)
        await sent_by(flow, general, USUAL)
        assert general.calls == [("say", message) for message in USUAL]
        general.calls.clear()
        flow.plain = True
        flow.send(USUAL[0])  # not awaited: nothing happens
        await sent_by(flow, general, USUAL)
        assert general.calls == []
        await sent_by(flow, general, UNUSUAL)
        assert general.calls == [("say", message) for message in UNUSUAL]
        wanted = b"".join(frame_of(**message) for message in USUAL)
        assert flow.sent == len(wanted)
        assert theirs.recv(1 << 20, socket.MSG_WAITALL | socket.MSG_DONTWAIT) == wanted
        general.calls.clear()
        while not general.calls:  # until the socket is full
            await flow.send(USUAL[3])
        ((kind, left),) = general.calls
        assert kind == "spill"
        received = 0
        while received + left < flow.sent - len(wanted):
            received += len(theirs.recv(1 << 20))
        assert received + left == flow.sent - len(wanted)

    with ours, theirs:
        asyncio.run(run())


def test_a_step_is_used_once_and_what_is_thrown_into_it_comes_out() -> None:
    assert native is not None

    async def run(kind: Any, reader: Any) -> None:
        flow, _ = flow_of(kind, reader)
        step = flow.receive()
        assert await step == {"type": "websocket.connect"}
        with pytest.raises(RuntimeError):
            await step
        for started in (False, True):
            step = flow.receive()
            if started:
                step.send(None)
            with pytest.raises(KeyError):
                step.throw(KeyError("x"))
            with pytest.raises((RuntimeError, StopIteration)):
                step.send(None)
        flow.read(masked(1, b"still there"))
        assert await flow.receive() == {"type": "websocket.receive", "text": "still there"}

    asyncio.run(run(MessageFlow, FrameReader))
    asyncio.run(run(native.MessageFlow, native.FrameReader))
