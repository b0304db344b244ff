"""The application of the works of ASGI, and web.py's for servers that have no WSGI."""

import asyncio
import time

from web import BODIES, HELLO

PIECE = b"data: 0123456789abcdef\n\n"
PIECES = 20


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        return await _echo(receive, send)
    if scope["type"] != "http":
        raise RuntimeError("http only")  # the server takes it that there is no lifespan
    path = scope["path"]
    body = HELLO
    if path in STREAMS:
        return await STREAMS[path](receive, send)
    if path == "/upload":
        body = b"%d" % await _length(receive)
    elif path == "/once":
        await _suspend()
    elif path == "/300ms":
        time.sleep(0.3)  # as an application should not: it holds the loop
    elif path != "/":
        body = BODIES[path]
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _length(receive):
    total = 0
    while True:
        message = await receive()
        total += len(message["body"])
        if not message.get("more_body"):
            return total


async def _suspend():
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(future.set_result, None)
    await future


async def _begin(send):
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _turns(receive, send):
    """A piece, and the loop comes round before the next."""
    await _begin(send)
    for _ in range(PIECES):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


async def _step(receive, send):
    """All pieces at once, so far as send() lets it."""
    await _begin(send)
    for _ in range(PIECES):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _events(receive, send):
    """A stream at rest: one piece, and nothing more for as long as its client stays."""
    await _begin(send)
    await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


STREAMS = {"/turns": _turns, "/step": _step, "/events": _events}


async def _echo(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": message["bytes"]})
