"""The same application as web.py for ASGI servers."""

from web import BODIES, HELLO


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")  # the server takes it that there is no lifespan
    path = scope["path"]
    body = HELLO
    if path == "/upload":
        body = b"%d" % await _length(receive)
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
