"""What the control socket and the admin endpoint ask of the master, as a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from forkd.errors import ForkdError
from forkd.metrics.access import Access
from forkd.metrics.collector import Sample, gather, process_collector
from forkd.supervise import status
from forkd.supervise.control import Request

if TYPE_CHECKING:
    from forkd.supervise.master import Master


def _status(master: Master, request: Request) -> None:
    request.answer(status=status.whole(master))


def _reload(master: Master, request: Request) -> None:
    # Who is told that it is done finds it in the error log.
    master.reload(request.wait_for(master.logs.sync))


def _upgrade(master: Master, request: Request) -> None:
    master.upgrade(request)


def _scale(master: Master, request: Request) -> None:
    match request.arguments:
        case {"by": by, **others} if not others:
            want = master.generation.want + by
        case {"to": to, **others} if not others:
            want = to
        case _:
            raise ForkdError('scale takes either "by" or "to"')
    workers = master.scale(want)
    request.wait_for(master.logs.sync).answer(
        workers=workers, why=status.why_not_ready(master) if master.paused else ""
    )


def _sources(master: Master, request: Request) -> None:
    """For `forkd restart`: what this master was started with."""
    request.answer(sources=asdict(master.sources), activated=bool(master.launch.activated))


class Verb(NamedTuple):
    handle: Callable[[Master, Request], None]
    arguments: dict[str, type]  # that it may have, and of which type each is: exactly, as True is no number


VERBS: dict[str, Verb] = {
    "status": Verb(_status, {}),
    "reload": Verb(_reload, {}),
    "upgrade": Verb(_upgrade, {}),
    "scale": Verb(_scale, {"by": int, "to": int}),
    "sources": Verb(_sources, {}),
}


def handle(master: Master, request: Request) -> None:
    """Raises ForkdError for a verb or an argument that there is not, or that is of another type."""
    verb = VERBS.get(request.verb)
    if verb is None:
        raise ForkdError(f"unknown verb {request.verb!r}: one of {', '.join(VERBS)}")
    for name, value in request.arguments.items():
        kind = verb.arguments.get(name)
        if kind is None:
            raise ForkdError(f"{request.verb} has no argument {name!r}")
        if type(value) is not kind:
            raise ForkdError(
                f"{request.verb}: {name} = {json.dumps(value)[:80]}: it has to be an {kind.__name__}"
            )
    verb.handle(master, request)


class Admin:
    """What the admin endpoint shows. Implements `metrics.admin.Source`."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._process = process_collector()

    def access(self) -> Access:
        return self._master.generation.access

    def status(self) -> dict[str, Any]:
        return self.access().shown(status.whole(self._master))

    def not_ready(self) -> str:
        return self.access().shown_text(status.why_not_ready(self._master))

    def samples(self) -> Sample:
        self._master.logs.count()
        report = status.report(self._master)
        return gather(self._master.board, report, self._master.exits, self._process)
