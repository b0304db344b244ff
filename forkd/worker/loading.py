"""The application as an interface: loaded where it can be, in its event loop or before there is one.

In a child, and in `forkd check`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from forkd.app import interfaces, loader, welcome
from forkd.app.interfaces import InterfaceRow
from forkd.config import Config
from forkd.errors import AppError
from forkd.log.lines import Log
from forkd.session.seam import Interface
from forkd.system import stdio
from forkd.worker import leftovers

if TYPE_CHECKING:
    from forkd.worker.asyncio_loop import AsyncioLoop


def make_interface(
    config: Config,
    host: Any,
    io: str,
    admin: str | None,
    loop: Callable[..., AsyncioLoop],
    app: Any = None,
    worker: int = 0,
) -> tuple[Interface, InterfaceRow]:
    """Load the application, unless it has been, and wrap it. Raises AppError. `loop` makes the one that the
    application needs, if it needs one: where that is known by --interface, or shown by a first try that fails
    without one, it is loaded there. Elsewhere `loop(made)` may have the loop that it has made at import."""
    inside, without = app is not None or interfaces.lives(config.interface), None
    current = None
    if config.app is None:
        app = welcome.make(config.model, io, admin)
    elif app is None:
        load = partial(loader.load, config.app)
        if not inside and config.loop == "uvloop":
            current = _make_current_uvloop()
        try:
            app = loop().load(load) if inside else load()
        except AppError as error:
            if config.interface is not None or not leftovers.needs_loop(error):
                raise
            inside, without = True, error
            app = loop(leftovers.current_loop()).load(load)
    if inspect.iscoroutine(app):  # of a factory
        made = app
        app = loop(None if inside else leftovers.current_loop()).load(lambda: made)
        inside = True
    speaks = interfaces.find(app, config.interface)
    speaks.require(app, config)
    if without is not None and not speaks.lives:
        raise without
    if speaks.needs_loop:
        serves = loop(None if inside else leftovers.current_loop())
        if speaks.lives and not inside and (left := leftovers.loops_and_tasks(serves.loop, current)):
            host.log.warning(
                f"the application has made {' and '.join(left)} at import, beside the loop that serves it: "
                "what is to run there never does; with --interface asgi it is imported in the running loop"
            )
    return speaks.make(app, config, host, worker), speaks


def _make_current_uvloop() -> Any:
    from forkd.worker.asyncio_loop import make_current_uvloop

    stdio.mend()  # as where the worker's loop is made
    return make_current_uvloop()


def asyncio_loop(log: Log, wanted: str, made: Any = None) -> AsyncioLoop:
    """As the class, which is not imported where there is no use for it."""
    from forkd.worker.asyncio_loop import AsyncioLoop

    return AsyncioLoop(log, wanted, made)
