"""An ASGI application, and a protocol, that do with their loop and their signals what applications may do."""

import asyncio
import os
import signal
import socket
import sys
import time

TERM, USR1, STACKS = signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN + 3
KEPT = []
WOKEN = []


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        if os.environ.get("WAKE_UP") == "lifespan":
            wake_up()
        KEPT.append(await asyncio.start_server(shout, "127.0.0.1", 0))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        KEPT[0].close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    _, name, *arguments = scope["path"].split("/")
    said = ROUTES[name](*arguments)
    body = str(await said if asyncio.iscoroutine(said) else said).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def say(*words):
    print("heard by the application:", *words, flush=True)


def wake_up():
    """Have the numbers of signals written to a socket, also of one that is none of forkd's."""
    WOKEN.extend(socket.socketpair())
    for end in WOKEN:
        end.setblocking(False)
    signal.set_wakeup_fd(WOKEN[1].fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGALRM, lambda *_: None)


def woken():
    """The signals that were written there, of which this process sends itself one."""
    os.kill(os.getpid(), signal.SIGALRM)
    try:
        return list(WOKEN[0].recv(99))
    except BlockingIOError:
        return []


def hear(way):
    loop = asyncio.get_running_loop()
    for number in (TERM, USR1, STACKS):
        if way == "signal":
            signal.signal(number, lambda number, _: say(int(number)))
            assert signal.getsignal(number) is not signal.SIG_DFL
        elif way in ("add", "removed", "wakeup"):
            loop.add_signal_handler(number, say, int(number))
    if way == "removed":
        for number in (TERM, USR1):
            assert loop.remove_signal_handler(number)
    elif way == "wakeup":
        KEPT.append(socket.socketpair())
        KEPT[-1][1].setblocking(False)
        signal.set_wakeup_fd(KEPT[-1][1].fileno(), warn_on_full_buffer=False)
    elif way == "no-wakeup":
        signal.set_wakeup_fd(-1)
    elif way in ("default", "ignored"):
        how = signal.SIG_DFL if way == "default" else signal.SIG_IGN
        for number in (TERM, USR1):
            signal.signal(number, how)
            assert signal.getsignal(number) in (how, signal.getsignal(signal.SIGHUP))
    return os.getpid()


def block(way):
    """Hold the loop by something that is not a step of this request."""
    loop = asyncio.get_running_loop()
    if way == "soon":
        loop.call_soon(sleep)
    elif way == "later":
        loop.call_later(0.01, sleep)
    elif way == "task":
        KEPT.append(loop.create_task(in_task()))
    elif way == "reader":
        KEPT.extend(socket.socketpair())
        loop.add_reader(KEPT[-1].fileno(), sleep)
        loop.call_later(0.01, KEPT[-2].send, b"x")
    return "soon"


def sleep():
    time.sleep(60)


async def in_task():
    await asyncio.sleep(0.01)
    sleep()


# ---- what it has of its own in the loop ------------------------------------------------------


async def shout(reader, writer):
    while data := await reader.read(65536):
        writer.write(data.upper())
        await writer.drain()
    writer.close()


async def dial(size):
    """To its own server, more than sockets take."""
    reader, writer = await asyncio.open_connection(*KEPT[0].sockets[0].getsockname())
    writer.write(b"a" * int(size))
    writer.write_eof()
    found = await reader.read()
    writer.close()
    assert found == b"A" * int(size)
    return len(found)


async def thread():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    await asyncio.to_thread(time.sleep, 0.05)
    loop.run_in_executor(None, loop.call_soon_threadsafe, done.set_result, "woken")
    return await done


async def program():
    mask = "import signal; print(signal.pthread_sigmask(0, ()))"
    made = await asyncio.create_subprocess_exec(sys.executable, "-c", mask, stdout=asyncio.subprocess.PIPE)
    said, _ = await made.communicate()
    return said.decode().strip()


async def timers():
    loop, found = asyncio.get_running_loop(), []
    done = loop.create_future()
    for name, seconds in (("c", 0.06), ("a", 0.02), ("b", 0.04)):
        loop.call_later(seconds, found.append, name)
    loop.call_later(0.08, done.set_result, None)
    await done
    return "".join(found)


class Relay(asyncio.Protocol):
    """What its client sends is shouted by a server of its own, to which it writes in the middle of a turn."""

    def connection_made(self, transport):
        self.transport, self.held, self.other = transport, [], None
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self.begin(loop))

    async def begin(self, loop):
        if not KEPT:
            KEPT.append(await asyncio.start_server(shout, "127.0.0.1", 0))
        where = KEPT[0].sockets[0].getsockname()
        self.other, _ = await loop.create_connection(lambda: Back(self.transport), *where)
        for data in self.held:
            self.other.write(data)

    def data_received(self, data):
        if self.other is None:
            self.held.append(data)
        else:
            self.other.write(data)

    def connection_lost(self, error):
        if self.other is not None:
            self.other.close()


class Back(asyncio.Protocol):
    def __init__(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


# ---- the loop, entered again -----------------------------------------------------------------


def enter(way):
    """Run the loop in the middle of a step."""
    import nest_asyncio

    nest_asyncio.apply()
    loop = asyncio.get_running_loop()
    if way == "step":
        nested(loop)
        return "through"
    done = loop.create_future()
    loop.call_soon(lambda: (nested(loop), done.set_result("through")))
    return wait_for(done)


async def wait_for(done):
    return await done


def nested(loop):
    print("now inside", flush=True)
    loop.run_until_complete(asyncio.sleep(0.5))
    print("outside", flush=True)


def note():
    print("served", flush=True)
    return "noted"


class Enters(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"enter":
            import nest_asyncio

            nest_asyncio.apply()
            nested(asyncio.get_running_loop())
        else:
            note()
        self.transport.write(data)


ROUTES = {
    "hear": hear, "block": block, "dial": dial, "thread": thread, "program": program, "timers": timers,
    "enter": enter, "note": note, "pid": os.getpid, "woken": woken,
    "loop": lambda: type(asyncio.get_running_loop()).__module__,
}  # fmt: skip

if os.environ.get("WAKE_UP") == "import":
    wake_up()
