"""Checking clients of connections that last: WebSockets, event streams, and streams by POST.

Every message and event has a number. A client comes back when its connection has ended, as browsers do. The
application (APP) notes each WebSocket that is over in the file `ends`: how many messages it has received, all
in order, and with which code it was over. So what was sent before the client saw a Close can be looked for.
Each worker that retires notes in the file `tasks` how many tasks are left once its connections are drained.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Self

from .conftest import until

APP = r'''
import asyncio, os

NOTED = os.open("ends", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
TASKS = os.open("tasks", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await talk(receive, send)
    elif scope["type"] == "http":
        await {"/events": events, "/tokens": tokens}.get(scope["path"], hello)(scope, receive, send)
    else:
        await lifespan(receive, send)


async def lifespan(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    os.write(TASKS, f"{len(asyncio.all_tasks())}\n".encode())
    await send({"type": "lifespan.shutdown.complete"})


async def talk(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    name, received = "", 0
    while (message := await receive())["type"] == "websocket.receive":
        if not name:
            name = message["text"]
            continue
        assert message["text"] == str(received), (name, message, received)
        received += 1
        try:
            await send({"type": "websocket.send", "text": message["text"]})
        except OSError:  # our Close is sent, and what the client had sent before it saw that is still coming
            pass
    os.write(NOTED, f"{name} {received} {message['code']}\n".encode())


async def events(scope, receive, send):
    """From the one behind Last-Event-ID on."""
    number = int(dict(scope["headers"]).get(b"last-event-id", b"-1"))
    await start(send, b"text/event-stream")
    left = asyncio.ensure_future(disconnect(receive))
    while not left.done():
        number += 1
        await send({"type": "http.response.body", "body": b"id: %d\ndata: x\n\n" % number, "more_body": True})
        await asyncio.wait([left], timeout=2.5 if number % 3 == 2 else 0.05)


async def tokens(scope, receive, send):
    """As many as the body says, each after a pause of so many seconds."""
    count, pause = (await receive())["body"].split()
    await start(send, b"text/event-stream")
    for number in range(int(count)):
        await send({"type": "http.response.body", "body": b"%d," % number, "more_body": True})
        await asyncio.sleep(float(pause))
    await send({"type": "http.response.body"})


async def disconnect(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def start(send, kind):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})


async def hello(scope, receive, send):
    """Answers with the version, and with the name of the request, which clients check."""
    fields = [(name, value) for name, value in scope["headers"] if name == b"x-request-id"]
    fields.append((b"content-length", b"2"))
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"v1"})
'''

RESET = 1006  # the connection ended without a Close
_HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
_MASK = bytes(4)


class End(NamedTuple):
    """How one WebSocket was over for its client."""

    name: str
    sent: int  # before the client saw that
    echoed: int
    code: int
    at: float  # CLOCK_MONOTONIC


class Lasting:
    """Clients in one loop, in a thread of its own, until the block ends; then they leave."""

    def __init__(
        self, address: tuple[str, int], *, chatty: int = 0, bursts: int = 0, idle: int = 0, streams: int = 0,
        again: bool = True,
    ) -> None:  # fmt: skip
        """WebSockets that send all the time, three messages now and then, or none after the first; event
        streams. `again`: they come back."""
        self.address = address
        self.ends: list[End] = []
        self.open: set[str] = set()  # names of WebSockets that have had an echo
        self.streams: Counter[str] = Counter()  # how event streams have ended: clean, reset
        self.events = 0
        self.wrong: list[str] = []
        self.refused = 0
        self._again = again
        self._names = itertools.count(1)
        self._leaving = False
        kinds = [(0.02, chatty), (2.5, bursts), (None, idle)]
        self._sockets = [pause for pause, count in kinds for _ in range(count)]
        self._streams = streams
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: len(self.open) >= len(self._sockets) or self.wrong, "all are open", 60)
        return self

    def __exit__(self, *exception: object) -> None:
        self._leaving = True
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._loop.close()

    def codes(self) -> Counter[int]:
        return Counter(end.code for end in self.ends)

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        talkers = [self._talker(pause) for pause in self._sockets]
        jobs = [*talkers, *(self._reader() for _ in range(self._streams))]
        tasks = [asyncio.create_task(job) for job in jobs]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        for failure in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(failure, Exception):
                self.wrong.append(repr(failure))

    async def _repeat(self, once: Any) -> None:
        while True:
            try:
                await once()
            except OSError:
                self.refused += 1
            if not self._again:
                return
            await asyncio.sleep(0.05)

    async def _connect(self, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """After the head of the answer; None where the connection ended before it."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(f"GET {head}\r\nHost: a\r\n\r\n".encode())
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return None
        if answer.split()[1] not in (b"101", b"200"):
            self.wrong.append(f"{head.split()[0]}: {answer[:60]!r}")
        return reader, writer

    # ---- WebSockets -----------------------------------------------------------------------

    async def _talker(self, pause: float | None) -> None:
        await self._repeat(lambda: self._talk(pause))

    async def _talk(self, pause: float | None) -> None:
        found = await self._connect(f"/talk HTTP/1.1\r\n{_HANDSHAKE}")
        if found is None:
            self.refused += 1
            return
        reader, writer = found
        name, state = f"c{next(self._names)}", {"sent": 0}
        with contextlib.suppress(OSError):
            writer.write(_frame(1, name.encode()))
        sending = asyncio.create_task(self._send(writer, state, pause))
        echoed, code = 0, RESET
        try:
            while True:
                opcode, payload = await _read_frame(reader)
                if opcode == 8:
                    code = struct.unpack("!H", payload[:2])[0]
                    break
                if opcode == 9:
                    writer.write(_frame(10, payload))
                elif payload != str(echoed).encode():
                    self.wrong.append(f"{name}: {payload!r} in place of {echoed}")
                else:
                    echoed += 1
                    self.open.add(name)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            sent = state["sent"]  # what is sent from here on is sent to one who has said that it is over
            sending.cancel()
            self.open.discard(name)
            with contextlib.suppress(OSError):
                if code != RESET:
                    writer.write(_frame(8, struct.pack("!H", code)))
                writer.close()
        self.ends.append(End(name, sent, echoed, code, time.monotonic()))

    async def _send(self, writer: asyncio.StreamWriter, state: dict[str, int], pause: float | None) -> None:
        with contextlib.suppress(OSError):
            while True:
                for _ in range(3):
                    writer.write(_frame(1, str(state["sent"]).encode()))
                    state["sent"] += 1
                await writer.drain()
                await asyncio.sleep(3600 if pause is None else pause)

    # ---- event streams --------------------------------------------------------------------

    async def _reader(self) -> None:
        last = -1

        async def once() -> None:
            nonlocal last
            fields = f"Accept: text/event-stream\r\nLast-Event-ID: {last}"
            found = await self._connect(f"/events HTTP/1.1\r\n{fields}")
            if found is None:
                self.refused += 1
                return
            reader, writer = found
            end = "reset"
            try:
                async for event in _chunks(reader):
                    if event != b"id: %d\ndata: x\n\n" % (last + 1):
                        self.wrong.append(f"{event!r} in place of event {last + 1}")
                    last += 1
                    self.events += 1
                end = "clean"
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()
            self.streams[end] += 1

        await self._repeat(once)


