"""What asyncio gives a coroutine of its task: names, time-outs, groups, cancellation, contexts."""

import asyncio
import contextvars
import gc
import weakref

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

mine = contextvars.ContextVar("mine", default="unset")
by_task = weakref.WeakKeyDictionary()
finalized = []


async def facts(request):
    task = asyncio.current_task()
    found = [
        isinstance(task, asyncio.Task), task in asyncio.all_tasks(), task.done(), task.cancelling(),
        task.get_loop() is asyncio.get_running_loop(), asyncio.iscoroutine(task.get_coro()),
        asyncio.isfuture(task), bool(task.get_name()), bool(task.get_stack()), bool(repr(task)),
    ]  # fmt: skip
    task.set_name("of its own")
    found += [task.get_name(), hash(task) == hash(asyncio.current_task())]
    return PlainTextResponse(f"{found}")


async def state(request):
    """What a task is the key of is gone with its request."""
    task, before = asyncio.current_task(), dict(by_task)
    found = by_task.get(task)
    by_task[task] = request.path_params["value"]
    weakref.finalize(task, finalized.append, request.path_params["value"])
    if "waits" in request.path_params["value"]:
        await asyncio.sleep(0.001)
    return PlainTextResponse(f"{found} {by_task[task]} {task in before}")


async def finalizers(request):
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)
    return PlainTextResponse(f"{sorted(finalized)} {len(by_task)}")


async def time_outs(request):
    seen = []
    try:
        async with asyncio.timeout(0.005):
            await asyncio.sleep(10)
    except TimeoutError:
        seen.append("timeout")
    async with asyncio.timeout(10) as scope:
        scope.reschedule(None)
    try:
        async with asyncio.timeout(10):
            async with asyncio.timeout(0):
                await asyncio.sleep(10)
    except TimeoutError:
        seen.append("inner")
    try:
        await asyncio.wait_for(asyncio.sleep(10), 0.005)
    except TimeoutError:
        seen.append("wait_for")
    seen.append(await asyncio.wait_for(asyncio.shield(asyncio.sleep(0.001, "shielded")), 5))
    seen.append(asyncio.current_task().cancelling())
    return PlainTextResponse(f"{seen}")


async def groups(request):
    seen = []

    async def fails():
        await asyncio.sleep(0.001)
        raise ValueError("one")

    async def waits():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(waits())
    except* ValueError as caught:
        seen += [str(each) for each in caught.exceptions]
    seen.append(asyncio.current_task().cancelling())
    return PlainTextResponse(f"{seen}")


async def cancels(request):
    """A cancellation that is taken back, by itself and by a child."""
    task, seen = asyncio.current_task(), []
    task.cancel("by itself")
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError as error:
        seen += [error.args, task.uncancel()]

    async def child():
        task.cancel("by a child")

    other = asyncio.create_task(child())
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        seen += [error.args, task.uncancel()]
    await other
    asyncio.get_running_loop().call_soon(task.cancel)
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        seen += [task.uncancel()]
    return PlainTextResponse(f"{seen}")


async def awaited(request):
    """The request's task is awaited, gathered and watched by others."""
    task, seen = asyncio.current_task(), []
    done = asyncio.get_running_loop().create_future()
    task.add_done_callback(lambda each: finished.append(each.cancelled()))

    async def child():
        await asyncio.wait([task], timeout=0.001)
        try:
            await asyncio.wait_for(asyncio.shield(task), 0.001)
        except TimeoutError:
            seen.append("not done")
        done.set_result(None)

    inner = asyncio.create_task(child())
    await done
    await inner
    try:
        task.result()
    except asyncio.InvalidStateError:
        seen.append("no result")
    return PlainTextResponse(f"{seen}")


finished = []


async def callbacks(request):
    while not finished:  # it is called a turn behind the end of its task
        await asyncio.sleep(0)
    return PlainTextResponse(f"{finished}")


async def contexts(request):
    """A child has a copy; a thread and a callback have the same values; the next request has none."""
    before = mine.get()
    mine.set(request.path_params["value"])

    async def child():
        seen = mine.get()
        mine.set("child")
        return seen

    inner = await asyncio.create_task(child())
    thread = await asyncio.to_thread(mine.get)
    called = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: called.set_result(mine.get()))
    return PlainTextResponse(f"{before} {inner} {thread} {await called} {mine.get()}")


async def wrong(request):
    """What no task may await."""
    seen = []

    class Yields:
        def __init__(self, what):
            self.what = what

        def __await__(self):
            yield self.what

    other = asyncio.new_event_loop()
    for what in (1, "text", [], asyncio.current_task(), other.create_future()):
        try:
            await Yields(what)
        except RuntimeError as error:
            seen.append(str(error).split("<")[0].split(" got")[-1][:25])
    other.close()
    await Yields(None)
    return PlainTextResponse(f"{seen}")


async def generators(request):
    """One that is left half-way is closed by the loop."""
    closed = asyncio.Event()

    async def numbers():
        try:
            for number in range(10):
                yield number
        finally:
            closed.set()

    async for number in numbers():
        if number == 3:
            break
    gc.collect()
    await asyncio.wait_for(closed.wait(), 5)
    return PlainTextResponse(f"{number} {closed.is_set()}")


async def streams(request):
    """Sockets, subprocesses and threads of asyncio's own."""
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    output, _ = await process.communicate(b"through cat")
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        data = await reader.read()
        writer.close()
    return PlainTextResponse(f"{output} {process.returncode} {data}")


app = Starlette(routes=[
    Route("/facts", facts), Route("/state/{value}", state), Route("/finalizers", finalizers),
    Route("/time-outs", time_outs), Route("/groups", groups), Route("/cancels", cancels),
    Route("/awaited", awaited), Route("/callbacks", callbacks), Route("/contexts/{value}", contexts),
    Route("/wrong", wrong), Route("/generators", generators), Route("/streams", streams),
])  # fmt: skip
