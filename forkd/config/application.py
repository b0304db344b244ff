"""The options of the application: what is called, how, and what its workers share.

Fields of `Config`, each a row of its table.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkd.config import options as kinds
from forkd.config.options import option
from forkd.config.storage_url import StorageUnits, StorageURL

_EXTENSION = (
    r"(http\.response\.(early_hint|trailers|pathsend|zerocopysend)|websocket\.http\.response)"
)
# What a browser can send: no path, no pattern, a name of several scripts in its form for the DNS.
_ORIGIN = r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
# A path, or a media type; nothing that no request and no answer can be equal to.
_STREAM = r"(/((?![,?#*])[!-~])*|[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*)"


@dataclass(frozen=True, kw_only=True)
class ApplicationOptions:
    # application
    app: str | None = option(
        kinds.Text(r"[^:]+(:.+)?", "module:attribute, or a module"), None,
        section="application", positional=True,
        metavar="APP",
        unset="the built-in welcome app",
        example="project.wsgi:application",
        help="the application as module:attribute; with () after it, a factory that is called; of a module "
        "alone, its application or app",
    )
    name: str = option(
        kinds.Text(r"[A-Za-z0-9_.-]+", "letters, digits, and any of _ . -"), "forkd",
        section="application", reloadable=False,
        help="name of this daemon in process titles and default file names",
    )
    interface: str | None = option(
        kinds.Choice(("wsgi", "asgi", "stream")), None,
        section="application", short="-k",
        unset="detected from the application",
        example="wsgi",
        help="how the application is called",
    )
    hooks: str | None = option(
        kinds.Text(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", "the dotted name of a module"), None,
        section="application",
        metavar="MODULE",
        unset="no hooks",
        example="project.hooks",
        help="module whose functions are called at points in the life of the daemon and its workers",
    )
    chdir: str | None = option(
        kinds.Path(), None,
        section="application",
        metavar="DIR",
        unset="the directory forkd is started in",
        example="/srv/project",
        help="directory to change to before the application is loaded: the one that has the name at a start, "
        "and at each reload",
    )

    preload: bool = option(
        kinds.Bool(), False,
        section="application",
        help="load the application once, in a process that the workers are forked from: they share its "
        "memory, and a reload loads it anew",
    )
    lifespan: str = option(
        kinds.Choice(("auto", "on", "off")), "auto",
        section="application",
        help="whether an ASGI application is told of the start and the end of its worker: if it has a "
        "lifespan, always, so that a worker does not start without one, or never",
    )
    lifespan_context: bool = option(
        kinds.Bool(), True,
        section="application",
        help="context variables that an ASGI application sets in its lifespan are set in its requests, too",
    )
    root_path: str | None = option(
        kinds.Text(r"/[^?#\s]*(\?unstripped)?", "a path, with or without ?unstripped after it"), None,
        section="application",
        metavar="PATH",
        unset="none",
        example="/api",
        help="where an ASGI application is mounted: the path that the front takes away from its requests, "
        "and that is put before theirs again; with ?unstripped after it, one that the front leaves there",
    )
    ws_max_message: int = option(
        kinds.Size(), "16M",
        section="application",
        help="bytes that a message of a WebSocket may have; a longer one closes it with 1009",
    )
    ws_ping_interval: float = option(
        kinds.Duration(), 20,
        section="application",
        help="seconds without a byte of its client after which a WebSocket is sent a ping; 0 sends none",
    )
    ws_ping_timeout: float = option(
        kinds.Duration(), 20,
        section="application",
        help="seconds for the answer to a ping, which is any byte; then the WebSocket is closed with 1011",
    )
    ws_origins: str | None = option(
        kinds.Text(rf"{_ORIGIN}(,\s*{_ORIGIN})*",
                   "origins as https://HOST or https://HOST:PORT, with commas"), None,
        section="application",
        metavar="ORIGINS",
        unset="any origin",
        example="https://example.org",
        help="origins whose pages may open a WebSocket, with commas; those of others are answered 403. "
        "Clients that send no Origin, which are no browsers, are let through",
    )
    ws_deflate: bool = option(
        kinds.Bool(), False,
        section="application",
        help="compress messages of WebSockets whose clients offer permessage-deflate: less to send for more "
        "time of the CPU, and 4 KiB more for most WebSockets",
    )
    drain_spread: float = option(
        kinds.Duration(), 10,
        section="application",
        help="seconds over which a retiring worker closes its WebSockets, so that their clients do not all "
        "come back at once; at most half of --graceful-timeout",
    )
    drain_streams: str | None = option(
        kinds.Text(rf"!?{_STREAM}(,\s*!?{_STREAM})*",
                   "media types without parameters, and paths as requests have them, without a query or *, "
                   "with commas, and ! before what is left out"), None,
        section="application",
        metavar="STREAMS",
        unset="server-sent events",
        example="application/x-ndjson, !/mcp",
        help="answers whose clients come back by themselves, besides EventSource's: media types that GET "
        "has, and paths with what is below them; with ! before it, none there. A retiring worker "
        "ends them, once they are quiet, as if they were whole; it lets all others go on",
    )
    asgi_extensions: str | None = option(
        kinds.Text(rf"!?{_EXTENSION}(,\s*!?{_EXTENSION})*",
                   "some of http.response.early_hint, http.response.trailers, http.response.pathsend, "
                   "http.response.zerocopysend and websocket.http.response, with commas, "
                   "and ! before what is left out"), None,
        section="application",
        metavar="NAMES",
        unset="all that there are",
        example="!http.response.pathsend",
        help="extensions that an ASGI application is offered, of those that the request can carry "
        "(docs/asgi.md); with ! before it, all but that",
    )
    request_task: str = option(
        kinds.Choice(("lazy", "real")), "lazy",
        section="application",
        help="the asyncio.Task of a request under ASGI: one that serves many requests as long as nobody sees "
        "it, where that is a gain and the interpreter is known; or a new one for each",
    )

    loop: str = option(
        kinds.Choice(("auto", "asyncio", "uvloop")), "auto",
        section="application",
        help="the event loop of ASGI applications and of asyncio protocols: uvloop's where it is installed, "
        "asyncio's, or uvloop's always, so that a worker does not start without it",
    )

    # storage
    storage: tuple[tuple[str, StorageURL], ...] = option(
        StorageUnits(), "none",
        section="storage", reloadable=False,
        help="what the workers share, for the application (docs/storage.md): a cache, locks, queues and "
        "limits, in shared memory, in a file or at a server; may be repeated, with NAME= before it",
    )
