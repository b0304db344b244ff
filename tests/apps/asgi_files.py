"""ASGI's extensions, used plainly; and Starlette's files behind its own and other middlewares."""

import asyncio
import contextlib
import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

PATHSEND, ZEROCOPYSEND = "http.response.pathsend", "http.response.zerocopysend"
NAMES = {"early_hint", "trailers", "pathsend", "zerocopysend"}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    first, _, rest = scope["path"][1:].partition("/")
    if first == "listens":
        await listens(receive, send)
    elif first in FRAMEWORK:
        await FRAMEWORK[first]({**scope, "path": "/" + rest, "root_path": ""}, receive, send)
    else:
        await ROUTES[first](scope, send, rest)


def start(headers=(), status=200, **more):
    return {"type": "http.response.start", "status": status, "headers": list(headers), **more}


def body(data, more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


async def offered(scope, send, rest):
    names = sorted(set(scope["extensions"]) - {"forkd"})
    await send(start())
    await send(body(" ".join(names).encode()))


async def path(scope, send, name):
    """The file of that name; where the query has a length, that is declared."""
    length = scope["query_string"]
    await send(start([(b"content-length", length)] if length else [], 204 if name == "empty-status" else 200))
    before = len(os.listdir("/proc/self/fd"))
    try:
        await send({"type": PATHSEND, "path": "file" if name == "empty-status" else name})
    except Exception as error:
        print(f"path: {type(error).__name__} {error}", flush=True)
        assert len(os.listdir("/proc/self/fd")) == before
        raise
    print(f"path: {name} is sent", flush=True)


async def pieces(scope, send, rest):
    """Bytes and pieces of a file, in turn, by an object and by a number."""
    await send(start([(b"content-length", rest.encode())] if rest else []))
    with open("file", "rb") as file:
        assert file.read(5) == b"01234"
        await send(body(b"<", True))
        for count in (3, 0, 2):
            await send({"type": ZEROCOPYSEND, "file": file, "count": count, "more_body": True})
        assert file.read(1) == b"\n"
        await send(body(b"|", True))
        number = os.open("file", os.O_RDONLY)
        await send({"type": ZEROCOPYSEND, "file": number, "count": 4, "more_body": True})
        assert os.read(number, 2) == b"45"
        await send({"type": ZEROCOPYSEND, "file": number, "offset": 1, "count": 2, "more_body": True})
        assert os.read(number, 2) == b"67"
        os.close(number)
        await send({"type": ZEROCOPYSEND, "file": file, "offset": 1, "more_body": True})
    await send(body(b">"))


async def listens(receive, send):
    """For the client's end, while the file is sent."""
    await receive()
    waiting = asyncio.ensure_future(receive())
    await send(start())
    sending = asyncio.ensure_future(send({"type": PATHSEND, "path": "big"}))
    await asyncio.wait([waiting, sending], return_when=asyncio.FIRST_COMPLETED)
    print(f"listens: {'sent' if sending.done() else 'told'} first", flush=True)
    print(f"listens: {(await waiting)['type']}", flush=True)
    await sending


async def cancelled(scope, send, rest):
    """What a wait was cancelled for is sent all the same, and before what follows."""
    await send(start())
    with open("big", "rb") as file:
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                message = {"type": ZEROCOPYSEND, "file": file, "offset": 0, "more_body": True}
                await asyncio.wait_for(send(message), 0.01)
    print("cancelled: the file is closed", flush=True)
    await send(body(b"end"))


async def wrong(scope, send, case):
    """Each of these is an exception, and then comes the answer."""
    tries = {
        "twice": [start(), {"type": PATHSEND, "path": "file"}, {"type": PATHSEND, "path": "file"}],
        "mixed": [start(), body(b"x", True), {"type": PATHSEND, "path": "file"}],
        "head": [start(), {"type": PATHSEND, "path": "file"}],
        "pipe": [start(), {"type": ZEROCOPYSEND, "file": os.pipe()[0]}],
        "closed": [start(), {"type": ZEROCOPYSEND, "file": 1 << 20}],
        "offset": [start(), {"type": ZEROCOPYSEND, "file": 0, "offset": -1}],
        "no-file": [start(), {"type": ZEROCOPYSEND, "file": None}],
        "long": [start([(b"content-length", b"2")]),
                 {"type": ZEROCOPYSEND, "file": os.open("file", os.O_RDONLY), "count": 3}],
        "trailers-early": [start(trailers=True), {"type": "http.response.trailers", "headers": []}],
        "trailers-none": [start(), body(b""), {"type": "http.response.trailers", "headers": []}],
        "trailers-field": [start(trailers=True), body(b""),
                           {"type": "http.response.trailers", "headers": [(b"content-length", b"1")]}],
        "trailers-line": [start(trailers=True), body(b""),
                          {"type": "http.response.trailers", "headers": [(b"a", b"b\r\nc: d")]}],
        "trailers-body": [start(trailers=True), body(b""), body(b"")],
    }
    for message in tries[case]:
        try:
            await send(message)
        except Exception as error:
            print(f"wrong {case}: {type(error).__name__} {error}", flush=True)
            raise SystemExit from None
    raise AssertionError("nothing was raised")


async def trailers(scope, send, rest):
    fields = [(b"trailer", b"x-sum, X-Two"), (b"content-length", b"4")]
    await send(start(fields, trailers=True))
    await send(body(b"bo", True))
    await send(body(b"dy"))
    if "http.response.trailers" in scope["extensions"] and rest != "forgets":
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"X-Two", b"2")]})


async def trailers_of_a_file(scope, send, rest):
    await send(start(trailers=True))
    await send({"type": PATHSEND, "path": "file"})
    await send({"type": "http.response.trailers", "headers": []})


async def hints(scope, send, rest):
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>"]}
    await send(hint)
    await send(start())
    await send(hint)
    await send(body(b"x", True))
    await send(hint)  # too late for it
    await send(body(b"y"))


async def denies(scope, send, rest):
    assert scope["type"] == "websocket"
    await send({**start(status=418), "type": "websocket.http.response.start"})
    await send({**body(b""), "type": "websocket.http.response.body"})


class Counting:
    """As many do that only know of bodies."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        seen = 0

        async def counted(message):
            nonlocal seen
            if message["type"] == "http.response.body":
                seen += len(message.get("body", b""))
            await send(message)

        await self.app(scope, receive, counted)
        print(f"counted: {seen}", flush=True)


async def nothing(request, call_next):
    answer = await call_next(request)
    answer.headers["x-middleware"] = "was here"
    return answer


def site(*middlewares):
    routes = [
        Route("/download", lambda request: FileResponse("big", filename="a.bin")),
        Mount("/", StaticFiles(directory=".")),
    ]
    return Starlette(routes=routes, middleware=list(middlewares))


FRAMEWORK = {
    "plain": site(), "base": site(Middleware(BaseHTTPMiddleware, dispatch=nothing)),
    "gzip": site(Middleware(GZipMiddleware)), "counting": site(Middleware(Counting)),
    "all": site(Middleware(Counting), Middleware(GZipMiddleware),
                Middleware(BaseHTTPMiddleware, dispatch=nothing)),
}  # fmt: skip
ROUTES = {
    "offered": offered, "path": path, "pieces": pieces, "cancelled": cancelled, "wrong": wrong,
    "trailers": trailers, "trailers-of-a-file": trailers_of_a_file, "hints": hints, "denies": denies,
}  # fmt: skip
