"""Find the application that `module:attr` names.

Called in a child, after the fork, and by `forkd check`; never in the master.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
import traceback
import types
from functools import partial
from typing import Any

from forkd.errors import AppError
from forkd.system import forked
from forkd.system.forked import call

WELCOME = "forkd.app.welcome:app"
#: Django's and PEP 3333's name, and Flask's.
_USUAL = ("application", "app")
_SHAPE = "write it as module:attr, module:factory() or module:factory('argument')"


def load(spec: str) -> Any:
    """Import and return the application. Raises AppError with the traceback of what went wrong."""
    module_name, colon, expression = spec.partition(":")
    if not module_name or (colon and not expression):
        raise AppError(f"app {spec!r}: {_SHAPE}")
    if _looks_like_a_file(module_name):
        name = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise AppError(f"app {spec!r}: name a module, not a file: {name}{colon}{expression}")
    made = "it is None"
    if not colon:
        app = _usual(import_module(module_name, f"app {spec!r}"), spec)
    else:
        try:
            tree = ast.parse(expression, mode="eval").body
        except SyntaxError:
            raise AppError(f"app {spec!r}: {expression!r} is no name or call; {_SHAPE}") from None
        app = _evaluate(tree, import_module(module_name, f"app {spec!r}"), spec)
        if isinstance(tree, ast.Call):
            made = "the factory returned None"
    if app is None:
        raise AppError(f"app {spec!r}: {made}, which is no application")
    return app


def _looks_like_a_file(name: str) -> bool:
    return "/" in name or name.endswith(".py")


def _usual(module: types.ModuleType, spec: str) -> Any:
    """The application of a module by the names that frameworks give it."""
    for name in _USUAL:
        try:
            if hasattr(module, name):
                return getattr(module, name)
        except BaseException as error:  # of the module's own __getattr__
            raise AppError(f"app {spec!r}: {spec}.{name} failed\n{_trace()}") from error
    raise AppError(f"app {spec!r}: {spec} has neither {' nor '.join(_USUAL)}; {_SHAPE}")


def import_module(name: str, what: str) -> types.ModuleType:
    """Import the module of `what`. Raises AppError with the traceback of what went wrong."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise AppError(
            f"{what}: the working directory has been removed; a reload goes to the one that has its name now"
        ) from None
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)  # as `python -m` does: apps lie where forkd is started
    try:
        module: types.ModuleType = call(importlib.import_module, name)
        return module
    except BaseException as error:
        raise AppError(f"{what}: importing {name} failed\n{_trace()}") from error


def _evaluate(node: ast.expr, module: Any, spec: str) -> Any:
    """Names, attributes and calls with literal arguments; nothing else is code we would run."""
    match node:
        case ast.Name(id=name):
            return _attribute(module, name, spec)
        case ast.Attribute(value=value, attr=name):
            return _attribute(_evaluate(value, module, spec), name, spec)
        case ast.Call(func=func, args=args, keywords=keywords):
            factory = _evaluate(func, module, spec)
            positional, named = _arguments(args, keywords, spec)
            try:
                return call(partial(factory, *positional, **named))
            except BaseException as error:  # sys.exit("no database")
                raise AppError(f"app {spec!r}: the factory failed\n{_trace()}") from error
        case _:
            raise AppError(f"app {spec!r}: {_SHAPE}")


def _arguments(
    args: list[ast.expr], keywords: list[ast.keyword], spec: str
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a factory's call. `*` and `**` take literals, too."""
    positional: list[Any] = []
    named: dict[str, Any] = {}
    try:
        for arg in args:
            if isinstance(arg, ast.Starred):
                positional += ast.literal_eval(arg.value)
            else:
                positional.append(ast.literal_eval(arg))
        for keyword in keywords:
            value = ast.literal_eval(keyword.value)
            more = {keyword.arg: value} if keyword.arg is not None else dict(value)
            if twice := named.keys() & more.keys():
                raise AppError(f"app {spec!r}: {min(map(repr, twice))} is given twice")
            named |= more
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise AppError(f"app {spec!r}: a factory's arguments must be literals") from None
    return positional, named


def _attribute(owner: Any, name: str, spec: str) -> Any:
    where = getattr(owner, "__name__", type(owner).__name__)
    found = None
    try:
        found = inspect.getattr_static(owner, name, None)
        return call(getattr, owner, name)  # which may be a property
    except BaseException as error:
        # Of a name that is there, such as a property, it is the application's own failure.
        if isinstance(error, AttributeError) and found is None:
            raise AppError(f"app {spec!r}: {where} has no attribute {name!r}") from None
        raise AppError(f"app {spec!r}: {where}.{name} failed\n{_trace()}") from error


def _trace() -> str:
    """The present exception without forkd's own frames, which explain nothing."""
    error = sys.exc_info()[1]
    assert error is not None
    frame = error.__traceback__
    while frame is not None and _is_machinery(frame.tb_frame.f_code.co_filename):
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame)).rstrip()


def _is_machinery(path: str) -> bool:
    return path in (__file__, forked.__file__, importlib.__file__) or path.startswith("<frozen importlib")
