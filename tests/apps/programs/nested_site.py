"""nest_asyncio: the loop is run again from inside a request."""

import asyncio
import contextlib

import nest_asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def inner(value):
    await asyncio.sleep(0.01)
    return value


async def nested(request):
    loop = asyncio.get_running_loop()
    first = loop.run_until_complete(inner("one"))
    second = asyncio.run(inner("two"))
    await asyncio.sleep(0)
    deep = loop.run_until_complete(twice())
    return PlainTextResponse(f"{first} {second} {deep} {asyncio.current_task() in asyncio.all_tasks()}")


async def twice():
    return asyncio.get_running_loop().run_until_complete(inner("three"))


async def fails(request):
    async def raises():
        raise ValueError("inner")

    try:
        asyncio.get_running_loop().run_until_complete(raises())
    except ValueError as error:
        return PlainTextResponse(f"{error}")


async def plain(request):
    return PlainTextResponse("plain")


@contextlib.asynccontextmanager
async def lifespan(app):
    nest_asyncio.apply()
    yield


app = Starlette(
    routes=[Route("/nested", nested), Route("/fails", fails), Route("/plain", plain)], lifespan=lifespan
)
