"""anyio's cancel scopes and task groups across receive() and send()."""

import anyio
import anyio.to_thread
import sniffio


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["left"] = []
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})
        return
    text = await ROUTES[scope["path"][1:]](scope, receive, send)
    if text is not None:
        await answer(send, text)


async def answer(send, text):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(text).encode()})


async def body(scope, receive, send):
    """Read in scopes that end before, while and after a piece comes: all of it is there."""
    data, more, ended = b"", True, 0
    while more:
        message = None
        with anyio.move_on_after(0.0005 * (ended % 5)):
            message = await receive()
        if message is None:
            ended += 1
            continue
        data, more = data + message.get("body", b""), message.get("more_body", False)
    return data == bytes(range(256)) * 1000 or len(data)


async def nested(scope, receive, send):
    """The inner scope ends alone; the outer one ends all that is in it."""
    seen = []
    while (await receive()).get("more_body"):
        pass
    with anyio.CancelScope() as outer:
        with anyio.move_on_after(0.01) as inner:
            await receive()  # nothing more comes
        seen.append(inner.cancelled_caught)
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            await anyio.sleep(0)
            outer.cancel()
        seen.append("not reached")
    seen.append(outer.cancelled_caught)
    try:
        with anyio.fail_after(0.01):
            await receive()
    except TimeoutError:
        seen.append("too late")
    with anyio.CancelScope(shield=True), anyio.move_on_after(0.01):
        await receive()
    return f"{seen} {sniffio.current_async_library()}"


async def stream(scope, receive, send):
    """A producer beside one who listens for the client's leaving, as frameworks stream."""
    while (await receive()).get("more_body"):
        pass
    output, source = anyio.create_memory_object_stream(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    async with anyio.create_task_group() as group:

        async def listen():
            await receive()
            group.cancel_scope.cancel()

        async def produce():
            async with output:
                for number in range(20):
                    await output.send(b"%d," % number)
                    with anyio.move_on_after(0):
                        await send({"type": "http.response.body", "body": b"", "more_body": True})

        group.start_soon(listen)
        group.start_soon(produce)
        async for piece in source:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        group.cancel_scope.cancel()
    await send({"type": "http.response.body", "body": b"end"})


async def leaves(scope, receive, send):
    """The scope is cancelled when the client has left; what is in `finally` runs."""
    left = scope["state"]["left"]
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"first,", "more_body": True})
    try:
        async with anyio.create_task_group() as group:

            async def listen():
                left.append((await receive())["type"])
                group.cancel_scope.cancel()

            group.start_soon(listen)
            await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: left.append("finally"))


async def left(scope, receive, send):
    return scope["state"]["left"]


async def slow_reader(scope, receive, send):
    """A send() that waits for the client, in scopes that give it up: no piece is sent twice or lost."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(300):
        with anyio.move_on_after(0.001):
            await send({"type": "http.response.body", "body": b"%03d" % number * 10_000, "more_body": True})
    await send({"type": "http.response.body"})


async def groups(scope, receive, send):
    """An exception in a child is the group's; its siblings are cancelled."""
    seen = []

    async def fails():
        await anyio.sleep(0.001)
        raise ValueError("one")

    async def waits():
        try:
            await anyio.sleep(10)
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(fails)
            group.start_soon(waits)
    except* ValueError as caught:
        seen += [str(each) for each in caught.exceptions]
    return seen


ROUTES = {
    "body": body, "nested": nested, "stream": stream, "leaves": leaves, "left": left,
    "slow-reader": slow_reader, "groups": groups,
}  # fmt: skip
