"""Protocols as they are written for asyncio; nothing here knows forkd."""

import asyncio
import hashlib
import json
import os

HERE = os.path.dirname(os.path.abspath(__file__))


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Tasks(asyncio.Protocol):
    """Greets from a timer, answers lines from tasks, ends after "quit" from within one."""

    def connection_made(self, transport):
        self.transport, self.data = transport, b""
        self.order = asyncio.Lock()
        self.peer = transport.get_extra_info("peername")
        self.loop = asyncio.get_running_loop()
        self.greeting = self.loop.call_later(0.01, transport.write, b"hello\n")

    def data_received(self, data):
        *lines, self.data = (self.data + data).split(b"\n")
        for line in lines:
            self.loop.create_task(self.answer(line))

    async def answer(self, line):
        async with self.order:
            await asyncio.sleep(0.01)
            if line == b"peer":
                self.transport.write(b"%s %d\n" % (self.peer[0].encode(), self.peer[1]))
            elif line == b"thread":
                digest = await self.loop.run_in_executor(None, hashlib.sha256, line)
                self.transport.write(digest.hexdigest().encode() + b"\n")
            elif line == b"quit":
                self.transport.writelines([b"b", b"y", b"e", b"\n"])
                self.transport.close()
            else:
                self.transport.write(line[::-1] + b"\n")

    def connection_lost(self, exc):
        self.greeting.cancel()


class Buffered(asyncio.BufferedProtocol):
    """Echoes through a buffer of its own, which is small."""

    def connection_made(self, transport):
        self.transport, self.buffer = transport, bytearray(1000)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.transport.write(bytes(self.buffer[:nbytes]))

    def eof_received(self):
        self.transport.write(b"<eof>")
        return False


class HalfClosed(asyncio.Protocol):
    """Says what it got only after the client has said that there is no more."""

    def connection_made(self, transport):
        self.transport, self.data = transport, b""

    def data_received(self, data):
        self.data += data

    def eof_received(self):
        asyncio.get_running_loop().call_soon(self.finish)
        return True

    def finish(self):
        self.transport.write(self.data)
        self.transport.close()


async def _serve(reader, writer):
    async for line in reader:
        writer.write(line.upper())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


def streams():
    """asyncio.start_server's own protocol: coroutines over a StreamReader and a StreamWriter."""
    return asyncio.StreamReaderProtocol(asyncio.StreamReader(), _serve)


