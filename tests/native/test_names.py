"""What native code looks up by name is declared in native/__init__.py, and nothing else is: each Protocol by
itself, by what C has in its hands where it looks a name up."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import types
from collections import defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

import forkd.native
from forkd.app.asgi.cycle import Cycle
from forkd.app.asgi.duplex import Duplex
from forkd.app.asgi.requests import Requests
from forkd.app.asgi.websocket import WebSocket
from forkd.app.wsgi.start_response import Response
from forkd.engine.connection import Connection
from forkd.engine.inline import InlineLoop
from forkd.engine.native_driver import NativeDriver
from forkd.http import frames
from forkd.http.deflate import Inflater
from forkd.log.lines import AccessLog
from forkd.models.leader_threads import LeaderThreads
from forkd.models.proactor import Proactor
from forkd.native import (
    Accepts,
    Answers,
    Awaited,
    Converses,
    Coroutines,
    Cycles,
    Frames,
    Grows,
    Handler,
    Inflates,
    Leaves,
    Logs,
    OwnsTask,
    Peers,
    Receives,
    Records,
    Registers,
    Resumes,
    TakesTurns,
)
from forkd.session.seam import Await
from forkd.system import forked
from forkd.system.recorder import Recorder
from forkd.system.uring import UringOperations

C = {path.name: path.read_text() for path in sorted(Path(forkd.native.__file__).parent.glob("*.c"))}

#: Each Protocol, with what implements it.
IMPLEMENTED: dict[type, tuple[Any, ...]] = {
    Resumes: (InlineLoop, Proactor),
    Receives: (InlineLoop,),
    TakesTurns: (LeaderThreads,),
    Accepts: (NativeDriver,),
    Awaited: (Await,),
    Records: (Recorder,),  # an OwnLane has the methods of one, and so has that of native code
    Logs: (AccessLog,),
    Peers: (Connection,),
    Answers: (Response,),
    OwnsTask: (Duplex,),
    Cycles: (Cycle,),
    Grows: (Requests,),
    Coroutines: (types.CoroutineType,),
    Handler: (asyncio.Protocol,),
    Registers: (UringOperations,),
    Leaves: (forked,),
    Converses: (WebSocket,),
    Inflates: (Inflater,),
    Frames: (frames,),
}

#: The variables of C in which they are; and those of the loop, by file, since the driver of an inline loop
#: calls it for more than the completions of a ring do.
HOLDERS: dict[str, tuple[type, ...]] = {
    "self->driver": (Accepts,),
    "op": (Awaited,), "then == Py_None ? op : then": (Awaited,), "then": (Awaited,), "opening": (Awaited,),
    "self->base.recorder": (Records,),
    "self->access": (Logs,),
    "peer": (Peers,),
    "response": (Answers,), "self->response": (Answers,),
    "request": (OwnsTask,),
    "self->twin": (Cycles, OwnsTask), "twin": (Cycles,),
    "self->shortcut->serving": (Grows,), "self->serving": (Grows,),
    "self->inner": (Coroutines,),
    "protocol": (Handler,),
    "self->operations": (Registers,),
    "module": (Leaves,),
    "general": (Converses,),
    "self->inflater": (Inflates,),
    "frames": (Frames,),
}  # fmt: skip
LOOPS: dict[str, tuple[type, ...]] = {
    "engine_accept.c": (Receives,),
    "engine_inline.c": (Receives, TakesTurns),
    "engine_call.c": (Resumes,),
    "engine_link.c": (Resumes,),
    "system_uring.c": (Resumes,),
}
_LOOP = ("self->loop", "loop", "self")  # the last one in the functions of `BY_LOOP`

#: Modules of the standard library, in which C looks its own names up.
STANDARD = {"io"}

BY_NAME = r"(?:loop_tell|PyObject_\w*(?:Method\w*|Attr))\(([^,]+), ([^,;]*?\bn_\w+[^,;)]*)"
BY_LOOP = r"\b(?:go_on_with|grow_with|grow)\((self)(?:, link)?, ([^,;]*?\bn_\w+[^,;)]*)"
BY_TEXT = r'PyObject_\w*(?:CallMethod|AttrString)\((self->[\w.>-]+|\w+), "(\w+)"'
INTERNED = r'&?(n_\w+)(?:, | = PyUnicode_InternFromString\()"(\w+)"'


@functools.cache
def lookups() -> dict[tuple[str, str], set[str]]:
    """The names that C looks up, by file and variable."""
    found = defaultdict(set)
    texts = dict(re.findall(INTERNED, "\n".join(C.values())))
    for file, text in C.items():
        for pattern in (BY_NAME, BY_LOOP):
            for holder, expression in re.findall(pattern, text):
                found[file, holder] |= {texts[name] for name in re.findall(r"\bn_\w+", expression)}
        for holder, name in re.findall(BY_TEXT, text):
            if holder not in STANDARD:
                found[file, holder].add(name)
    return dict(found)


def protocols_of(file: str, holder: str) -> tuple[type, ...]:
    return LOOPS[file] if holder in _LOOP else HOLDERS[holder]


def own_names(protocol: type) -> set[str]:
    names = (*vars(protocol), *inspect.get_annotations(protocol))
    return {name for name in names if not name.startswith("_")}


def names_of(protocol: type) -> set[str]:
    """With those that it inherits."""
    bases = [base for base in protocol.__mro__ if base.__module__ == forkd.native.__name__]
    return {name for base in bases for name in own_names(base)}


#: What is set up in types of our own, at the start.
AT_THE_START = {"close", "chunked", "expect_continue", "forwarded"}


def test_each_protocol_is_in_the_table() -> None:
    protocols = {
        found for _, found in inspect.getmembers(forkd.native, inspect.isclass)
        if found.__module__ == forkd.native.__name__ and Protocol in found.__bases__
    }  # fmt: skip
    assert protocols == set(IMPLEMENTED)


@pytest.mark.parametrize(
    ("file", "holder"), [key for key, names in lookups().items() if names - AT_THE_START]
)
def test_each_name_is_in_a_protocol_of_what_it_is_looked_up_in(file: str, holder: str) -> None:
    declared = {name for protocol in protocols_of(file, holder) for name in names_of(protocol)}
    assert lookups()[file, holder] <= declared


@pytest.mark.parametrize("protocol", IMPLEMENTED, ids=lambda found: found.__name__)
def test_each_name_of_a_protocol_is_looked_up_in_one(protocol: type) -> None:
    found = {
        name for (file, holder), names in lookups().items() if names - AT_THE_START
        if protocol in protocols_of(file, holder) for name in names
    }  # fmt: skip
    assert own_names(protocol) <= found


@pytest.mark.parametrize(
    ("protocol", "made"),
    [(protocol, made) for protocol, all_made in IMPLEMENTED.items() for made in all_made],
    ids=lambda found: f"{found.__module__}.{found.__name__}" if isinstance(found, type) else None,
)
def test_it_is_implemented(protocol: type, made: Any) -> None:
    for name in names_of(protocol):
        there = inspect.getattr_static(made, name, None)
        if there is None:  # of an object alone
            assert re.search(rf"self\.{name}\b(?:: [^=]+)? = ", inspect.getsource(made)), name
            continue
        declared = inspect.getattr_static(protocol, name, None)
        if not inspect.isfunction(declared) or not inspect.isfunction(there):
            continue  # an attribute, or native code's
        wanted = list(inspect.signature(declared).parameters.values())
        if not any(row.kind is row.VAR_POSITIONAL for row in wanted):
            itself = isinstance(made, ModuleType)
            inspect.signature(there).bind(*[None] * (len(wanted) - itself))


def test_there_are_no_other_ways_to_look_one_up() -> None:
    """Each name that is interned is looked up so, and what else is looked up is of a module or a type of our
    own, at the start."""
    text = "\n".join(C.values())
    used = {name for names in lookups().values() for name in names}
    assert {name for _, name in re.findall(INTERNED, text)} <= used
    others = re.findall(r'PyObject_(?:GetAttrString|SetAttrString|CallMethod)\([^;]*?"(\w+)"', text)
    assert set(others) - used - AT_THE_START == {"BytesIO"}
