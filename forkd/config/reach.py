"""What options are to each kind of traffic, where that is not the same for all: the table.

Read by `forkd check`, which says so of an option that was set, and by scripts/reference for docs/asgi.md.
That an option has no effect under an interface is said by models/unused.py, and not repeated here.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Reach(Enum):
    APPLIES = "applies"
    OTHERWISE = "means something else"
    NOTHING = "no effect"
    REFUSED = "refused"


class Cell(NamedTuple):
    reach: Reach = Reach.APPLIES
    words: str = ""  # what it means there, or why
    tried: str = ""  # of what is refused: flags that are


class Reaches(NamedTuple):
    """A row. WebSockets are ASGI's; `websocket` None: as of its requests."""

    wsgi: Cell = Cell()
    asgi: Cell = Cell()
    websocket: Cell | None = None

    def of(self, interface: str) -> Cell:
        """`interface`: a flag of --interface; others than these two have no row."""
        return {"wsgi": self.wsgi, "asgi": self.asgi}.get(interface, Cell())


def _otherwise(words: str) -> Cell:
    return Cell(Reach.OTHERWISE, words)


def _nothing(words: str) -> Cell:
    return Cell(Reach.NOTHING, words)


def _refused(words: str, tried: str) -> Cell:
    return Cell(Reach.REFUSED, words, tried)


_HANDSHAKE = Reaches(websocket=_otherwise("of the handshake"))
_WEBSOCKETS = Reaches(asgi=_nothing("for WebSockets"), websocket=Cell())
_MODELS = "models without a loop on one thread (`forkd models`)"
_IN_THE_LOOP = "the time for which the loop does not come round, whatever holds it"

REACHES: dict[str, Reaches] = {
    # application
    "preload": Reaches(asgi=_otherwise("the application is imported where no loop runs")),
    "ws_max_message": _WEBSOCKETS,
    "ws_deflate": _WEBSOCKETS,
    "ws_ping_interval": _WEBSOCKETS,
    "ws_ping_timeout": _WEBSOCKETS,
    "ws_origins": _WEBSOCKETS,
    "drain_spread": _WEBSOCKETS,
    "drain_streams": Reaches(websocket=_nothing("for answers")),
    # model and workers
    "model": Reaches(asgi=_refused(_MODELS, "--model reactor")),
    "io": Reaches(asgi=_refused("blocking and aio, which have no loop", "--io blocking")),
    "threads": Reaches(asgi=_refused("more than one: the loop is on one thread", "--threads 2")),
    "timeout": Reaches(asgi=_otherwise(_IN_THE_LOOP)),
    "graceful_timeout": Reaches(websocket=_otherwise("closed with 1012 before, over --drain-spread")),
    "max_requests": Reaches(websocket=_otherwise("a WebSocket is one request, when it has ended")),
    # http
    "keep_alive": Reaches(websocket=_nothing("--ws-ping-interval finds clients that are gone")),
    "header_timeout": _HANDSHAKE,
    "body_timeout": Reaches(websocket=_nothing("a message may take any time")),
    "shed_after": _HANDSHAKE,
    "limit_request_line": _HANDSHAKE,
    "limit_request_fields": _HANDSHAKE,
    "limit_request_field_size": _HANDSHAKE,
    "limit_request_head": _HANDSHAKE,
    "limit_request_body": Reaches(websocket=_nothing("--ws-max-message is its limit")),
    "early_hints": Reaches(websocket=_nothing("a handshake has one answer")),
    "server_timing": Reaches(websocket=_nothing("the answer to a handshake has no such field")),
    "request_timeout": Reaches(
        wsgi=_otherwise("the client is answered, the call goes on"),
        websocket=_otherwise("of the handshake"),
    ),
    "limit_concurrency": Reaches(
        wsgi=_refused("a worker has --threads calls at once", "--limit-concurrency 5"),
        websocket=_otherwise("of the WebSockets that are open, apart from requests"),
    ),
    # logging
    "access_log": Reaches(websocket=_otherwise("a line when it has ended, with status 101")),
}
