import asyncio
import time
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, StreamingResponse

DONE = []


@asynccontextmanager
async def lifespan(app):
    yield {"greeting": "view of"}


app = FastAPI(lifespan=lifespan)


@app.get("/view", response_class=PlainTextResponse)
def view(name: str):  # in a thread
    time.sleep(0.001)
    return f"view of {name}"


@app.get("/stream")
async def stream():
    def pieces():  # in a thread, each
        for number in range(5):
            yield f"{number},"
            time.sleep(0.01)

    return StreamingResponse(pieces(), media_type="text/plain")


@app.post("/upload", response_class=PlainTextResponse)
async def upload(file: UploadFile):
    return str(len(await file.read()))


async def work():
    await asyncio.sleep(0.05)
    DONE.append(1)


@app.get("/background", response_class=PlainTextResponse)
async def background(tasks: BackgroundTasks):
    tasks.add_task(work)
    return "answered"


@app.get("/done", response_class=PlainTextResponse)
async def done():
    return str(len(DONE))


@app.get("/fails")
async def fails():
    raise RuntimeError("failed on purpose")


@app.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    try:
        while True:
            await socket.send_text(f"echo of {await socket.receive_text()}")
    except WebSocketDisconnect:
        pass
