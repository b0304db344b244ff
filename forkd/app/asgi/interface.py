"""ASGI as an interface: its sessions, and its life in the loop of a worker, from startup to shutdown.

Made by app/interfaces.py; worker/main.py lives it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

from forkd.app.asgi.drain import Drain
from forkd.app.asgi.lifespan import Lifespan
from forkd.app.asgi.requests import Application, Requests
from forkd.app.asgi.streams import Reconnecting
from forkd.config import Config
from forkd.session.http1 import Exchanges, Http1
from forkd.session.seam import Host
from forkd.session.shed import Shedding

#: Seconds for lifespan.shutdown, beyond --graceful-timeout.
SHUTDOWN_SECONDS = 5.0


class Asgi(Http1):
    """An Interface (session/seam.py), and Living (worker/asyncio_loop.py)."""

    def __init__(self, app: Application, config: Config, host: Host, worker: int) -> None:
        self._requests = Requests(app, config, host, worker)
        served: Exchanges = self._requests
        if config.shed_after:
            served = Shedding(served, config, host)
        super().__init__(served, config, host)
        self._lifespan = Lifespan(app, config.lifespan, host.log, lambda: self.failed())
        self._shared = config.lifespan_context
        streams = Reconnecting(config.drain_streams or "")
        self._drain = Drain(self._requests, config.graceful_timeout, config.drain_spread, streams)
        self.failed: Callable[[], Any] = lambda: None
        self.tasks = ""

    def retire(self) -> None:
        super().retire()
        self._drain.begin()

    # ---- in the loop ----------------------------------------------------------------------

    async def startup(self, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        """Before the worker accepts. Raises AppError."""
        self._requests.enter(loop, context)
        await self._lifespan.startup(loop, context if self._shared else context.copy())
        self._requests.started(self._lifespan.state)
        self._requests.look()
        self.tasks = self._requests.task_kind

    async def shutdown(self) -> None:
        """When the last connection is gone."""
        await self._drain.wait_for_tasks()
        await self._lifespan.shutdown(SHUTDOWN_SECONDS)
