"""What proxies say of a request and of a WebSocket, as an ASGI application has it: over the vectors of WSGI
that a peer on this machine can send, over sockets, with and without native code."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.process.conftest import Daemon
from tests.session.fronts import LOCAL, ROWS, USUAL, head_of
from tests.session.test_asgi_fronts import UPGRADE, in_words_of_wsgi, wanted_of

from .conftest import dial, take

HERE = [row for row in ROWS if row[3:] == ("127.0.0.1", LOCAL, USUAL, "drop")]
OWN = ("REMOTE_PORT", "SERVER_PORT", "SERVER_NAME")


@pytest.fixture(scope="module", params=["--native", "--no-native"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    service = Daemon(tmp_path_factory.mktemp("proxies"))
    take(service, "asgi_site")
    service.write_app("""
        import json
        from asgi_site import answer

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                return
            text = json.dumps(
                {k: v for k, v in scope.items() if k != "state"}, default=lambda data: data.decode("latin-1")
            )
            if scope["type"] == "http":
                await answer(send, text)
            else:
                await send({"type": "websocket.accept"})
                await send({"type": "websocket.send", "text": text})
    """)
    service.start("-w", "1", request.param)
    yield service
    service.finish()


def scope_of(service: Daemon, fields: list[tuple[str, str]], until: bytes) -> dict[str, object]:
    with dial(service) as client:
        client.sendall(head_of(fields).replace(b"GET /a", b"GET /facts"))
        read = b""
        while not read.endswith(until):
            data = client.recv(65536)
            assert data, read
            read += data
    scope = json.loads(b"{" + read.partition(b"{")[2].removesuffix(b"\x88\x02\x03\xe8"))
    scope["headers"] = [(name.encode(), value.encode("latin-1")) for name, value in scope["headers"]]
    scope["raw_path"], scope["query_string"] = scope["raw_path"].encode(), scope["query_string"].encode()
    return dict(scope)


def test_what_the_application_sees(site: Daemon) -> None:
    for row in HERE:
        for upgrade, end in ([], b"}"), (UPGRADE, b"\x88\x02\x03\xe8"):
            fields = [*upgrade, *row.fields]
            wanted = wanted_of(row, fields)
            scope = scope_of(site, fields, end)
            if upgrade:
                wanted["wsgi.url_scheme"] = {"http": "ws", "https": "wss"}[wanted["wsgi.url_scheme"]]
            found = in_words_of_wsgi(scope)
            assert found.pop("PATH_INFO") == "/facts"
            del wanted["PATH_INFO"]
            # Where no proxy says more, these are the connection's own.
            for name, usual in zip(OWN, ("40000", "8000", "127.0.0.1"), strict=True):
                if wanted[name] == usual:
                    del wanted[name], found[name]
            assert found == wanted, row.id
