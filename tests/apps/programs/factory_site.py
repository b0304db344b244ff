"""Task factories that a request sets; eager ones where Python has them."""

import asyncio

import tasks_site
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

made = []


class Named(asyncio.Task):
    def __init__(self, *args, **keywords):
        super().__init__(*args, **keywords)
        made.append(self.get_coro().__name__)


def factory(loop, coroutine, **keywords):
    return Named(coroutine, loop=loop, **keywords)


async def task(request):
    """The class of a child's task, and whether it has begun before it is awaited."""
    begun = []

    async def child():
        begun.append(True)
        await asyncio.sleep(0)
        return "done"

    inner = asyncio.create_task(child())
    return PlainTextResponse(f"{type(inner).__name__} {bool(begun)} {await inner}")


async def own(request):
    """The class of the request's own task."""
    return PlainTextResponse(type(asyncio.current_task()).__name__)


async def choose(request):
    name = request.path_params["name"]
    chosen = {"none": None, "named": factory}.get(name) or getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(None if name == "none" else chosen)
    return PlainTextResponse(f"{name}")


app = Starlette(routes=[
    Route("/task", task), Route("/own", own), Route("/choose/{name}", choose),
    Mount("/tasks", tasks_site.app),
])  # fmt: skip
