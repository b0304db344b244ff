"""What the control socket and the admin endpoint ask of the master, as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from forkd.errors import ForkdError
from forkd.ipc.control import Command
from forkd.master.logs import Logs
from forkd.master.service import Service
from forkd.master.status import Status
from forkd.master.storage import SharedTables
from forkd.metrics.access import Access
from forkd.metrics.collector import Sample, gather


class Orders(Protocol):
    """What the master does when it is told to. Each may raise ForkdError."""

    def reload(self, command: Command) -> None: ...
    def upgrade(self, command: Command) -> None: ...
    def scale(self, want: int) -> int: ...


class Asked(NamedTuple):
    """What a verb works with."""

    service: Service
    status: Status
    logs: Logs
    orders: Orders
    shared: SharedTables
    command: Command


def _status(asked: Asked) -> None:
    asked.command.answer(status=asked.status.whole())


def _reload(asked: Asked) -> None:
    # Who is told that it is done finds it in the error log.
    asked.orders.reload(asked.command.wait_for(asked.logs.sync))


def _upgrade(asked: Asked) -> None:
    asked.orders.upgrade(asked.command)


def _scale(asked: Asked) -> None:
    match asked.command.arguments:
        case {"by": by, **others} if not others:
            want = asked.service.generation.want + by
        case {"to": to, **others} if not others:
            want = to
        case _:
            raise ForkdError('scale takes either "by" or "to"')
    workers = asked.orders.scale(want)
    why = asked.status.why_not_ready() if asked.service.paused else ""
    asked.command.wait_for(asked.logs.sync).answer(workers=workers, why=why)


def _sources(asked: Asked) -> None:
    """For `forkd restart`: what this master was started with."""
    service = asked.service
    asked.command.answer(
        sources=asdict(service.sources), activated=bool(service.launch.activated)
    )


def _storage(asked: Asked) -> None:
    """For `forkd storage`: where the units are, with the passwords, and this process' descriptors of those in
    shared memory. Whoever may ask may read the configuration."""
    units = asked.shared.units(asked.service.generation.config)
    asked.command.answer(
        pid=os.getpid(), places=dict(units.places), tables=dict(units.tables), page=units.page
    )


class Verb(NamedTuple):
    handle: Callable[[Asked], None]
    arguments: dict[str, type]  # that it may have, and of which type each is: exactly, as True is no number


VERBS: dict[str, Verb] = {
    "status": Verb(_status, {}),
    "reload": Verb(_reload, {}),
    "upgrade": Verb(_upgrade, {}),
    "scale": Verb(_scale, {"by": int, "to": int}),
    "sources": Verb(_sources, {}),
    "storage": Verb(_storage, {}),
}


def handle(asked: Asked) -> None:
    """Raises ForkdError for a verb or an argument that there is not, or that is of another type."""
    command = asked.command
    verb = VERBS.get(command.verb)
    if verb is None:
        raise ForkdError(f"unknown verb {command.verb!r}: one of {', '.join(VERBS)}")
    for name, value in command.arguments.items():
        kind = verb.arguments.get(name)
        if kind is None:
            raise ForkdError(f"{command.verb} has no argument {name!r}")
        if type(value) is not kind:
            raise ForkdError(
                f"{command.verb}: {name} = {json.dumps(value)[:80]}: it has to be an {kind.__name__}"
            )
    verb.handle(asked)


class Admin:
    """What the admin endpoint shows. Implements `metrics.admin.Source`."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def access(self) -> Access:
        return self._status().service.generation.access

    def status(self) -> dict[str, Any]:
        return self.access().shown(self._status().whole())

    def not_ready(self) -> str:
        return self.access().shown_text(self._status().why_not_ready())

    def agent(self) -> str:
        return self.access().shown_text(self._status().agent())

    def samples(self) -> Sample:
        status = self._status()
        status.logs.count()
        return gather(status.service.board, status.report(), status.exits)
