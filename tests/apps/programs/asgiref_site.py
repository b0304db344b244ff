"""asgiref both ways: threads below coroutines below threads, with what belongs to a request in each."""

import asyncio
import contextvars
import threading

from asgiref.local import Local
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from asgiref.wsgi import WsgiToAsgi
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

mine = contextvars.ContextVar("mine", default="unset")
local = Local()


async def down_and_up(request):
    """A coroutine, a thread, a coroutine, a thread: each sees what those above have set."""
    loop = asyncio.get_running_loop()
    seen = []

    def outer():
        seen.append(mine.get())
        mine.set("outer")
        async_to_sync(inner)()
        seen.append(mine.get())

    async def inner():
        seen.append(asyncio.get_running_loop() is loop)
        seen.append(mine.get())
        await sync_to_async(innermost)()
        mine.set("inner")

    def innermost():
        seen.append(mine.get())
        seen.append(threading.current_thread() is threads[0])

    threads = []
    mine.set("request")
    threads.append(await sync_to_async(threading.current_thread)())
    await sync_to_async(outer)()
    seen.append(mine.get())
    return PlainTextResponse(f"{seen}")


async def sensitive(request):
    """All in one thread; with a context of its own in another; and else in several."""
    one = {await sync_to_async(threading.get_ident)() for _ in range(5)}
    async with ThreadSensitiveContext():
        other = {await sync_to_async(threading.get_ident)() for _ in range(5)}
    barrier = threading.Barrier(3)

    def together():
        barrier.wait(5)
        return threading.get_ident()

    call = sync_to_async(together, thread_sensitive=False)
    several = set(await asyncio.gather(*(call() for _ in range(3))))
    found = [len(one), len(other), one.isdisjoint(other), len(several), threading.get_ident() not in one]
    return PlainTextResponse(f"{found}")


async def locals_(request):
    before = getattr(local, "value", "unset")
    local.value = request.path_params["value"]
    below = await sync_to_async(lambda: local.value)()
    child = await asyncio.create_task(sync_to_async(lambda: local.value)())
    return PlainTextResponse(f"{before} {below} {child}")


async def cancelled(request):
    """A call in a thread is not interrupted; who waits for it is."""
    begun, released, done = threading.Event(), threading.Event(), threading.Event()

    def call():
        begun.set()
        released.wait(5)
        done.set()

    task = asyncio.create_task(sync_to_async(call, thread_sensitive=False)())
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    released.set()
    try:
        await task
    except asyncio.CancelledError:
        ended = "cancelled"
    return PlainTextResponse(f"{ended} {await asyncio.to_thread(done.wait, 5)}")


async def fails(request):
    await sync_to_async(async_to_sync(raises))()


async def raises():
    raise RuntimeError("failed on purpose")


def wsgi(environ, start):
    body = environ["wsgi.input"].read()
    start("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode(), b" ", str(len(body)).encode(), b" ", mine.get().encode()]


app = Starlette(routes=[
    Route("/down-and-up", down_and_up), Route("/sensitive", sensitive), Route("/locals/{value}", locals_),
    Route("/cancelled", cancelled), Route("/fails", fails), Mount("/wsgi", WsgiToAsgi(wsgi)),
])  # fmt: skip
