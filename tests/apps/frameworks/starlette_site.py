import asyncio

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

DONE = []


async def view(request):
    return PlainTextResponse(f"view of {request.query_params['name']}")


async def stream(request):
    async def pieces():
        for number in range(5):
            yield f"{number},"
            await asyncio.sleep(0.01)

    return StreamingResponse(pieces(), media_type="text/plain")


async def upload(request):
    form = await request.form()
    return PlainTextResponse(f"{len(await form['file'].read())}")


async def background(request):
    return PlainTextResponse("answered", background=BackgroundTask(work))


async def work():
    await asyncio.sleep(0.05)
    DONE.append(1)


async def done(request):
    return PlainTextResponse(str(len(DONE)))


async def file(request):
    return FileResponse(__file__)


async def fails(request):
    raise RuntimeError("failed on purpose")


async def echo(socket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"echo of {text}")


class Tagging(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        response = await call_next(request)
        response.headers["x-tag"] = "tagged"
        return response


app = Starlette(
    routes=[
        Route("/view", view), Route("/stream", stream), Route("/upload", upload, methods=["POST"]),
        Route("/background", background), Route("/done", done), Route("/file", file), Route("/fails", fails),
        WebSocketRoute("/echo", echo),
    ],
    middleware=[Middleware(Tagging), Middleware(GZipMiddleware)],
)  # fmt: skip
