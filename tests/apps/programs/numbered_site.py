"""Numbered messages, by waits that are given up all the time: none is lost, doubled or out of order."""

import asyncio

import anyio


async def wait_for(wait, number):
    try:
        return await asyncio.wait_for(wait(), number % 5 * 0.0002)
    except TimeoutError:
        return None


async def timeout(wait, number):
    try:
        async with asyncio.timeout(number % 5 * 0.0002):
            return await wait()
    except TimeoutError:
        return None


async def move_on(wait, number):
    with anyio.move_on_after(number % 5 * 0.0002):
        return await wait()


async def task(wait, number):
    """One that is cancelled has taken its message, or has not."""
    made = asyncio.create_task(wait())
    for _ in range(number % 4):
        await asyncio.sleep(0)
    made.cancel()
    try:
        return await made
    except asyncio.CancelledError:
        return None


async def first(wait, number):
    """asyncio.wait cancels nothing, and so the caller does."""
    made = asyncio.ensure_future(wait())
    done, _ = await asyncio.wait([made], timeout=number % 5 * 0.0002)
    if done:
        return made.result()
    made.cancel()
    try:
        return await made
    except asyncio.CancelledError:
        return None


async def group(wait, number):
    found = []

    async def one():
        found.append(await wait())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        await asyncio.sleep(number % 3 * 0.0002)
        tasks.cancel_scope.cancel()
    return found[0] if found else None


async def unawaited(wait, number):
    """A call does nothing until it is awaited."""
    wait().close()
    return await wait()


WAYS = {each.__name__: each for each in (wait_for, timeout, move_on, task, first, group, unawaited)}


async def app(scope, receive, send):
    assert scope["type"] in ("http", "websocket")
    way = WAYS[scope["path"][1:]]
    given_up = -1
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        expected = 0
        while True:
            given_up += 1
            message = await way(receive, given_up)
            if message is None:
                continue
            if message["type"] != "websocket.receive" or message["text"] == "end":
                break
            assert message["text"] == str(expected), (message, expected)
            expected += 1
        await send({"type": "websocket.send", "text": f"{expected} in order"})
        return
    data, more = b"", True
    while more:
        given_up += 1
        message = await way(receive, given_up)
        if message is not None:
            data, more = data + message["body"], message["more_body"]
    expected = b"".join(b"%d," % number for number in range(data.count(b",")))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{data.count(b',')} {data == expected}".encode()})
