import asyncio

from litestar import Litestar, MediaType, get, post, websocket_listener
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import UploadFile
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import Response, Stream

DONE = []


@get("/view", media_type=MediaType.TEXT)
async def view(name: str) -> str:
    return f"view of {name}"


@get("/stream")
async def stream() -> Stream:
    async def pieces():
        for number in range(5):
            yield f"{number},"
            await asyncio.sleep(0.01)

    return Stream(pieces(), media_type="text/plain")


@post("/upload", media_type=MediaType.TEXT, status_code=200)
async def upload(data: dict[str, UploadFile] = Body(media_type=RequestEncodingType.MULTI_PART)) -> str:  # noqa: B008
    return str(len(await data["file"].read()))


async def work() -> None:
    await asyncio.sleep(0.05)
    DONE.append(1)


@get("/background", media_type=MediaType.TEXT)
async def background() -> Response[str]:
    return Response("answered", background=BackgroundTask(work), media_type=MediaType.TEXT)


@get("/done", media_type=MediaType.TEXT)
async def done() -> str:
    return str(len(DONE))


@get("/fails")
async def fails() -> None:
    raise RuntimeError("failed on purpose")


@websocket_listener("/echo")
async def echo(data: str) -> str:
    return f"echo of {data}"


app = Litestar([view, stream, upload, background, done, fails, echo])
