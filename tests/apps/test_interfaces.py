"""Which interface an application speaks, and what --interface may not make of it."""

from __future__ import annotations

import asyncio
import functools
import socketserver
import types
import unittest.mock
from typing import Any

import pytest

from forkd.app import interfaces
from forkd.config import Config
from forkd.errors import AppError


def wsgi(environ: Any, start: Any) -> list[bytes]:
    return []


def factory() -> asyncio.Protocol:
    return asyncio.Protocol()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    pass


def plainly(scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def anything(*args: Any) -> Any:
    return args


async def anything_later(*args: Any) -> None:
    pass


def bound_first(self: Any, scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


def defaults(scope: Any, receive: Any = None, send: Any = None) -> Any:
    return asgi(scope, receive, send)


def asgi2(scope: Any) -> Any:
    return functools.partial(asgi, scope)


class Asgi:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass

    async def method(self, scope: Any, receive: Any, send: Any) -> None:
        pass

    @staticmethod
    async def static(scope: Any, receive: Any, send: Any) -> None:
        pass


class Slotted:
    """As Sentry's middleware is made."""

    __slots__ = ("__call__",)

    def __init__(self) -> None:
        self.__call__ = asgi


class Asgi2:
    def __init__(self, scope: Any) -> None:
        pass

    async def __call__(self, receive: Any, send: Any) -> None:
        pass


class Wsgi:
    """As PEP 3333 has it: the instance is the answer."""

    def __init__(self, environ: Any, start_response: Any) -> None:
        pass


class Plain:
    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        return asgi(scope, receive, send)


class Static:
    @staticmethod
    async def __call__(scope: Any, receive: Any, send: Any) -> None:
        pass


class OfClass:
    @classmethod
    async def __call__(cls, scope: Any, receive: Any, send: Any) -> None:
        pass

    part = functools.partialmethod(bound_first)


class Partly:
    __call__ = functools.partialmethod(lambda self, one, scope, receive, send: asgi(scope, receive, send), 1)


class Endpoint:
    """As Starlette's HTTPEndpoint: what is made of the three is awaited."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        pass

    def __await__(self) -> Any:
        yield


class Middleware:
    def __init__(self, app: Any, option: Any = None, other: Any = None) -> None:
        pass

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


class WsgiMiddleware:
    def __init__(self, app: Any, option: Any) -> None:
        pass

    def __call__(self, environ: Any, start_response: Any) -> Any:
        return []


class Made(type):
    def __call__(cls, scope: Any, receive: Any, send: Any) -> Any:
        return asgi(scope, receive, send)


class OfMeta(metaclass=Made):
    pass


class Asgi2Plain:
    def __init__(self, scope: Any) -> None:
        pass

    def __call__(self, receive: Any, send: Any) -> Any:
        return asgi(None, receive, send)


class Mute:
    @property
    def __signature__(self) -> Any:
        raise RuntimeError("on purpose")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


class Asks:
    """Its attributes are nobody's to look at."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("on purpose")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pass


class Instances2:
    def __call__(self, scope: Any) -> Any:
        return functools.partial(asgi, scope)


def bare(function: Any) -> Any:
    """A decorator that does not say what it has decorated."""
    return lambda *args, **kwargs: function(*args, **kwargs)


async def extra(scope: Any, receive: Any, send: Any, *, setting: Any = None) -> None:
    pass


async def required(scope: Any, receive: Any, send: Any, *, setting: Any) -> None:
    pass


def four(scope: Any, receive: Any, send: Any, more: Any = None) -> Any:
    return asgi(scope, receive, send)


def wsgi_and_more(environ: Any, start_response: Any, exc_info: Any = None) -> list[bytes]:
    return []


def rest(scope: Any, *others: Any) -> Any:
    return asgi(scope, *others)


def wsgi_rest(environ: Any, *others: Any) -> list[bytes]:
    return []


def positional(scope: Any, receive: Any, send: Any, /) -> Any:
    return asgi(scope, receive, send)


@types.coroutine
def generator(scope: Any, receive: Any, send: Any) -> Any:
    yield


def with_setting(scope: Any, receive: Any, send: Any, setting: Any) -> Any:
    return asgi(scope, receive, send)


class Handler(socketserver.BaseRequestHandler):
    pass


class Needs(asyncio.Protocol):
    def __init__(self, setting: int) -> None:
        pass


def found(app: Any, wanted: str | None) -> str:
    row = interfaces.find(app, wanted)
    row.require(app, Config(app="a:b"))
    return row.name


@pytest.mark.parametrize(
    ("app", "wanted", "name"),
    [
        (wsgi, None, "wsgi"), (wsgi, "wsgi", "wsgi"), (asyncio.Protocol, None, "asyncio"),
        (asyncio.BufferedProtocol, "stream", "asyncio"), (factory, "stream", "asyncio"),
        (asgi, None, "asgi"), (asgi, "asgi", "asgi"), (plainly, None, "asgi"), (Asgi(), None, "asgi"),
        (Slotted(), None, "asgi"), (Asgi().method, None, "asgi"), (Asgi.static, None, "asgi"),
        (decorated(asgi), None, "asgi"), (decorated(wsgi), None, "wsgi"),
        (functools.partial(bound_first, None), None, "asgi"),
        (functools.partial(asgi), None, "asgi"), (anything_later, None, "asgi"), (defaults, None, "asgi"),
        (anything, "asgi", "asgi"), (anything, "wsgi", "wsgi"), (Wsgi, None, "wsgi"),
        (Plain(), None, "asgi"), (Static(), None, "asgi"), (OfClass(), None, "asgi"),
        (OfClass().part, None, "asgi"), (Partly(), None, "asgi"), (Endpoint, None, "asgi"),
        (Middleware(asgi), None, "asgi"), (WsgiMiddleware(wsgi, 1), None, "wsgi"), (OfMeta, None, "asgi"),
        (Mute(), None, "asgi"), (extra, None, "asgi"), (four, None, "asgi"),
        (wsgi_and_more, None, "wsgi"), (rest, None, "asgi"), (wsgi_rest, None, "wsgi"),
        (positional, None, "asgi"), (generator, None, "asgi"), (functools.lru_cache(plainly), None, "asgi"),
        (functools.singledispatch(plainly), None, "asgi"), (Asgi().__call__, None, "asgi"),
        (functools.partial(functools.partial(bound_first, 1)), None, "asgi"),
        (functools.partial(with_setting, setting=1), None, "asgi"),
        (functools.partial(WsgiMiddleware(wsgi, 1)), None, "wsgi"),
        (bare(asgi), "asgi", "asgi"), (bare(wsgi), "wsgi", "wsgi"), (required, "asgi", "asgi"),
        (Handler, None, "socketserver"), (Handler, "stream", "socketserver"),
        (lambda: None, "stream", "asyncio"), (lambda *all: None, "stream", "asyncio"),
    ],
)  # fmt: skip
def test_what_it_is(app: Any, wanted: str | None, name: str) -> None:
    assert found(app, wanted) == name


@pytest.mark.parametrize(
    ("app", "wanted", "said"),
    [
        (wsgi, "stream", "missing a required argument: 'environ'"),
        (Needs, None, "missing a required argument: 'setting'"),
        (asyncio.Protocol, "wsgi", "makes streams, and is no WSGI application"),
        (Handler, "wsgi", "makes streams, and is no WSGI application"),
        (asgi, "wsgi", "speaks ASGI; leave out"), (plainly, "wsgi", "speaks ASGI"),
        (Asgi(), "wsgi", "speaks ASGI"),
        (wsgi, "asgi", "speaks WSGI; leave out"), (asyncio.Protocol, "asgi", "is no ASGI application"),
        (asgi2, None, "as ASGI 2 applications do"), (asgi2, "asgi", "as ASGI 2 applications do"),
        (Asgi2, None, "as ASGI 2 applications do"), (Asgi, None, "is a class whose instances are app"),
        (Asgi, "asgi", "is a class whose instances"), (factory, None, "takes no arguments"),
        (anything, None, "do not tell WSGI from ASGI: say which it is with --interface"),
        (bare(asgi), None, "say which it is with --interface"), (required, None, "say which it is"),
        (print, None, "say which it is"), (unittest.mock.Mock(), None, "say which it is"),
        (Asgi2Plain, None, "as ASGI 2 applications do"), (Instances2(), None, "as ASGI 2 applications do"),
        (Plain, None, "is a class whose instances"), (Static, None, "is a class whose instances"),
        (OfClass, None, "is a class whose instances"), (Middleware, None, "is a class whose instances"),
        (WsgiMiddleware, None, "is a class whose instances"),
        (Middleware(asgi), "wsgi", "speaks ASGI"), (OfMeta, "wsgi", "speaks ASGI"),
        (5, "asgi", "is not callable"), (5, None, "is no application"),
        (5, "wsgi", "is not callable"), (5, "stream", "is not callable"),
    ],
)  # fmt: skip
def test_what_it_cannot_be(app: Any, wanted: str | None, said: str) -> None:
    with pytest.raises(AppError, match=said):
        found(app, wanted)


def test_what_answers_to_no_attribute_is_told_by_its_class() -> None:
    assert found(Asks(), None) == "asgi"


def test_each_name_is_that_of_one_row() -> None:
    names = [row.name for row in interfaces.INTERFACES]
    assert len(set(names)) == len(names)
    assert all(interfaces.named(row.name) is row for row in interfaces.INTERFACES)
