"""What the control socket and the admin endpoint ask of the master, as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from forkd.errors import ForkdError
from forkd.metrics.collector import Sample, gather
from forkd.supervise import status
from forkd.supervise.control import Request

if TYPE_CHECKING:
    from forkd.supervise.master import Master


def _status(master: Master, request: Request) -> None:
    request.answer(status=status.report(master))


def _reload(master: Master, request: Request) -> None:
    master.reload(request)


def _upgrade(master: Master, request: Request) -> None:
    master.upgrade(request)


def _scale(master: Master, request: Request) -> None:
    by, to = request.arguments.get("by"), request.arguments.get("to")
    want = master.generation.want + int(by) if by is not None else int(to or 0)
    request.answer(workers=master.scale(want))


def _sources(master: Master, request: Request) -> None:
    """For `forkd restart`: what this master was started with."""
    request.answer(sources=asdict(master.sources), activated=bool(master.launch.activated))


VERBS: dict[str, Callable[[Master, Request], None]] = {
    "status": _status,
    "reload": _reload,
    "upgrade": _upgrade,
    "scale": _scale,
    "sources": _sources,
}


def handle(master: Master, request: Request) -> None:
    verb = VERBS.get(request.verb)
    if verb is None:
        raise ForkdError(f"unknown verb {request.verb!r}: one of {', '.join(VERBS)}")
    verb(master, request)


class Admin:
    """What the admin endpoint shows. Implements `metrics.admin.Source`."""

    def __init__(self, master: Master) -> None:
        self._master = master

    def status(self) -> dict[str, Any]:
        return status.report(self._master)

    def not_ready(self) -> str:
        return status.why_not_ready(self._master)

    def samples(self) -> Sample:
        return gather(self._master.board, status.report(self._master), self._master.exits)
