"""An ASGI application of many routes, written plainly: what it does is the path."""

import asyncio
import contextvars
import json
import os
import random

setting = contextvars.ContextVar("setting", default="unset")
mine = contextvars.ContextVar("mine", default="")
released: asyncio.Event
LOG = []


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    await ROUTES[scope["path"].removeprefix(scope["root_path"]).split("/")[1]](scope, receive, send)


async def lifespan(scope, receive, send):
    global released
    assert (await receive())["type"] == "lifespan.startup"
    setting.set("of the lifespan")
    scope["state"]["made"] = ["at startup"]
    released = asyncio.Event()
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    print("the lifespan is over", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send, body, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    data = body if isinstance(body, bytes) else str(body).encode()
    await send({"type": "http.response.body", "body": data})


async def read(receive):
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message["body"]
        if not message["more_body"]:
            return body


async def hello(scope, receive, send):
    await answer(send, b"hello", headers=[(b"content-type", b"text/plain")])


async def facts(scope, receive, send):
    shown = {name: value for name, value in scope.items() if name not in ("headers", "state")}
    shown["headers"] = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
    shown["state"] = scope["state"]["made"]
    shown["setting"] = setting.get()
    await answer(send, json.dumps(shown, default=lambda value: value.decode("latin-1")))


async def echo(scope, receive, send):
    await answer(send, await read(receive))


async def size(scope, receive, send):
    total, most = 0, 0
    while True:
        message = await receive()
        total, most = total + len(message["body"]), max(most, len(message["body"]))
        if not message["more_body"]:
            break
        if "slowly" in scope["path"]:
            await asyncio.sleep(0.001)
    await answer(send, f"{total} {most}")


async def unread(scope, receive, send):
    await answer(send, b"not read", status=401)


async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(5):
        await send({"type": "http.response.body", "body": b"%d," % number, "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"end"})


async def big(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"41943040")]})
    for _ in range(640):
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        LOG.append(1)
    await send({"type": "http.response.body"})


async def sent(scope, receive, send):
    """How many pieces of `big` were sent."""
    await answer(send, len(LOG))


async def whole(scope, receive, send):
    await answer(send, b"x" * 10_000_000)


async def fails(scope, receive, send):
    raise RuntimeError("failed on purpose")


