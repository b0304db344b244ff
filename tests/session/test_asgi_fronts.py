"""What proxies say of a request, as an ASGI application has it in its scope, and so of a WebSocket: over the
table of fronts.py, in which it is said in WSGI's words. tests/apps/test_asgi_proxies.py has the same over
sockets.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from typing import Any

import pytest

from forkd.app.asgi.interface import Asgi
from forkd.config import Config
from forkd.system.networks import Networks
from tests.session.fronts import ROWS, Row, Served, head_of
from tests.session.fronts import Peer as WsgiPeer

UPGRADE = [
    ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]  # fmt: skip


class Peer(WsgiPeer):
    def send(self, data: bytes, more: bool = False) -> int:
        return len(data)

    def wake(self) -> None:
        """The test resumes the session."""


class AsgiServed(Served):
    """As Served, of an ASGI application: the scopes."""

    def __init__(self, of: Row, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(of, False)
        self.scopes: list[dict[str, Any]] = []
        self._loop = loop
        config = Config(
            forwarded_allow=Networks.parse(of.allow), forwarded_fields=of.chosen,
            forwarded_untrusted=of.untrusted, native=False, lifespan="off", **options,
        )  # fmt: skip
        self.peer = Peer(of.peer)
        self._interface = interface = Asgi(self._asgi, config, self, 1)  # type: ignore[arg-type, assignment]
        started = interface.startup(loop, contextvars.copy_context())  # type: ignore[attr-defined]
        loop.run_until_complete(started)

    async def _asgi(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    def scope(
        self, fields: list[tuple[str, str]], proxy: Any = None, asked: str = "GET /a"
    ) -> dict[str, Any]:
        """That of a request, on a connection of its own, of which a proxy has said this."""
        self.restart(proxy)
        try:
            self._session.send(head_of(fields, asked=asked))
        except StopIteration as stop:  # a WebSocket takes the connection over
            self._session = stop.value.session
            self._session.send(None)
        for _ in range(3):
            self._loop.run_until_complete(asyncio.sleep(0))
        self._session.close()
        return self.scopes.pop()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def in_words_of_wsgi(scope: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, str] = {}
    for name, value in scope["headers"]:
        if b"_" in name:  # WSGI has none; here those of proxies are left out
            assert not name.startswith(b"x_")
            continue
        key = "HTTP_" + name.decode().upper().replace("-", "_")
        fields[key] = ",".join([*([fields[key]] if key in fields else []), value.decode("latin-1")])
    client, port = scope["client"] or ("", 0)
    name, number = scope["server"]
    prefix = scope["root_path"]
    assert scope["path"].startswith(prefix) and scope["raw_path"].decode() == scope["path"]
    return fields | {
        "REMOTE_ADDR": client, "REMOTE_PORT": str(port), "wsgi.url_scheme": scope["scheme"],
        "SERVER_NAME": name, "SERVER_PORT": str(number), "SCRIPT_NAME": prefix,
        "PATH_INFO": scope["path"].removeprefix(prefix), "QUERY_STRING": scope["query_string"].decode(),
        "REQUEST_METHOD": scope.get("method", "GET"),
    }  # fmt: skip


def wanted_of(row: Row, fields: list[tuple[str, str]]) -> dict[str, Any]:
    """What a WSGI application sees, where the scope has a word for it."""
    served = Served(row, False)
    served.send(head_of(fields))
    environ = served.environs.pop()
    known = ("REMOTE_", "HTTP_", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING",
             "REQUEST_METHOD", "wsgi.url_scheme")  # fmt: skip
    wanted = {key: value for key, value in environ.items() if key.startswith(known)}
    if not environ["REMOTE_ADDR"]:
        wanted["REMOTE_PORT"] = "0"  # client is None
    return wanted


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_what_the_application_sees(row: Row, loop: asyncio.AbstractEventLoop) -> None:
    served = AsgiServed(row, loop)
    wanted = wanted_of(row, row.fields)
    scope = served.scope(row.fields)
    assert scope["type"] == "http"
    assert in_words_of_wsgi(scope) == wanted
    assert scope["extensions"]["forkd"]["peer"] == row.peer
    handshake = [*UPGRADE, *row.fields]
    wanted = wanted_of(row, handshake)
    scope = served.scope(handshake)
    assert scope["type"] == "websocket"
    assert scope["scheme"] == {"http": "ws", "https": "wss"}[wanted.pop("wsgi.url_scheme")]
    seen = in_words_of_wsgi(scope)
    del seen["wsgi.url_scheme"]
    assert seen == wanted
    # What one request says stays with it.
    assert in_words_of_wsgi(served.scope([])) == wanted_of(row, [])


@pytest.mark.parametrize(("said", "scheme"), [({"tls": "TLSv1.3"}, "https"), ({}, "http")])
def test_what_a_proxy_says_of_the_connection(
    said: dict[str, str], scheme: str, loop: asyncio.AbstractEventLoop
) -> None:
    proxy = {"peer": ("192.0.2.9", 5), "ssl": said}
    served = AsgiServed(Row("", [], {}), loop)
    for fields, wanted in ([], scheme), (UPGRADE, {"https": "wss", "http": "ws"}[scheme]):
        scope = served.scope(fields, proxy)
        assert scope["scheme"] == wanted
        assert scope["extensions"]["forkd"]["proxy"] == proxy
        assert scope["extensions"]["forkd"]["peer"] == "192.0.2.9"
        scope["extensions"]["forkd"]["proxy"]["ssl"].clear()  # is of this request alone
        scope["extensions"]["forkd"]["proxy"].clear()
    # A field of a trusted front counts more: it has seen the client.
    assert served.scope([("X-Forwarded-Proto", "http")], proxy)["scheme"] == "http"


@pytest.mark.parametrize(
    ("root", "fields", "expected"),
    [
        ("/api", [], ("/api", "/api/a", b"/api/a")),
        ("/api/", [], ("/api", "/api/a", b"/api/a")),
        ("/", [], ("", "/a", b"/a")),
        ("/a", [], ("/a", "/a/a", b"/a/a")),  # a path that begins so is no sign that the front leaves it
        ("/é x", [], ("/é x", "/é x/a", b"/%C3%A9%20x/a")),
        ("/api?unstripped", [], ("/api", "/a", b"/a")),
        ("/a?unstripped", [], ("/a", "/a", b"/a")),
        ("/api", [("X-Forwarded-Prefix", "/front")], ("/front", "/front/a", b"/front/a")),
        ("/api?unstripped", [("X-Forwarded-Prefix", "/front")], ("/front", "/front/a", b"/front/a")),
        ("/api", [("X-Forwarded-Prefix", "//evil")], ("/api", "/api/a", b"/api/a")),
    ],
)  # fmt: skip
def test_where_it_is_mounted(
    root: str,
    fields: list[tuple[str, str]],
    expected: tuple[str, str, bytes],
    loop: asyncio.AbstractEventLoop,
) -> None:
    served = AsgiServed(Row("", [], {}), loop, root_path=root)
    for asked, path in (("OPTIONS *", "*"), ("CONNECT a.example:1", "a.example:1")):
        scope = served.scope(fields, asked=asked)
        assert (scope["root_path"], scope["path"], scope["raw_path"]) == (expected[0], path, path.encode())
    absolute = served.scope(fields, asked="GET http://a.example/a")
    assert (absolute["path"], absolute["raw_path"]) == expected[1:]
    for scope in (served.scope(fields), served.scope([*UPGRADE, *fields])):
        assert (scope["root_path"], scope["path"], scope["raw_path"]) == expected
    stranger = AsgiServed(Row("", [], {}, peer="192.0.2.1"), loop, root_path=root)
    own = root.partition("?")[0].rstrip("/")
    assert stranger.scope([("X-Forwarded-Prefix", "/front")])["root_path"] == own
