import asyncio

from blacksheep import (
    Application,
    Content,
    Response,
    StreamedContent,
    WebSocket,
    WebSocketDisconnectError,
    text,
)

app = Application()
DONE = []
TASKS = set()


@app.router.get("/view")
async def view(name: str):
    return text(f"view of {name}")


@app.router.get("/stream")
async def stream():
    async def pieces():
        for number in range(5):
            yield f"{number},".encode()
            await asyncio.sleep(0.01)

    return Response(200, content=StreamedContent(b"text/plain", pieces))


@app.router.post("/upload")
async def upload(request):
    (file,) = await request.files("file")
    return Response(200, content=Content(b"text/plain", str(len(file.data)).encode()))


async def work():
    await asyncio.sleep(0.05)
    DONE.append(1)


@app.router.get("/background")
async def background():
    TASKS.add(asyncio.create_task(work()))
    return text("answered")


@app.router.get("/done")
async def done():
    return text(str(len(DONE)))


@app.router.get("/fails")
async def fails():
    raise RuntimeError("failed on purpose")


@app.router.ws("/echo")
async def echo(websocket: WebSocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(f"echo of {await websocket.receive_text()}")
    except WebSocketDisconnectError:
        pass
