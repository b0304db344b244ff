"""Signals and verbs: what the operator and the kernel ask of the master, brought to what does it.

Which signals there are is in `signals`, and which verbs in `verbs`. What an order comes to, master/main.py
decides. In the master.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Protocol

from forkd.errors import ForkdError
from forkd.ipc.control import Command
from forkd.master import stand_in, verbs
from forkd.master.parts import Parts
from forkd.master.service import Service
from forkd.master.signals import SIGNALS
from forkd.system.loop import QUIET

_DOES = {row.number: row.does for row in SIGNALS}
#: Signals that this process needs for its own last children, when a new master serves.
_OURS = ("quit", "reopen", "reap")


class Orders(Protocol):
    """What master/main.py decides. Each may raise ForkdError."""

    def stop(self) -> None: ...
    def quit(self) -> None: ...
    def reload(self, command: Command | None = None) -> None: ...
    def upgrade(self, command: Command | None = None) -> None: ...
    def scale(self, want: int, pause: bool = False) -> int: ...


class Operator:
    def __init__(self, service: Service, parts: Parts, orders: Orders, reap: Callable[[], None]) -> None:
        self._service = service
        self._parts = parts
        self._orders = orders
        #: By `SignalRow.does`.
        self.does: dict[str, Callable[[], object]] = {
            "stop": orders.stop,
            "quit": orders.quit,
            "reload": orders.reload,
            "reopen": parts.logs.reopen,  # log files were rotated
            "upgrade": orders.upgrade,
            "pause": lambda: orders.scale(0, pause=True),  # until they are asked for again
            "more": lambda: orders.scale(service.generation.want + 1),
            "fewer": lambda: orders.scale(max(0, service.generation.want - 1)),
            "ring": parts.leadership.ring,  # SIGIO: a client waits
            "reap": reap,
        }

    def on_signals(self) -> object:
        """Returns QUIET if all of them did."""
        service, news = self._service, False
        for number in self._parts.signals.read():
            name = _DOES[signal.Signals(number)]
            if service.handed_over and service.launch.stays:
                config = service.generation.config
                stand_in.forward(number, config.pidfile, config.control)
                if name not in _OURS:
                    continue
            try:
                news = self.does[name]() is not QUIET or news
            except ForkdError as error:
                news = True
                service.log.error(f"{signal.Signals(number).name}: {error}")
        return None if news else QUIET

    def on_command(self, command: Command) -> None:
        parts = self._parts
        try:
            asked = verbs.Asked(
                self._service, parts.status, parts.logs, self._orders, parts.shared, command
            )
            verbs.handle(asked)
        except (ForkdError, ValueError, TypeError) as error:
            command.refuse(str(error))
