"""sse-starlette: streams that end, that fail, and that go on until their client leaves."""

import asyncio

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

seen = []


async def short(request):
    async def events():
        for number in range(5):
            yield ServerSentEvent(data=str(number), id=str(number), event="number")
            await asyncio.sleep(0.001)

    return EventSourceResponse(events())


async def forever(request):
    async def events():
        try:
            while True:
                yield "tick"
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("finally")

    async def closed(message):
        seen.append(message["type"])

    return EventSourceResponse(events(), client_close_handler_callable=closed)


async def pings(request):
    pinged = asyncio.Event()

    async def events():
        yield "first"
        await pinged.wait()
        yield "last"

    def ping():
        pinged.set()
        return ServerSentEvent(comment="ping")

    return EventSourceResponse(events(), ping=0.2, ping_message_factory=ping)


async def what(request):
    return JSONResponse(sorted(seen))


app = Starlette(routes=[
    Route("/short", short), Route("/forever", forever), Route("/pings", pings), Route("/seen", what),
])  # fmt: skip
