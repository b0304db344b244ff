"""The works of ASGI, as works.py has those of WSGI: docs/performance/asgi.md."""

from __future__ import annotations

from functools import partial

from scripts.benchmark import check, load, long_lived, measure, servers, websocket
from scripts.benchmark.servers import Contender, forkd
from scripts.benchmark.work import RATES, Goal, Work

_JSON = b'{"message":"Hello, world!"}'
_PIECES = b"data: 0123456789abcdef\n\n" * 20
_UVICORN = ("--loop", "uvloop", "--http", "httptools")
#: uvicorn's frames. The first was its default when the goals were set; 0.54 takes the second.
_UVICORN_FRAMES = ("websockets", "websockets-sansio", "wsproto")
_BETTER = ("granian", "gunicorn asgi", "uvicorn, websockets-sansio", "uvicorn, wsproto")
_MANY = ("--worker-connections", "12000")


def _own(app: str = "aweb:app", *flags: str) -> tuple[Contender, ...]:
    """forkd in each of its ways. The first is the one that is judged."""
    return (
        forkd(*flags, app=app),
        forkd(*flags, "--loop", "asyncio", app=app, name="forkd, asyncio's loop"),
        forkd(*flags, "--request-task", "real", app=app, name="forkd, a Task for each request"),
        forkd(*flags, "--no-native", app=app, name="forkd, without native code"),
    )


def _peers(app: str = "aweb:app") -> tuple[Contender, ...]:
    return (
        servers.uvicorn(*_UVICORN, app=app, name="uvicorn"),
        servers.granian(interface="asgi", app=app),
        servers.gunicorn("--worker-class", "asgi", app=app, name="gunicorn asgi"),
    )


def _uvicorns(*implementations: str) -> tuple[Contender, ...]:
    return tuple(
        servers.uvicorn(*_UVICORN, "--ws", which, name=f"uvicorn, {which}")
        for which in implementations
    )


_STREAM = partial(check.answers, body=_PIECES, kind="text/event-stream", chunked=True)
_OBJECT = partial(check.answers, body=_JSON, kind="application/json")