class Broken(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        raise RuntimeError("failed on purpose")


class Source(asyncio.Protocol):
    """Sends 20 MB with flow control, or all at once, and leaves a report beside this file."""

    PIECE, PIECES = 65536, 320

    def connection_made(self, transport):
        self.transport, self.left = transport, 0
        self.report = {"paused": 0, "resumed": 0, "peak": 0}
        self.running = True

    def data_received(self, data):
        if data == b"careless":
            self.transport.write(b"".join(self.piece(n) for n in range(self.PIECES)))
            self.transport.close()
        else:
            self.left = self.PIECES
            self.go_on()

    def piece(self, number):
        return number.to_bytes(4, "big") * (self.PIECE // 4)

    def go_on(self):
        while self.running and self.left:
            self.transport.write(self.piece(self.PIECES - self.left))
            self.left -= 1
            size = self.transport.get_write_buffer_size()
            self.report["peak"] = max(self.report["peak"], size)
        if not self.left:
            self.transport.close()

    def pause_writing(self):
        self.running = False
        self.report["paused"] += 1
        self.tell("paused.json")

    def resume_writing(self):
        self.running = True
        self.report["resumed"] += 1
        self.go_on()

    def connection_lost(self, exc):
        self.report["reason"] = repr(exc)
        self.tell("lost.json")

    def tell(self, name):
        path = os.path.join(HERE, name)
        with open(path + ".new", "w") as file:
            json.dump({**self.report, "left": self.left}, file)
        os.replace(path + ".new", path)


class Sink(asyncio.Protocol):
    """Reads nothing until it is let, then says what it has read."""

    def connection_made(self, transport):
        self.transport = transport
        self.digest, self.size = hashlib.sha256(), 0
        transport.pause_reading()
        self.look()

    def look(self):
        if os.path.exists(os.path.join(HERE, "gate")):
            self.transport.resume_reading()
        else:
            asyncio.get_running_loop().call_later(0.005, self.look)

    def data_received(self, data):
        self.digest.update(data)
        self.size += len(data)

    def eof_received(self):
        self.transport.write(f"{self.size} {self.digest.hexdigest()}".encode())


class Told(asyncio.Protocol):
    """Writes what happened to it into a file beside this one."""

    def connection_made(self, transport):
        self.transport, self.loop = transport, asyncio.get_running_loop()
        self.events = []

    def connection_lost(self, exc):
        self.events.append(f"lost {exc!r}")
        self.tell()

    def tell(self):
        path = os.path.join(HERE, "told.json")
        with open(path + ".new", "w") as file:
            json.dump(self.events, file)
        os.replace(path + ".new", path)


class Closes(Told):
    """Closes on data, from within the call, or from a timer; `abort` the same."""

    def data_received(self, data):
        when, _, how = data.decode().partition(" ")
        if when == "now":
            self.end(how)
        else:
            self.loop.call_later(0.01, self.end, how)

    def end(self, how):
        self.loop.call_soon(self.events.append, "soon")
        getattr(self.transport, how)()
        self.events.append("returned")


class Switches(Told):
    """Hands its connection over to another protocol."""

    def data_received(self, data):
        other = Told()
        other.connection_made(self.transport)
        other.data_received = lambda data: other.events.append(data.decode())
        other.eof_received = lambda: other.events.append("eof")
        self.transport.set_protocol(other)
        self.transport.write(b"switched")


class SwitchesBuffers(asyncio.BufferedProtocol):
    """One byte at a time, and after the first another protocol gets the rest."""

    def connection_made(self, transport):
        self.transport, self.buffer = transport, bytearray(1)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        other = Echo()
        other.connection_made(self.transport)
        self.transport.set_protocol(other)


class Waits(Told):
    """Stays after the client's end; with "tick", sends twenty pieces."""

    def data_received(self, data):
        if data == b"tick":
            self.loop.create_task(self.tick())

    async def tick(self):
        for _ in range(20):
            await asyncio.sleep(0.05)
            self.transport.write(b".")

    def eof_received(self):
        return True


class Pauses(Told):
    def connection_made(self, transport):
        super().connection_made(transport)
        transport.pause_reading()


class Thinks(Told):
    """Answers "think" after a while, "never" not at all, and anything else at once."""

    def data_received(self, data):
        if data == b"think":
            self.loop.call_later(3, self.transport.write, b"thought")
        elif data != b"never":
            self.transport.write(data)


class NoBuffer(Buffered):
    def get_buffer(self, sizehint):
        return bytearray()


class Ring(Buffered):
    """Has no room while it pauses, as one with a ring buffer."""

    paused = False

    def get_buffer(self, sizehint):
        return bytearray() if self.paused else self.buffer

    def buffer_updated(self, nbytes):
        super().buffer_updated(nbytes)
        self.paused = True
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.go_on)

    def go_on(self):
        self.paused = False
        self.transport.resume_reading()


class WritesEof(Told):
    """Says all it has, ends its side, and goes on listening."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self.events.append(transport.can_write_eof())
        transport.write(b"x" * 5_000_000)
        transport.write_eof()
        try:
            transport.write(b"more")
        except RuntimeError:
            self.events.append("no more")

    def data_received(self, data):
        self.events.append(data.decode())

    def eof_received(self):
        self.events.append("eof")
        return True


class Names(asyncio.Protocol):
    def connection_made(self, transport):
        sock = transport.get_extra_info("socket")
        names = [sock.getsockname(), sock.getpeername(), sock.fileno() > 0]
        transport.write(json.dumps(names).encode())
        transport.close()


class Refused(asyncio.Protocol):
    """Fails like a client that left, but by a fault of its own."""

    def connection_made(self, transport):
        pass

    def data_received(self, data):
        raise {b"reset": ConnectionResetError, b"late": TimeoutError}[data]("failed on purpose")
