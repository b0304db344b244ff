"""What is said when the service answers, to the log and to whoever has started it. In the master."""

from __future__ import annotations

import os

from forkd import __version__
from forkd.app import interfaces
from forkd.master.endpoints import Endpoints
from forkd.master.service import Service
from forkd.models import registry
from forkd.system.address import page_at
from forkd.system.output import native_or_not, tasks_said


def lines(service: Service, endpoints: Endpoints) -> list[str]:
    """What serves, where, and where to look."""
    generation, config = service.generation, service.generation.config
    where = ", ".join(
        f"{listener.name} ({begin.protocol})" if begin.protocol else _url(listener.name, generation.interface)
        for listener, begin in generation.begins.items()
    )
    io = registry.io_of(config.model, config.io)
    loop = f", loop {generation.loop}" if generation.loop else ""
    found = [
        f"forkd {__version__} serves {config.app or 'the built-in welcome app'} on {where}",
        f"model {config.model}, io {io}{loop}, workers {config.workers}, master pid {os.getpid()}, "
        f"{native_or_not(registry.without_native(config))}{tasks_said(generation.tasks)}",
    ]
    if service.sources.path is not None:
        found.append(f"configuration: {service.sources.path}")
    if endpoints.admin is not None:
        found.append(f"metrics on {page_at(endpoints.admin.name, '/metrics')}")
    if endpoints.health is not None:
        found.append(f"health on {page_at(endpoints.health.name, '/readyz')}")
    if service.launch.error_log:
        found.append(f"error log: {service.launch.error_log}")
    return found


def _url(name: str, interface: str) -> str:
    speaks = interfaces.named(interface)
    http = speaks is None or speaks.http
    return f"http://{name}/" if http and not name.startswith("unix:") else name
