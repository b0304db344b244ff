"""The admin endpoint: a small HTTP server on a listener of its own, inside the master's loop.

It answers also when every child is stuck, which is when one wants to look. One request per
connection, bounded in size, number and time (system/places.py); only GET and HEAD. The health
listener is another one, with the pages for probes alone.

A client that sends the line `agent` instead of a request gets a line, without HTTP: that is HAProxy's
agent-check with `agent-send`. It says what `/readyz` does, and more (docs/decisions/0071-agent.md).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from forkd import __version__
from forkd.http.guard import Request
from forkd.http.limits import Limits, Refused
from forkd.http.request import RequestParser
from forkd.http.response import bodiless, error, head
from forkd.metrics.access import Access
from forkd.metrics.collector import Sample
from forkd.system import sockets
from forkd.system.address import Address
from forkd.system.loop import Loop
from forkd.system.places import BACKLOG, Client, Places
from forkd.system.socket_files import Permissions

_LIMITS = Limits(line=1024, fields=50, head=8192, body=0)
_MAX_CLIENTS = 64
#: No request begins like this: methods are upper case.
_AGENT = b"agent\n"


class Source(Protocol):
    """The source of the answers: the master."""

    def status(self) -> dict[str, Any]: ...
    def not_ready(self) -> str: ...
    def agent(self) -> str: ...
    def samples(self) -> Sample: ...
    def access(self) -> Access: ...


class Answer(NamedTuple):
    status: str
    content_type: str
    body: bytes


class Page(NamedTuple):
    show: Callable[[Source, str], Answer]
    public: bool  # for probes: whatever their Host, and without a token


class AdminServer:
    def __init__(
        self, listener: sockets.Listener, loop: Loop, source: Source, pages: Mapping[bytes, Page]
    ) -> None:
        self._pages = pages
        self.name = listener.name
        self.listener = listener
        self._source = source
        self._sock = listener.sockets[0]
        self._parsers: WeakKeyDictionary[Client, RequestParser] = WeakKeyDictionary()
        self._places = Places(self._sock, loop, _MAX_CLIENTS, self._heard, lingers=True)

    def open(self) -> None:
        """Begin to answer."""
        self.listener.own()
        self._places.open()

    def restore(self) -> bool:
        """Make the socket again if its file was removed or replaced. Returns whether it was. Raises
        BindError."""
        if not self.listener.unlinked:
            return False
        old, self._sock = self._sock, sockets.listen_anew(self.listener, 0) or self._sock
        self.listener.sockets[0] = self._sock
        self._places.move(self._sock)
        old.close()
        return True

    def fileno(self) -> int:
        return self._sock.fileno()

    @classmethod
    def at(
        cls,
        address: Address | None,
        handed: int | None,
        loop: Loop,
        source: Source,
        pages: Mapping[bytes, Page],
        permissions: Permissions,
        file: int | None = None,
    ) -> AdminServer | None:
        """One at `address`, if there is to be one. `handed`: the descriptor of the one that an upgrade has
        handed over, and `file` the inode of its socket file. `permissions`: of the file of a unix socket.
        Raises BindError."""
        if address is None:
            if handed is not None:
                os.close(handed)
            return None
        if handed is None:
            listener = sockets.listen(address, BACKLOG, permissions=permissions)
        else:
            listener = sockets.handed_over(handed, address, BACKLOG, file, permissions)
        return cls(listener, loop, source, pages)

    def forget(self) -> None:
        """In a child: close our copies, leave the listener to the master."""
        self._places.forget()
        self._sock.close()

    def close(self) -> None:
        self._places.close()
        self.listener.close()

    def hand_over(self) -> None:
        """Another master answers from now on, and a socket file is its."""
        self.listener.unix_inode = None
        self.close()

    def _heard(self, client: Client, data: bytes) -> None:
        if data and client not in self._parsers:
            data = client.data = client.data + data
            if data == _AGENT:
                line = self._source.agent().encode("utf-8", "backslashreplace") + b"\n"
                self._places.answer(client, line)
            if _AGENT.startswith(data):
                return
        parser = self._parsers.setdefault(client, RequestParser(_LIMITS))
        try:
            request = parser.feed(data) if data else None
        except Refused as refused:
            self._places.answer(client, error(refused.status, refused.reason))
            return
        if not data:
            self._places.drop(client)
        elif request is not None:
            self._places.answer(client, self._answer(request))

    def _answer(self, request: Request) -> bytes:
        page = self._pages.get(request.path)
        if not (page.public if page else self._all_public()):
            refusal = self._source.access().refusal(request)
            if refusal is not None:
                return refusal
        if request.method not in ("GET", "HEAD"):
            return error(405, "only GET and HEAD are served here", method=request.method)
        if page is None:
            known = ", ".join(sorted(path.decode() for path in self._pages))
            return error(404, f"the pages here are {known}", method=request.method)
        accept = b",".join(v for n, v in request.headers if n.lower() == b"accept").decode(
            "latin-1"
        )
        answer = page.show(self._source, accept)
        lines = head(
            answer.status,
            [("Content-Type", answer.content_type), ("Cache-Control", "no-store")],
            time.time(),
            length=len(answer.body),
            keep_alive=False,
        )
        return lines if bodiless(200, request.method) else lines + answer.body

    def _all_public(self) -> bool:
        return all(page.public for page in self._pages.values())


# ---- the pages ----------------------------------------------------------------------------

_TEXT = "text/plain; charset=utf-8"


def _metrics(source: Source, accept: str) -> Answer:
    try:
        from forkd.metrics.exposition import encode
    except ImportError as failed:  # the packages may have been removed under a running master
        text = f"{failed}: install forkd's packages again, then forkd upgrade\n"
        return Answer("500 Internal Server Error", _TEXT, text.encode())
    body, content_type = encode(source.samples(), accept)
    return Answer("200 OK", content_type, body)


def _healthz(source: Source, accept: str) -> Answer:
    return Answer("200 OK", _TEXT, b"ok\n")


def _readyz(source: Source, accept: str) -> Answer:
    why = source.not_ready()
    if why:
        return Answer(
            "503 Service Unavailable", _TEXT, why.encode("utf-8", "backslashreplace") + b"\n"
        )
    return Answer("200 OK", _TEXT, b"ok\n")


def _status(source: Source, accept: str) -> Answer:
    return Answer(
        "200 OK", "application/json", json.dumps(source.status(), indent=1).encode() + b"\n"
    )


def _page(source: Source, accept: str) -> Answer:
    """A plain page for a person with a browser."""
    status = source.status()
    master = status["master"]
    name = escape(master["name"])
    title = "forkd status" if name == "forkd" else f"{name}: forkd status"
    columns = (
        "slot",
        "pid",
        "state",
        "role",
        "requests",
        "connections",
        "suspended",
        "websockets",
        "rss_bytes",
        "busy_for",
        "request",
        "blocked",
    )
    header = "".join(f"<th>{name}</th>" for name in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(worker[name])}</td>" for name in columns) + "</tr>"
        for worker in status["workers"]
    )
    facts = "".join(f"<li>{escape(text)}</li>" for text in _facts(status))
    queues = "".join(
        f"<li>{escape(x['address'])}: {x['accept_queue']} of {x['backlog']} waiting</li>"
        for x in status["listeners"]
    )
    links = " ".join(f'<a href="{p.decode()}">{p.decode()}</a>' for p in PAGES if p != b"/")
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem}td,th{padding:.2em .8em;"
        "text-align:left;border-bottom:1px solid #8884}</style>"
        f"<h1>{name}</h1><p>forkd {__version__} is {escape(master['state'])}"
        f"{escape(': ' + master['why'] if master['why'] else '')}; pid {master['pid']}, generation "
        f"{master['generation']}, model {escape(master['model'])}, io {escape(master['io'])}.</p>"
        f"<ul>{facts}{queues}</ul><table><tr>{header}</tr>{rows}</table><p>{links}</p></html>\n"
    )
    return Answer("200 OK", "text/html; charset=utf-8", text.encode("utf-8", "backslashreplace"))


def _facts(status: dict[str, Any]) -> Iterator[str]:
    """The facts that `forkd status` shows above its table. /status.json has all of them."""
    master, totals = status["master"], status["totals"]
    loop = f", loop {master['loop']}" if master["loop"] else ""
    interface = f" ({master['interface']}{loop})" if master["interface"] else ""
    yield f"app: {master['app'] or 'the built-in one'}{interface}"
    ready = sum(worker["state"] == "ready" for worker in status["workers"])
    yield f"workers: {ready} ready, {master['workers_wanted']} wanted"
    errors = sum(number for code, number in totals["codes"].items() if code >= "500")
    yield f"answered: {totals['requests']} requests, {errors} of them 5xx"
    died = ", ".join(f"{number} {reason}" for reason, number in totals["untimely"].items())
    yield f"workers that died: {died}" if died else "no worker has died"
    for unit in status["storage"]:
        yield f"storage {unit['name']}: {unit['place']}, {unit['hits']} hits, {unit['misses']} misses"


def _cell(value: object) -> str:
    if isinstance(value, dict):  # "blocked"
        value = f"{value['seconds']} s by {value['by'] or 'what is not known'}"
    return "-" if value is None else escape(str(value))


PAGES: dict[bytes, Page] = {
    b"/": Page(_page, public=False),
    b"/metrics": Page(_metrics, public=False),
    b"/healthz": Page(_healthz, public=True),
    b"/readyz": Page(_readyz, public=True),
    b"/status.json": Page(_status, public=False),
}
HEALTH_PAGES = {path: page for path, page in PAGES.items() if page.public}