def lost(ends: list[End], noted: Path, codes: set[int]) -> list[str]:
    """What is wrong with the WebSockets that were over with one of these codes, beside what their application
    has noted: messages that were sent before the client saw the Close, and have not come; another code."""
    rows = {}
    for line in noted.read_text().rpartition("\n")[0].splitlines():  # the last one may be half written
        name, received, code = line.split()
        rows[name] = (int(received), int(code))
    found = []
    for end in ends:
        if end.code in codes and rows.get(end.name) != (end.sent, end.code):
            found.append(f"{end}, and its application has {rows.get(end.name)}")
    return found


async def post(address: tuple[str, int], count: int, pause: float) -> str:
    """A stream by POST: `whole`, `error`, or what it looks like."""
    reader, writer = await asyncio.open_connection(*address)
    body = f"{count} {pause}"
    writer.write(f"POST /tokens HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    with contextlib.closing(writer):
        data = b""
        try:
            await reader.readuntil(b"\r\n\r\n")
            async for piece in _chunks(reader):
                data += piece
        except (OSError, asyncio.IncompleteReadError):
            return "error"
    return "whole" if data == b"".join(b"%d," % n for n in range(count)) else f"looks whole: {data!r}"


async def _chunks(reader: asyncio.StreamReader) -> Any:
    """The pieces of a chunked body; IncompleteReadError where it ends without the last one."""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)


def _frame(opcode: int, payload: bytes) -> bytes:
    """As a client sends it, with a mask that changes nothing."""
    assert len(payload) < 126
    return bytes((0x80 | opcode, 0x80 | len(payload))) + _MASK + payload


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, size = await reader.readexactly(2)
    assert size < 126, size
    return first & 15, await reader.readexactly(size)
