"""What a callable is by the parameters that it takes: WSGI's are two, ASGI 3's three, ASGI 2's one.

For app/interfaces.py, in a child. `iscoroutinefunction` would tell less: what a framework, a decorator or a
partial makes of a coroutine function is often a plain one.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from enum import Enum
from typing import Any


class Kind(Enum):
    WSGI = "a WSGI application"
    ASGI = "an ASGI application"
    ASGI2 = "an ASGI 2 application"
    CLASS = "a class of applications"  # of which no instance was made
    FACTORY = "a callable without parameters"
    UNKNOWN = "a callable whose parameters do not say what it is"


#: Names of the first parameter that leave no doubt, where the others may be anything.
_NAMES = {"scope": Kind.ASGI, "environ": Kind.WSGI, "env": Kind.WSGI}
#: Of the only one, where a partial has the environ.
_SECOND = ("start_response", "start")


def kind_of(app: Callable[..., Any]) -> Kind:
    """What it is called as. Asks the application's own code for nothing but its signature."""
    if inspect.isclass(app):
        return _kind_of_class(app)
    if isinstance(_own_call(type(app)), (staticmethod, classmethod)):
        app = attribute(app, "__call__")  # of which the object's signature has a parameter too few
    # A __call__ in a slot of its own, as Sentry's middleware has, is no part of the object's signature.
    shape = _shape(app) or _shape(attribute(app, "__call__"))
    return Kind.UNKNOWN if shape is None else _kind(shape, is_asynchronous(app))


class _Shape:
    """The positional parameters that a call needs at least, and takes at most."""

    def __init__(self, parameters: list[inspect.Parameter]) -> None:
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.least = sum(p.default is p.empty for p in positional)
        self.most = 99 if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
        self.callable = all(p.default is not p.empty for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.first = positional[0].name if positional else ""

    def takes(self, count: int) -> bool:
        return self.callable and self.least <= count <= self.most


def _shape(function: Any, drop: int = 0) -> _Shape | None:
    """None where it has no signature. `drop`: parameters that are bound later, as `self` is."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except Exception:  # ValueError, or whatever an application's __signature__ raises
        return None
    return _Shape(parameters[drop:])


def _kind(shape: _Shape, asynchronous: bool) -> Kind:
    two, three = shape.takes(2), shape.takes(3)
    if two and three:
        if asynchronous:
            return Kind.ASGI
        return Kind.WSGI if shape.least == 2 else _NAMES.get(shape.first, Kind.UNKNOWN)
    if two:
        return Kind.UNKNOWN if asynchronous else Kind.WSGI
    if three:
        return Kind.ASGI
    if shape.takes(1):
        return Kind.WSGI if shape.first in _SECOND else Kind.ASGI2
    return Kind.FACTORY if shape.takes(0) else Kind.UNKNOWN


def _kind_of_class(app: type) -> Kind:
    made, call = _shape(app), _own_call(app)
    called = None
    if isinstance(call, staticmethod):
        called = _shape(call.__func__)
    elif isinstance(call, (types.FunctionType, classmethod)):
        called = _shape(getattr(call, "__func__", call), drop=1)
    if called is not None:
        asynchronous = is_asynchronous(call) or called.first == "receive"
        if made is not None and made.takes(1) and called.takes(2) and asynchronous:
            return Kind.ASGI2
        if _kind(called, is_asynchronous(call)) in (Kind.ASGI, Kind.WSGI):
            return Kind.CLASS
    return Kind.UNKNOWN if made is None else _kind(made, False)


def _own_call(kind: type) -> Any:
    """What calls the instances of a class, as it is defined there; not what makes them."""
    return next((vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)), None)


def is_asynchronous(app: Any) -> bool:
    """Whether a call of it would return a coroutine, or an asynchronous generator."""
    functions = (types.FunctionType, types.MethodType)
    for _ in range(10):  # a partial of an object whose __call__ is a partial, and so on
        if isinstance(app, functools.partial):
            app = app.func
        elif isinstance(app, (staticmethod, classmethod)):
            app = app.__func__
        elif isinstance(app, functions):
            break
        else:
            app = attribute(app, "__call__")
    return inspect.iscoroutinefunction(app) or inspect.isasyncgenfunction(app)


def attribute(app: Any, name: str) -> Any:
    """An attribute; None where there is none, or where the application's code fails that is asked for it."""
    try:
        return getattr(app, name, None)
    except Exception:
        return None