ASGI_WORKS: tuple[Work, ...] = (
    Work(
        "asgi-hello", "ASGI hello, 2 header fields", RATES,
        (*_own(), *_peers(), forkd(name="forkd, WSGI")),
        (
            Goal(3.0, ("uvicorn",)), Goal(2.2, ("granian",)), Goal(5.0, ("gunicorn asgi",)),
            Goal(0.75, ("forkd, WSGI",)),
        ),
        partial(check.answers, sent=check.request("/", "Accept: */*")),
        partial(load.wrk, headers=("Accept: */*",)),
    ),
    Work(
        "asgi-once", "ASGI that suspends once", RATES, (*_own(), *_peers()),
        (Goal(2.3, ("uvicorn",)), Goal(1.6, ("granian",))),
        partial(check.answers, sent=check.request("/once")), partial(load.wrk, path="/once"),
    ),
    Work(
        "asgi-post", "ASGI, a POST of 200 bytes", RATES, (*_own(), *_peers()), (Goal(3.0, ("uvicorn",)),),
        partial(check.answers, sent=check.request("/upload", body=bytes(200)), body=b"200"),
        partial(load.wrk, path="/upload", script="post.lua"),
    ),
    Work(
        "asgi-64k", "ASGI, an answer of 64 KiB", RATES, (*_own(), *_peers()), (Goal(2.3, ("uvicorn",)),),
        partial(check.answers, sent=check.request("/64k"), body=bytes(64 << 10)),
        partial(load.wrk, path="/64k"),
    ),
    Work(
        "starlette", "Starlette, JSON", RATES,
        (*_own("astarlette:app"), *_peers("astarlette:app")), (Goal(1.9, ("uvicorn",)),),
        partial(_OBJECT, sent=check.request("/")), load.wrk,
    ),
    Work(
        "fastapi", "FastAPI, JSON", RATES, (*_own("afastapi:app"), *_peers("afastapi:app")),
        (Goal(1.3, ("uvicorn",)),),
        partial(_OBJECT, sent=check.request("/")), load.wrk,
    ),
    Work(
        "fastapi-def", "FastAPI, JSON from a function in a thread", RATES,
        (*_own("afastapi:app"), *_peers("afastapi:app")), (Goal(0.95, ("uvicorn",)),),
        partial(_OBJECT, sent=check.request("/def")), partial(load.wrk, path="/def"),
    ),
    Work(
        "sse-turns", "Server-sent events, 20 pieces, one a turn of the loop", RATES, (*_own(), *_peers()),
        (Goal(1.2, ("uvicorn",)),),
        partial(_STREAM, sent=check.request("/turns")), partial(load.wrk, path="/turns"),
    ),
    Work(
        "sse-step", "Server-sent events, 20 pieces in one step", RATES, (*_own(), *_peers()),
        (Goal(4.0, ("uvicorn",)),),
        partial(_STREAM, sent=check.request("/step")), partial(load.wrk, path="/step"),
    ),
    Work(
        "websocket", "WebSocket echo, messages of 125 bytes, 100 connections", RATES,
        (
            *_own(), *_uvicorns(*_UVICORN_FRAMES), *_peers()[1:], servers.picows(),
        ),
        (
            Goal(6.0, ("uvicorn, websockets",)),
            Goal(3.5, _BETTER, best=True),
            Goal(0.9, ("picows",)),
        ),
        partial(websocket.echoes, payload=long_lived.MESSAGE), long_lived.echo,
    ),
    Work(
        "idle-websockets", "2,000 idle WebSockets", ("bytes",),
        (*_own("aweb:app", *_MANY), *_peers(), servers.picows()), (Goal(8_000),),
        partial(websocket.echoes, payload=long_lived.MESSAGE), long_lived.idle_websockets, warm=False,
    ),
    Work(
        "idle-deflate", "2,000 idle WebSockets with permessage-deflate", ("bytes",),
        (*_own("aweb:app", *_MANY, "--ws-deflate"), *_peers()), (Goal(16_000),),
        partial(websocket.echoes, payload=long_lived.MESSAGE),
        partial(long_lived.idle_websockets, handshake=websocket.HANDSHAKE_DEFLATE), warm=False,
    ),
    Work(
        "asgi-idle-connections", "10,000 idle keep-alive connections of ASGI", ("bytes",),
        (
            *_own("aweb:app", *_MANY),
            servers.uvicorn(*_UVICORN, "--timeout-keep-alive", "75", name="uvicorn"),
            servers.granian("--backpressure", "12000", "--backlog", "4096", interface="asgi", app="aweb:app"),
            servers.gunicorn(
                "--worker-class", "asgi", "--keep-alive", "75", *_MANY, app="aweb:app", name="gunicorn asgi"
            ),
        ),
        (Goal(3_000),),
        partial(check.answers, sent=check.request("/")), measure.idle_connections, warm=False,
    ),
    Work(
        "asgi-stop", "A stop beside an idle stream of events and an idle WebSocket, at most 20 s", ("stop",),
        (*_own(), *_peers()), (Goal(3.0),),
        partial(check.answers, sent=check.request("/")), long_lived.stop, warm=False,
    ),
    Work(
        "asgi-reload", "1,000 WebSockets over a reload: closes in the busiest second by even", ("burst",),
        _own(), (Goal(2.0),),
        partial(check.answers, sent=check.request("/")), long_lived.reload, warm=False,
    ),
    Work(
        "asgi-lag", "A loop that is held for 300 ms under load: named in the log", ("told",), _own(),
        (Goal(0.5),),
        partial(check.answers, sent=check.request("/")), long_lived.told, warm=False,
    ),
)  # fmt: skip
