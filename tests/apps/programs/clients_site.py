"""HTTP clients inside an application, which ask the application itself."""

import asyncio
import contextlib

import aiohttp
import httpx
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute


def address(request, path, scheme="http"):
    host, port = request.scope["server"]
    return f"{scheme}://{host}:{port}{path}"


async def by_httpx(request):
    client = request.state.httpx
    answers = await asyncio.gather(*(client.get(address(request, f"/page/{n}")) for n in range(10)))
    posted = await client.post(address(request, "/length"), content=pieces())
    async with client.stream("GET", address(request, "/stream")) as answer:
        streamed = [piece async for piece in answer.aiter_text()]
    try:
        await client.get(address(request, "/slow"), timeout=0.05)
    except httpx.ReadTimeout:
        late = "late"
    return PlainTextResponse(f"{[a.text for a in answers]} {posted.text} {''.join(streamed)} {late}")


async def by_aiohttp(request):
    client = request.state.aiohttp

    async def get(number):
        async with client.get(address(request, f"/page/{number}")) as answer:
            return await answer.text()

    answers = await asyncio.gather(*map(get, range(10)))
    async with client.post(address(request, "/length"), data=pieces()) as answer:
        posted = await answer.text()
    async with client.get(address(request, "/stream")) as answer:
        streamed = await answer.text()
    try:
        async with client.get(address(request, "/slow"), timeout=aiohttp.ClientTimeout(total=0.05)):
            pass
    except TimeoutError:
        late = "late"
    return PlainTextResponse(f"{answers} {posted} {streamed} {late}")


async def by_websocket(request):
    async with request.state.aiohttp.ws_connect(address(request, "/echo", "ws")) as socket:
        await socket.send_str("hello")
        text = await socket.receive_str()
        await socket.send_bytes(bytes(100_000))
        data = await socket.receive_bytes()
    return PlainTextResponse(f"{text} {len(data)} {socket.close_code}")


async def pieces():
    for _ in range(5):
        yield b"x" * 1000
        await asyncio.sleep(0)


async def page(request):
    await asyncio.sleep(0.001)
    return PlainTextResponse(request.path_params["number"])


async def length(request):
    return PlainTextResponse(f"{len(await request.body())}")


async def stream(request):
    async def numbers():
        for number in range(5):
            yield f"{number},"
            await asyncio.sleep(0.001)

    return StreamingResponse(numbers())


async def slow(request):
    await asyncio.sleep(0.5)
    return PlainTextResponse("slow")


async def echo(socket):
    await socket.accept()
    while (message := await socket.receive())["type"] == "websocket.receive":
        await socket.send({**message, "type": "websocket.send"})


@contextlib.asynccontextmanager
async def lifespan(app):
    async with httpx.AsyncClient() as one, aiohttp.ClientSession() as other:
        yield {"httpx": one, "aiohttp": other}


app = Starlette(
    routes=[
        Route("/httpx", by_httpx), Route("/aiohttp", by_aiohttp), Route("/websocket", by_websocket),
        Route("/page/{number}", page), Route("/length", length, methods=["POST"]), Route("/stream", stream),
        Route("/slow", slow), WebSocketRoute("/echo", echo),
    ],
    lifespan=lifespan,
)  # fmt: skip
