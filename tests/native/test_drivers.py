"""Native drivers are made for one type, Shortcut: their files name no interface, and no part of one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import forkd.native

FOLDER = Path(forkd.native.__file__).parent
DRIVERS = (
    "engine_inline.c", "engine_inline.h", "engine_accept.c", "engine_call.c", "engine_link.c",
    "system_ring.h", "system_uring.c",
)  # fmt: skip
INTERFACE = re.compile(
    r"exchange|UsualRequest|request_|wsgi|asgi|environ|start_response|response|(?<!over)flow|asyncio|"
    r"stream(?!er)|websocket|http|head_|Block\b",
    re.IGNORECASE,
)
#: What is of the sockets API, and so of no interface.
EXEMPT = {"SOCK_NONBLOCK"}


def named(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text) if INTERFACE.search(word) and word not in EXEMPT]


@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_names_no_interface(name: str) -> None:
    assert named((FOLDER / name).read_text()) == []


def test_a_name_is_found() -> None:
    for text in (
        "exchange_call(exchange, conn, &answer);",
        "((UsualRequest *)call)->peer",
        "flow_ready(self, conn, now)",
        "/* as in app/wsgi/environ.py */",
        "Py_TYPE(call) == request_type",
        "head_of(data, size, &limits, ends, &said)",
    ):
        assert named(text), text
    assert not named("self->shortcut follows a call; SOCK_NONBLOCK | overflow")


def test_their_results_are_named() -> None:
    """No number stands for what a function of a Shortcut has come to."""
    for name in DRIVERS:
        assert not re.findall(r"\b(?:outcome|begun)\s*[=!<>]=?\s*-?\d", (FOLDER / name).read_text()), name
