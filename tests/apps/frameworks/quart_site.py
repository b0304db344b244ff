import asyncio

from quart import Quart, request, websocket

app = Quart(__name__)
DONE = []


@app.get("/view")
async def view():
    return f"view of {request.args['name']}"


@app.get("/stream")
async def stream():
    async def pieces():
        for number in range(5):
            yield f"{number},"
            await asyncio.sleep(0.01)

    return pieces(), 200, {"content-type": "text/plain"}


@app.post("/upload")
async def upload():
    return str(len((await request.files)["file"].read()))


async def work():
    await asyncio.sleep(0.05)
    DONE.append(1)


@app.get("/background")
async def background():
    app.add_background_task(work)
    return "answered"


@app.get("/done")
async def done():
    return str(len(DONE))


@app.get("/fails")
async def fails():
    raise RuntimeError("failed on purpose")


@app.websocket("/echo")
async def echo():
    while True:
        await websocket.send(f"echo of {await websocket.receive()}")
