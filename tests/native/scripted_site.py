"""An ASGI application that does what a request's field says, step by step, and notes what comes of each."""

import asyncio
import json
import re

NOTES = []
MADE = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"  # names of requests
FUNCTION = re.compile(r"<built-in method lift_request_timeout of .*?>|<bound method \w*TimerHandle.*?>+")
TURNS = 10  # of the loop, within which whoever waits is told of the end
RUNNING = []  # what has not ended yet, maybe after its answer

HEADERS = [
    [],
    [(b"content-type", b"text/event-stream; charset=utf-8")],
    [(b"Content-Length", b"4")],
    [[b"X-A", b" a "]],
    ((b"Date", b"today"), (b"Server", b"mine"), (b"X-Request-ID", b"7")),
    [(b"connection", b"close")],
    [(b"connection", b"keep-alive")],
    [(b"transfer-encoding", b"chunked"), (b"x-b", b"b")],
    [("x-text", "text")],
    [(b"x-latin", b"\xe9")],
    [(b"x bad", b"")],
    [(b"x-bad", b"a\r\nb: c")],
    [(b"content-length", b"four")],
    [(b"content-length", b"4"), (b"content-length", b"4")],
    [(b"content-encoding", b"gzip"), (b"content-type", b"text/plain")],
    [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")],
    [(b"x-one",)],
    None,
    {b"x-dict": b"1"},
    [(bytearray(b"x-array"), b"1")],
    [(b"", b"")],
    [(b"x-long", b"x" * 5000)],
]
Bytes = type("Bytes", (bytes,), {})
BODIES = [b"body", bytearray(b"body"), memoryview(b"body"), "body", None, Bytes(b"body")]


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError
    if scope["path"].endswith("/notes"):
        while RUNNING:
            await asyncio.sleep(0.001)
        body = json.dumps([*NOTES, shown(scope)]).encode()
        NOTES.clear()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    fields = dict(scope["headers"])
    NOTES.append(shown(scope))
    if b"x-scribbles" in fields:
        scope["state"]["mine"] = scope["asgi"]["mine"] = 1
        scope["extensions"][fields[b"x-scribbles"].decode()] = {}
        scope["extensions"]["forkd"]["peer"] = scope["extensions"]["http.response.pathsend"]["mine"] = "mine"
        scope["headers"].clear()
    RUNNING.append(scope)
    left, listening = [], []
    try:
        for step in json.loads(fields[b"x-script"]):
            if step == ["listens"]:  # beside the rest, as frameworks do while they stream
                listening.append(asyncio.create_task(listens(receive, left)))
            else:
                await take(step, receive, send, left)
    finally:
        tasks = [each for each in left if isinstance(each, asyncio.Task)]
        if tasks:
            await asyncio.wait(tasks)
        for _ in range(TURNS if listening else 0):
            await asyncio.sleep(0)
        for task in listening:
            task.cancel()
        if listening:
            await asyncio.wait(listening)
        RUNNING.remove(scope)


def shown(scope):
    """The scope as text, less what differs by server."""
    rest = {name: value for name, value in scope.items() if name not in ("client", "server")}
    client, (server, port) = scope["client"], scope["server"]
    own = client is not None and client[0] == "127.0.0.1"
    text = repr([sorted(rest.items()), None if own else client, server, port if port < 1000 else None])
    text = re.sub(r"(?<='peer': \('127\.0\.0\.1', )\d+", "", text)
    return FUNCTION.sub("a function", re.sub(MADE, "made", text))


async def received(receive, left):
    """The next message; of the body all of it, in however many pieces it has come."""
    if receive in left:  # it is the client's leaving that is waited for
        return await asyncio.wait_for(receive(), 0.01)
    left.append(receive)
    message = await receive()
    while message.get("more_body"):
        more = await receive()
        message = {**more, "body": message["body"] + more["body"]}
    return message


async def listens(receive, left):
    try:
        left.append(receive)
        while (message := await receive())["type"] != "http.disconnect":
            NOTES.append(f"before the end: {message['type']}")
        NOTES.append("the end")
    except asyncio.CancelledError:
        NOTES.append("no end")
        raise


async def take(step, receive, send, left):
    kind, *details = step
    try:
        if kind == "start":
            status, headers = details
            message = {"type": "http.response.start", "status": status}
            if HEADERS[headers] is not None:
                message["headers"] = HEADERS[headers]
            await send(message)
        elif kind == "body":
            size, more = details
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": more})
        elif kind == "odd":
            await send({"type": "http.response.body", "body": BODIES[details[0]]})
        elif kind == "empty":
            await send({"type": "http.response.body"})
        elif kind == "unknown":
            await send(details[0])
        elif kind == "receive":
            NOTES.append(repr(await received(receive, left)))
        elif kind == "turn":
            await asyncio.sleep(0)
        elif kind == "wait":
            await asyncio.sleep(0.002)
        elif kind == "not-awaited":
            receive(), send({"type": "http.response.body", "body": b"never"}).close()
        elif kind == "twice":
            sending = send({"type": "http.response.nothing"})
            for _ in range(2):
                try:
                    await sending
                except RuntimeError as error:
                    NOTES.append(str(error))
        elif kind == "task":
            await asyncio.create_task(take(details[0], receive, send, left))
        elif kind == "beside":
            left.append(asyncio.create_task(take(details[0], receive, send, left)))
        elif kind == "cancelled":
            task = asyncio.create_task(send({"type": "http.response.body", "body": b"never"}))
            task.cancel()
            await asyncio.wait([task])
        elif kind == "raise":
            raise {"error": ZeroDivisionError, "exit": SystemExit, "os": OSError}[details[0]]("on purpose")
    except (ZeroDivisionError, SystemExit):
        raise
    except Exception as error:
        if kind == "raise":
            raise
        NOTES.append(f"{kind}: {type(error).__name__}: {error}")
