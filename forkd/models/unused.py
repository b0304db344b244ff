"""Options that were set and that the model, the interface or another option leaves without effect.

A start, a reload and `forkd check` name them as warnings: one file may serve several daemons, and
the interface is only known when the application is there. What cannot be served at all is refused
(`registry.RULES`, config/rules.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forkd.app import interfaces
from forkd.app.interfaces import InterfaceRow
from forkd.config import OPTIONS, Config
from forkd.errors import show
from forkd.models import registry
from forkd.models.process_per_connection import MAX_PROCESSES
from forkd.models.row import ModelRow
from forkd.system.aio import MAX_CLIENTS
from forkd.system.handles import SELECT_CLIENTS


@dataclass(frozen=True)
class _Service:
    config: Config
    interface: InterfaceRow

    @property
    def row(self) -> ModelRow:
        return registry.get(self.config.model)

    @property
    def io(self) -> str:
        return registry.io_of(self.config.model, self.config.io)

    @property
    def kinds(self) -> set[str]:
        return {address.kind for address in self.config.bind}


def _no_http(service: _Service) -> str:
    return "" if service.interface.http else "the application is a stream, and this is for HTTP"


def _field_size(service: _Service) -> str:
    config = service.config
    if config.limit_request_field_size > config.limit_request_head:
        return _no_http(service) or f"limit-request-head is lower ({config.limit_request_head}); raise both"
    return _no_http(service)


def _no_stream(service: _Service) -> str:
    kind = service.interface.flag.upper()
    return f"the application is {kind}, and this is for streams" if service.interface.http else ""


def _no_asgi(service: _Service) -> str:
    if service.interface.lives:
        return ""
    return _no_http(service) or "the application is WSGI, and this is for ASGI"


def _no_loop(service: _Service) -> str:
    return "" if service.interface.needs_loop else "the application has no event loop"


def _body_buffer(service: _Service) -> str:
    if not service.interface.lives:
        return _no_http(service)
    return "an ASGI application reads the body as it arrives"


def _timeout(service: _Service) -> str:
    # Hooks of the daemon have it for a limit, too.
    if service.interface.http or service.config.hooks is not None:
        return ""
    return "the application is a stream, and this is for requests; see idle-timeout"


def _write_timeout(service: _Service) -> str:
    if not service.interface.takes_socket or not service.config.idle_timeout:
        return ""
    return "a socketserver handler has the socket itself, whose limit is idle-timeout"


def _defer_accept(service: _Service) -> str:
    if why := _no_http(service):
        return why
    made = service.kinds & {"tcp", "tcp6"}
    return "" if made else "it is for TCP sockets that forkd makes, and there are none"


def _backlog(service: _Service) -> str:
    return "" if service.kinds - {"fd"} else "whoever has passed the sockets has set theirs"


def _shed_after(service: _Service) -> str:
    if why := _no_http(service):
        return why
    if service.row.pooled or service.config.threads > 1 or service.kinds != {"unix"}:
        return ""
    return "how long a request has waited in a unix socket is not known"


def _accept(service: _Service) -> str:
    return f"under {service.row.name} the master accepts" if service.row.master_accepts else ""


def _dispatch(service: _Service) -> str:
    if service.row.master_accepts:
        return ""
    which = " and ".join(row.name for row in registry.MODELS if row.master_accepts)
    return f"under {service.row.name} children accept by themselves; {which} have a dispatcher"


def _handoff(service: _Service) -> str:
    wanted = "half-sync-half-reactive"
    return "" if service.row.name == wanted else f"only {wanted} has a choice, not {service.row.name}"


def _io_fallback(service: _Service) -> str:
    return "" if service.io == "io_uring" else f"it is for io_uring, and the io is {service.io}"


def _worker_connections(service: _Service) -> str:
    wanted, io = service.config.worker_connections, service.io
    if io == "blocking" and not service.row.forks:
        return "with blocking io a child has one connection at a time"
    if service.row.forks and wanted > MAX_PROCESSES:
        return f"{service.row.name} has {MAX_PROCESSES} for each worker at most"
    most = {"aio": MAX_CLIENTS, "select": SELECT_CLIENTS}.get(io, wanted)
    return f"{io} has {most} for each worker at most" if wanted > most else ""


def _scale_down_after(service: _Service) -> str:
    workers = service.config.workers
    return "" if workers.min < workers.max else f"the number of workers is fixed ({workers}), and no MIN:MAX"


def _preload(service: _Service) -> str:
    alone = service.config.preload and service.config.app is None
    return "there is no application, but the built-in one" if alone else ""


def _access_log_format(service: _Service) -> str:
    if service.config.access_log is None:
        return _no_http(service) or "there is no access log (--access-log none)"
    json = service.config.log_format == "json"
    return _no_http(service) or ("log-format is json, which has all fields" if json else "")


def _no_admin(service: _Service) -> str:
    return "" if service.config.admin else "there is no admin endpoint (--admin none)"


#: Each with why it has no effect, or "".
_UNUSED: dict[str, Callable[[_Service], str]] = {
    "accept": _accept,
    "backlog": _backlog,
    "defer_accept": _defer_accept,
    "dispatch": _dispatch,
    "handoff": _handoff,
    "io_fallback": _io_fallback,
    "preload": _preload,
    "scale_down_after": _scale_down_after,
    "worker_connections": _worker_connections,
    "timeout": _timeout,
    "idle_timeout": _no_stream,
    "write_timeout": _write_timeout,
    "shed_after": _shed_after,
    "keep_alive": _no_http,
    "header_timeout": _no_http,
    "body_timeout": _no_http,
    "limit_request_line": _no_http,
    "limit_request_field_size": _field_size,
    "limit_request_fields": _no_http,
    "limit_request_head": _no_http,
    "limit_request_body": _no_http,
    "body_buffer": _body_buffer,
    "lag_limit": _no_loop,
    "lifespan": _no_asgi,
    "loop": _no_loop,
    "lifespan_context": _no_asgi,
    "root_path": _no_asgi,
    "ws_deflate": _no_asgi,
    "ws_max_message": _no_asgi,
    "ws_origins": _no_asgi,
    "ws_ping_interval": _no_asgi,
    "ws_ping_timeout": _no_asgi,
    "drain_spread": _no_asgi,
    "drain_streams": _no_asgi,
    "request_task": _no_asgi,
    "asgi_extensions": _no_asgi,
    "access_log": _no_http,
    "access_log_format": _access_log_format,
    "allowed_hosts": _no_http,
    "early_hints": _no_http,
    "request_ids": _no_http,
    "limit_concurrency": _no_http,  # WSGI refuses it (app/interfaces.py)
    "request_timeout": _no_http,
    "server_timing": _shed_after,
    "server_header": _no_http,
    "admin_hosts": _no_admin,
    "admin_queries": _no_admin,
    "admin_token_file": _no_admin,
}
_BY_ATTR = {row.attr: row for row in OPTIONS}


def _written(value: object) -> str:
    """The value as an operator would write it."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else show(value)


def unused(config: Config, interface: str) -> list[str]:
    """A sentence for each option that was set and has no effect. `interface`: the name of its row."""
    found = []
    speaks = interfaces.named(interface)
    if speaks is None:
        return []  # no worker has said it yet
    service = _Service(config, speaks)
    for attr, where in config.origins.items():
        why = _UNUSED[attr](service) if attr in _UNUSED else ""
        if why:
            name, value = _BY_ATTR[attr].name, getattr(config, attr)
            found.append(f"{name} = {_written(value)} has no effect: {why} ({where})")
    return found
