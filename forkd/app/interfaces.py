"""The interfaces of applications, as a table: how each is told from the others, what it needs, and what makes
its sessions. A new one is a row here. In a child, once the application is there; the master has the facts.

Which models carry it is said by the models: `ModelRow.refused`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from forkd.app.signature import Kind, attribute, is_asynchronous, kind_of
from forkd.app.wsgi.exchange import Wsgi
from forkd.config import Config
from forkd.errors import AppError
from forkd.session.http1 import Exchanges, Http1
from forkd.session.seam import Host, Interface
from forkd.session.shed import Shedding


@dataclass(frozen=True)
class InterfaceRow:
    name: str
    flag: str  # of --interface; several may have the same
    fits: Callable[[Any], bool]  # an application, when --interface does not say
    require: Callable[[Any, Config], None]  # raises AppError for what is none, though it was taken for one
    make: Callable[[Any, Config, Host, int], Interface]  # the last one is the number of the worker, from 1
    http: bool = False  # the client speaks first, and in requests
    needs_loop: bool = False  # an asyncio loop around its sessions, on one thread
    lives: bool = False  # it has a beginning and an end in that loop: `Living` in worker/asyncio_loop.py
    farewell: float = 0.0  # seconds for its end, besides --graceful-timeout
    takes_socket: bool = False  # its sessions have the socket itself, and their thread until they end
    multiplexes: bool = False  # its sessions have several exchanges at a time (session/seam.py, Multiplexed)


def find(app: Any, wanted: str | None) -> InterfaceRow:
    """The interface that `app` speaks. `wanted` (--interface) decides between flags. Raises AppError."""
    rows = [row for row in INTERFACES if wanted in (None, row.flag)]
    found = next((row for row in rows if row.fits(app)), rows[-1] if wanted is not None else None)
    if found is None:
        raise AppError(_nothing(app))
    return found


def _nothing(app: Any) -> str:
    """Why it is none of them."""
    shown = _shown(app)
    if not callable(app):
        return (
            f"{shown} is no application: neither a WSGI or ASGI callable, nor an asyncio.Protocol, nor a "
            "socketserver.BaseRequestHandler"
        )
    kind = kind_of(app)
    if kind is Kind.ASGI2:
        return (
            f"{shown} takes one argument, as ASGI 2 applications do, which forkd does not serve: ASGI 3 "
            "takes scope, receive and send (asgiref.compatibility.guarantee_single_callable makes it); "
            "of a factory, write module:factory('argument')"
        )
    if kind is Kind.CLASS:
        return f"{shown} is a class whose instances are applications: make one, as module:Class() does"
    if kind is Kind.FACTORY:
        return f"{shown} takes no arguments: if it returns the application, write module:factory()"
    return f"{shown} takes arguments that do not tell WSGI from ASGI: say which it is with --interface"


def named(name: str) -> InterfaceRow | None:
    """None before any child has told which it is."""
    return next((row for row in INTERFACES if row.name == name), None)


def flag_of(name: str) -> str:
    """What --interface has for it; "" before any child has told which it is."""
    speaks = named(name)
    return "" if speaks is None else speaks.flag


def lives(flag: str | None) -> bool:
    """Whether --interface says that the application begins in its loop, and is to be loaded there."""
    return any(row.lives for row in INTERFACES if row.flag == flag)


# ---- wsgi -------------------------------------------------------------------------------------


def _require_wsgi(app: Any, config: Config) -> None:
    if _is_stream(app):
        raise AppError(f"app {config.app!r} makes streams, and is no WSGI application; leave out --interface")
    if not callable(app):
        raise AppError(f"app {config.app!r} is not callable, as a WSGI application must be")
    if is_asynchronous(app) or kind_of(app) is Kind.ASGI:
        raise AppError("the application speaks ASGI; leave out --interface, or set it to asgi")
    if config.limit_concurrency:
        raise AppError(
            "limit-concurrency is for ASGI: a worker calls a WSGI application --threads times at once, and "
            "no more; what waits too long for that, --shed-after answers 503"
        )


def _make_wsgi(app: Any, config: Config, host: Host, worker: int) -> Interface:
    served: Exchanges = Wsgi(app, config, host, multithread=config.threads > 1, worker=worker)
    if config.shed_after:
        served = Shedding(served, config, host)
    return Http1(served, config, host)


# ---- asgi -------------------------------------------------------------------------------------


def _require_asgi(app: Any, config: Config) -> None:
    if _is_stream(app):
        raise AppError(f"app {config.app!r} makes streams, and is no ASGI application; leave out --interface")
    if not callable(app):
        raise AppError(f"app {config.app!r} is not callable, as an ASGI application must be")
    kind = kind_of(app)
    if kind is Kind.WSGI:
        raise AppError("the application speaks WSGI; leave out --interface, or set it to wsgi")
    if kind in (Kind.ASGI2, Kind.CLASS, Kind.FACTORY):
        raise AppError(_nothing(app))


def _make_asgi(app: Any, config: Config, host: Host, worker: int) -> Interface:
    from forkd.app.asgi.interface import Asgi

    return Asgi(app, config, host, worker)


# ---- streams ----------------------------------------------------------------------------------


def _is_handler(app: Any) -> bool:
    return inspect.isclass(app) and issubclass(app, _loaded("socketserver", "BaseRequestHandler"))


def _is_stream(app: Any) -> bool:
    """A protocol, or what says of itself that it makes some; an object of a handler's class is taken for such
    a factory, too."""
    kind = app if inspect.isclass(app) else type(app)
    bases = _loaded("asyncio", "BaseProtocol") + _loaded("socketserver", "BaseRequestHandler")
    return issubclass(kind, bases) or attribute(app, "forkd_interface") == "stream"


def _loaded(module: str, name: str) -> tuple[type, ...]:
    """A class of the standard library's, where its module is loaded: an application that derives from it has
    loaded it."""
    found = getattr(sys.modules.get(module), name, None)
    return () if found is None else (found,)


# asyncio, which both import, costs 40 ms and 5 MiB: only those pay that have a use for it.


def _make_blocking(app: Any, config: Config, host: Host, worker: int) -> Interface:
    from forkd.app.stream.handlers import Blocking

    return Blocking(app, config, host)


def _make_evented(app: Any, config: Config, host: Host, worker: int) -> Interface:
    from forkd.app.stream.handlers import Evented

    return Evented(app, config, host)


def _require_handler(app: Any, config: Config) -> None:
    """It is a class for it."""
    _require_plain_listeners(config)


def _require_plain_listeners(config: Config) -> None:
    """Their clients send no requests, but whatever the application's protocol is."""
    for address in config.bind:
        if address.protocol:
            raise AppError(
                f"bind {address}: requests come there by {address.protocol}, and the application makes "
                f"streams; leave out ?protocol={address.protocol}"
            )