async def fails_later(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("failed on purpose")


async def breaks_off(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise RuntimeError("failed on purpose")


async def leaves(scope, receive, send):
    raise SystemExit(3)


async def nothing(scope, receive, send):
    pass


async def stops(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})


async def wrong(scope, receive, send):
    """Each message that is out of place is an exception; then the answer."""
    path, seen = scope["path"], []
    start = {"type": "http.response.start", "status": 200, "headers": []}
    body = {"type": "http.response.body", "body": b""}
    tries = {
        "body-first": [body],
        "start-twice": [start, start],
        "newline": [{**start, "headers": [(b"a", b"b\r\nc: d")]}],
        "text": [{**start, "headers": [("a", "b")]}],
        "status": [{**start, "status": "200"}],
        "informational": [{**start, "status": 103}],
        "too-long": [{**start, "headers": [(b"content-length", b"1")]}, {**body, "body": b"xx"}],
        "too-short": [{**start, "headers": [(b"content-length", b"3")]}, {**body, "body": b"xx"}],
        "unknown": [start, {"type": "http.response.nothing"}],
        "no-bytes": [start, {**body, "body": "text"}],
    }
    for message in tries[path.split("/")[2]]:
        try:
            await send(message)
        except (RuntimeError, ValueError, TypeError) as error:
            seen.append(type(error).__name__)
            if path.endswith("/raise"):
                raise
    LOG[:] = seen
    if not seen:
        raise AssertionError("nothing was raised")
    raise RuntimeError("failed on purpose")


async def after(scope, receive, send):
    await answer(send, b"all")
    try:
        await send({"type": "http.response.body", "body": b"more"})
    except RuntimeError as error:
        print(f"after: {error}", flush=True)
    print(f"after: {(await receive())['type']}", flush=True)


async def background(scope, receive, send):
    await answer(send, b"answered")
    await asyncio.sleep(float(scope["path"].split("/")[2]))
    print("the background is done", flush=True)


async def disconnect(scope, receive, send):
    await read(receive)
    print("waits for the client", flush=True)
    print(f"seen: {(await receive())['type']}", flush=True)
    await answer(send, b"to whoever is left")


async def forever(scope, receive, send):
    """Sends until it is told that its client has left, as Starlette's streams do."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})

    async def pieces():
        while True:
            await send({"type": "http.response.body", "body": b"piece,", "more_body": True})
            await asyncio.sleep(0.01)

    task = asyncio.create_task(pieces())
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()
    print("forever is over", flush=True)


async def events(scope, receive, send):
    await read(receive)
    kind = b"text/event-stream" if scope["method"] == "GET" else b"text/plain"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": b"data: first\n\n", "more_body": True})
    print(f"events: {(await receive())['type']}", flush=True)


async def silent(scope, receive, send):
    """A stream of events of which none has happened."""
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]})
    print(f"silent: {(await receive())['type']}", flush=True)
    print(f"silent: {(await receive())['type']}", flush=True)


async def slow(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(int(scope["path"].split("/")[2])):
        await send({"type": "http.response.body", "body": b"tick,", "more_body": True})
        await asyncio.sleep(1)
    await send({"type": "http.response.body", "body": b"end"})


async def sleeps(scope, receive, send):
    await asyncio.sleep(float(scope["path"].split("/")[2]))
    await answer(send, b"slept")


async def cancelled_receive(scope, receive, send):
    """A wait that is cancelled loses nothing, whenever it is."""
    body = b""
    while True:
        try:
            message = await asyncio.wait_for(receive(), 0.0005)
        except TimeoutError:
            continue
        body += message["body"]
        if not message["more_body"]:
            break
    receive(), send({})  # not awaited: nothing happens
    await answer(send, body)


async def variables(scope, receive, send):
    before = mine.get()
    mine.set(scope["path"])
    await asyncio.sleep(0)
    await answer(send, f"{before}|{mine.get()}")


async def tasks(scope, receive, send):
    me = asyncio.current_task()
    found = [me in asyncio.all_tasks(), me.get_name() != "", not me.done()]
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        inner = group.create_task(asyncio.sleep(0, "inner"))
        thread = group.create_task(asyncio.to_thread(lambda: "thread"))
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(10)
    except TimeoutError:
        found.append(True)
    await answer(send, f"{found} {inner.result()} {thread.result()}")


async def cancels_itself(scope, receive, send):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def pid(scope, receive, send):
    await answer(send, os.getpid())


async def waits(scope, receive, send):
    await released.wait()
    await answer(send, b"released")


async def release(scope, receive, send):
    released.set()
    await answer(send, b"so")


async def status(scope, receive, send):
    code = int(scope["path"].split("/")[2])
    await answer(send, b"" if code == 204 else b"body", status=code)


async def headers(scope, receive, send):
    await answer(send, b"x", headers=[
        (b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"transfer-encoding", b"chunked"),
        (b"connection", b"keep-alive"), (b"keep-alive", b"timeout=5"), (b"x-latin", b"\xe9"),
    ])


async def closes(scope, receive, send):
    await answer(send, b"x", headers=[(b"connection", b"close")])


async def socket(scope, receive, send):
    """A WebSocket: what it does is the next part of the path."""
    assert await receive() == {"type": "websocket.connect"}
    await SOCKETS[scope["path"].split("/")[2]](scope, receive, send)


async def accept_and_echo(scope, receive, send):
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None,
                "headers": [(b"x-made", b"by the application")]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "facts":
            shown = {**scope, "headers": [], "state": None}
            await send({"type": "websocket.send", "text": json.dumps(shown, default=str)})
        elif message.get("text", "").startswith("close "):
            _, code, reason = message["text"].split(" ", 2)
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
        else:
            await send({**message, "type": "websocket.send"})
    print(f"socket: {message['type']} {message['code']} {message['reason']!r}", flush=True)
    assert await receive() == message
    try:
        await send({"type": "websocket.send", "text": "to nobody"})
    except OSError as error:
        print(f"socket: {type(error).__name__}", flush=True)


async def close_at_once(scope, receive, send):
    await send({"type": "websocket.close"})


async def deny(scope, receive, send):
    start = {"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-why", b"tea")]}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": b"no ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"coffee"})


async def denies_without_body(scope, receive, send):
    await send({"type": "websocket.http.response.start", "status": 401, "headers": []})


async def denies_and_raises(scope, receive, send):
    await denies_without_body(scope, receive, send)
    raise RuntimeError("failed on purpose")


async def returns(scope, receive, send):
    pass


async def raises(scope, receive, send):
    raise RuntimeError("failed on purpose")


async def accepts_and_returns(scope, receive, send):
    await send({"type": "websocket.accept"})


async def accepts_and_raises(scope, receive, send):
    await send({"type": "websocket.accept"})
    raise RuntimeError("failed on purpose")


async def never_receives(scope, receive, send):
    await send({"type": "websocket.accept"})
    await asyncio.sleep(1)
    count = 0
    while (message := await receive())["type"] == "websocket.receive":
        count += 1
        if message["bytes"] == b"last":
            await send({"type": "websocket.send", "text": str(count)})


async def floods_and_returns(scope, receive, send):
    await send({"type": "websocket.accept"})
    await asyncio.sleep(0.2)


async def closes_and_stays(scope, receive, send):
    await send({"type": "websocket.accept"})
    await asyncio.sleep(0.2)
    await send({"type": "websocket.close"})
    await asyncio.sleep(4)


async def answers_slowly(scope, receive, send):
    """And ends, as most do, when it cannot send."""
    await send({"type": "websocket.accept"})
    count = 0
    while (message := await receive())["type"] == "websocket.receive":
        count += 1
        print(f"slowly: {count}", flush=True)
        await asyncio.sleep(0.3)
        await send({"type": "websocket.send", "text": message["text"]})


async def ticks(scope, receive, send):
    """One task receives, and another sends all the time."""

    async def sends():
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0.01)

    await send({"type": "websocket.accept"})
    async with asyncio.TaskGroup() as group:
        ticker = group.create_task(sends())
        while (message := await receive())["type"] == "websocket.receive":
            pass
        print(f"ticks: {message['code']}", flush=True)
        ticker.cancel()


async def tallies(scope, receive, send):
    await send({"type": "websocket.accept"})
    count = 0
    while (message := await receive())["type"] == "websocket.receive":
        assert message["text"] == str(count), message
        count += 1
    print(f"tallies: {count} {message['code']}", flush=True)


async def sleeps_open(scope, receive, send):
    await send({"type": "websocket.accept"})
    await asyncio.sleep(float(scope["query_string"]))
    await send({"type": "websocket.send", "text": "awake"})


async def receives_late(scope, receive, send):
    """Once it is told to, all that there is."""
    released.clear()
    LOG.clear()
    await send({"type": "websocket.accept"})
    await released.wait()
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            LOG.append(message["code"])
            return
        LOG.append(int(message["text"]))


async def log(scope, receive, send):
    await answer(send, json.dumps(LOG))


async def waits_for_disconnect(scope, receive, send):
    LOG.clear()
    while (message := await receive())["type"] != "http.disconnect":
        pass
    LOG.append(message["type"])
    print("told of the end", flush=True)
    await answer(send, b"told")


async def reads_late(scope, receive, send):
    released.clear()
    await released.wait()
    await answer(send, len(await read(receive)))


async def floods(scope, receive, send):
    await send({"type": "websocket.accept"})
    LOG.clear()
    for number in range(1000):
        await send({"type": "websocket.send", "bytes": bytes(65536)})
        LOG.append(number)


async def counts(scope, receive, send):
    """Receives by waits of all kinds, most of which end early, around the time when a message comes."""
    import anyio

    await send({"type": "websocket.accept"})
    chance, expected, kept = random.Random(scope["query_string"]), 0, None
    while True:
        seconds, messages = chance.choice((0, 0, 0.0002, 0.001, 0.003)) * chance.random(), []
        way = chance.randrange(7) if kept is None else 6
        try:
            match way:
                case 0:
                    messages = [await asyncio.wait_for(receive(), seconds)]
                case 1:
                    with anyio.move_on_after(seconds):
                        messages = [await receive()]
                case 2:
                    async with asyncio.timeout(seconds):
                        messages = [await receive()]
                case 3:
                    task = asyncio.create_task(receive())
                    await asyncio.sleep(seconds)
                    task.cancel()
                    messages = [await task]
                case 4:
                    both = receive(), asyncio.wait_for(receive(), seconds)
                    messages = await asyncio.gather(*both, return_exceptions=True)
                    if isinstance(messages[1], TimeoutError):
                        messages.pop()
                    else:  # which of two that wait comes first is nobody's to say
                        messages.sort(key=lambda each: int(each["text"].replace("end", "1000000")))
                case 5:
                    messages = [await receive()]
                case 6:
                    kept = kept or asyncio.create_task(receive())
                    await asyncio.wait([kept], timeout=seconds)
                    if kept.done():
                        messages, kept = [kept.result()], None
        except (TimeoutError, asyncio.CancelledError):
            assert way in (0, 2, 3), way
        for message in messages:
            if message["text"] == "end":
                await send({"type": "websocket.send", "text": f"{expected} in order"})
                return
            assert message["text"] == str(expected), (message, expected, way)
            expected += 1


async def wrong_messages(scope, receive, send):
    seen = []
    offers = [{"type": "websocket.accept", "subprotocol": "not-offered"},
              {"type": "websocket.accept", "headers": [(b"Upgrade", b"x")]},
              {"type": "websocket.accept", "headers": [(b"a", b"b\r\nc: d")]},
              {"type": "websocket.send", "text": "early"}, {"type": "http.response.start", "status": 200}]
    sends = [{"type": "websocket.send"}, {"type": "websocket.send", "text": "a", "bytes": b"b"},
             {"type": "websocket.accept"}, {"type": "websocket.send", "text": b"bytes"},
             *({"type": "websocket.close", "code": code}
               for code in (0, 999, 1000.5, 1005, 1006, 1015, 5000)),
             {"type": "websocket.close", "code": 1000, "reason": "x" * 124}]
    for message in (*offers, None, *sends):
        try:
            await send(message or {"type": "websocket.accept"})
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            seen.append(type(error).__name__)
    await send({"type": "websocket.send", "text": f"{len(seen)} of {len(offers) + len(sends)}"})


async def forks(scope, receive, send):
    """A process that returns through the server leaves."""
    child = os.fork()
    if not child:
        return
    os.waitpid(child, 0)
    await answer(send, b"parent")


SOCKETS = {
    "echo": accept_and_echo, "close": close_at_once, "deny": deny, "returns": returns, "raises": raises,
    "denies-without-body": denies_without_body, "denies-and-raises": denies_and_raises,
    "accepts-and-returns": accepts_and_returns, "accepts-and-raises": accepts_and_raises,
    "never-receives": never_receives, "floods": floods, "counts": counts, "wrong": wrong_messages,
    "floods-and-returns": floods_and_returns, "closes-and-stays": closes_and_stays,
    "tallies": tallies, "ticks": ticks, "answers-slowly": answers_slowly, "sleeps": sleeps_open,
    "receives-late": receives_late,
}  # fmt: skip
ROUTES = {
    name.replace("_", "-"): value for name, value in list(globals().items())
    if asyncio.iscoroutinefunction(value) and name not in ("app", "lifespan", "answer", "read")
}
