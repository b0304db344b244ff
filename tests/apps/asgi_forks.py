"""An ASGI application that forks, wherever it runs; each way answers with what became of the child."""

import asyncio
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time

signal.signal(signal.SIGUSR2, lambda *_: os._exit(42))
WORKER = []
ENDS = []


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork(how="return", make=os.fork):
    """In the parent, how the child ends; None in the child, which goes on."""
    pid = make()
    if pid:
        return ended(pid)
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise RuntimeError("of the child")
    return None


def follow():
    """Is called next in the loop, of the worker alone."""
    if os.getpid() != WORKER[0]:
        os._exit(77)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        WORKER.append(os.getpid())
        await receive()
        if (end := fork()) is None:
            return
        ENDS.append(end)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    _, way, *arguments = scope["path"].split("/")
    loop = asyncio.get_running_loop()
    loop.call_soon(follow)
    found = WAYS[way](*arguments)
    if asyncio.iscoroutine(found):
        found = await found
    if found is None:
        return  # in the child
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(found).encode()})


async def later(how):
    """In a step behind the first one."""
    await asyncio.sleep(0.01)
    asyncio.get_running_loop().call_soon(follow)
    return fork(how)


async def task(how):
    return await asyncio.create_task(later(how))


async def callback(way, how):
    loop, found = asyncio.get_running_loop(), []
    if way == "soon":
        loop.call_soon(lambda: found.append(fork(how)))
        loop.call_soon(follow)
    else:
        loop.call_later(0.01, lambda: found.append(fork(how)))
        loop.call_later(0.01, follow)
    await asyncio.sleep(0.1)
    return found[0]


async def waits():
    """The child waits, which it cannot: it leaves."""
    pid = os.fork()
    if pid:
        return ended(pid)
    await asyncio.sleep(0)
    os._exit(78)




def signalled(number):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, int(number))
    return ended(pid)


def terminate():
    made = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    made.start()
    made.terminate()
    made.join()
    return made.exitcode


def pool():
    with multiprocessing.get_context("fork").Pool(2) as workers:
        return workers.map(abs, [-1, -2])


def loop_of_its_own():
    """A child that runs another loop, and ends by itself."""
    pid = os.fork()
    if pid:
        return ended(pid)
    asyncio._set_running_loop(None)
    asyncio.run(asyncio.sleep(0.01))
    os._exit(5)


def linger():
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    return pid


WAYS = {
    "step": fork, "later": later, "task": task, "callback": callback, "waits": waits,
    "signalled": signalled, "terminate": terminate, "pool": pool, "loop": loop_of_its_own, "linger": linger,
    "c": lambda: fork(make=ctypes.PyDLL(None).fork), "pid": os.getpid, "startup": lambda: ENDS,
}  # fmt: skip