def _require_factory(app: Any, config: Config) -> None:
    """It is called for each connection, and has to give a protocol. What has no signature is tried then."""
    _require_plain_listeners(config)
    if not callable(app):
        raise AppError(f"app {config.app!r} is not callable, as a factory of protocols must be")
    with suppress(ValueError):
        needed = inspect.signature(app)
        try:
            needed.bind()
        except TypeError as error:
            name = repr(config.app) if config.app else "the built-in one"
            raise AppError(
                f"app {name} makes no streams: it would be called without arguments for each connection, and "
                f"takes {needed} ({error}); leave out --interface, or name a factory"
            ) from None


# ---- the table --------------------------------------------------------------------------------


def _is(kind: Kind) -> Callable[[Any], bool]:
    return lambda app: callable(app) and kind_of(app) is kind


#: In the order in which they are tried.
INTERFACES: tuple[InterfaceRow, ...] = (
    InterfaceRow("socketserver", "stream", _is_handler, _require_handler, _make_blocking, takes_socket=True),
    InterfaceRow("asyncio", "stream", _is_stream, _require_factory, _make_evented, needs_loop=True),
    InterfaceRow(
        "asgi", "asgi", _is(Kind.ASGI), _require_asgi, _make_asgi, http=True, needs_loop=True, lives=True,
        farewell=9.0,
    ),
    InterfaceRow("wsgi", "wsgi", _is(Kind.WSGI), _require_wsgi, _make_wsgi, http=True),
)


def _shown(app: Any) -> str:
    try:
        return repr(app)[:200]
    except Exception:
        return f"a {type(app).__name__}"
