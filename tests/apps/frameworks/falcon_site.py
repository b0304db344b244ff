import asyncio

import falcon
import falcon.asgi

DONE = []


class View:
    async def on_get(self, req, resp):
        resp.content_type, resp.text = "text/plain", f"view of {req.get_param('name')}"


class Stream:
    async def on_get(self, req, resp):
        async def pieces():
            for number in range(5):
                yield f"{number},".encode()
                await asyncio.sleep(0.01)

        resp.content_type, resp.stream = "text/plain", pieces()


class Upload:
    async def on_post(self, req, resp):
        size = 0
        async for part in await req.get_media():
            size += len(await part.stream.read())
        resp.content_type, resp.text = "text/plain", str(size)


class Background:
    async def on_get(self, req, resp):
        resp.content_type, resp.text = "text/plain", "answered"
        resp.schedule(self.work)

    async def work(self):
        await asyncio.sleep(0.05)
        DONE.append(1)


class Done:
    async def on_get(self, req, resp):
        resp.content_type, resp.text = "text/plain", str(len(DONE))


class Fails:
    async def on_get(self, req, resp):
        raise RuntimeError("failed on purpose")


class Echo:
    async def on_websocket(self, req, ws):
        await ws.accept()
        try:
            while True:
                await ws.send_text(f"echo of {await ws.receive_text()}")
        except falcon.WebSocketDisconnected:
            pass


app = falcon.asgi.App()
for name, resource in {
    "view": View(), "stream": Stream(), "upload": Upload(), "background": Background(), "done": Done(),
    "fails": Fails(), "echo": Echo(),
}.items():  # fmt: skip
    app.add_route(f"/{name}", resource)
