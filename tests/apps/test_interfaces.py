"""Which interface an application speaks, and what --interface may not make of it."""

from __future__ import annotations

import asyncio
import socketserver
from typing import Any

import pytest

from forkd.app import interfaces
from forkd.config import Config
from forkd.errors import AppError


def wsgi(environ: Any, start: Any) -> list[bytes]:
    return []


def factory() -> asyncio.Protocol:
    return asyncio.Protocol()


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
        (factory, None, "wsgi"), (Handler, None, "socketserver"), (Handler, "stream", "socketserver"),
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
        (5, None, "is no application"), (5, "wsgi", "is not callable"), (5, "stream", "is not callable"),
    ],
)  # fmt: skip
def test_what_it_cannot_be(app: Any, wanted: str | None, said: str) -> None:
    with pytest.raises(AppError, match=said):
        found(app, wanted)


def test_each_name_is_that_of_one_row() -> None:
    names = [row.name for row in interfaces.INTERFACES]
    assert len(set(names)) == len(names)
    assert all(interfaces.named(row.name) is row for row in interfaces.INTERFACES)
