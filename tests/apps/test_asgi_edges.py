"""Edges of ASGI's HTTP, each by what its client and its application see; native code and its twin."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from tests.process.conftest import Daemon, until

from .conftest import FAILURES, dial, read_all

APP = """
    import asyncio, json, threading

    KEPT = []
    SHARED = []

    def start(status=200, *fields):
        return {"type": "http.response.start", "status": status, "headers": list(fields)}

    def body(data, more=False):
        return {"type": "http.response.body", "body": data, "more_body": more}

    def length(count):
        return b"content-length", str(count).encode()

    async def longer(scope, receive, send):
        await send(start(200, length(5)))
        await send(body(b"four", True))
        await send(body(b"more"))

    async def shorter(scope, receive, send):
        await send(start(200, length(5)))
        await send(body(b"four", True))
        await send(body(b""))

    async def longer_goes_on(scope, receive, send):
        \"\"\"What was too long is not sent, and the rest may be.\"\"\"
        await send(start(200, length(5)))
        await send(body(b"four", True))
        try:
            await send(body(b"more"))
        except RuntimeError:
            await send(body(b"!"))

    async def no_body(scope, receive, send):
        status = int(scope["path"].split("/")[2])
        fields = [length(5)] if status != 204 else []
        await send(start(status, *fields))
        for _ in range(3):
            await send(body(b"these bytes are none", True))
        await send(body(b"and these"))
        print(f"no body: {status}", flush=True)

    async def sees(scope, receive, send):
        seen = []
        while True:
            message = await receive()
            seen.append(message["type"])
            if message["type"] == "http.disconnect" or not message["more_body"]:
                break
        print(f"sees {scope['path']}: {seen[-1]} and then {(await receive())['type']}", flush=True)
        await send(start())
        await send(body(b"seen"))

    async def together(scope, receive, send):
        \"\"\"Two wait; the body is one's, and the disconnect everybody's.\"\"\"
        first, second = asyncio.create_task(receive()), asyncio.create_task(receive())
        done, waiting = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        (got,) = done
        await send(start())
        await send(body(got.result()["body"]))
        (late,) = waiting
        print(f"together: {(await late)['type']} {(await receive())['type']}", flush=True)

    async def elsewhere(scope, receive, send):
        \"\"\"Sends from a task, from a thread, and from a callback.\"\"\"
        loop = asyncio.get_running_loop()
        await asyncio.create_task(send(start()))
        await asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(send(body(b"thread ", True)), loop).result()
        )
        done = loop.create_future()

        async def last():
            await send(body(b"callback"))
            done.set_result(None)

        loop.call_soon(lambda: asyncio.ensure_future(last()))
        await done

    async def state(scope, receive, send):
        shown = {name: list(value) for name, value in scope["state"].items()}
        scope["state"]["mine"] = [1]
        scope["state"]["shared"].append(len(shown["shared"]))
        await send(start())
        await send(body(json.dumps(shown).encode()))

    async def scope(scope, receive, send):
        \"\"\"What an application does to its scope is no other request's.\"\"\"
        before = json.dumps([scope["asgi"], scope["extensions"], len(scope["headers"])])
        scope["headers"].append((b"x-added", b"1"))
        scope["client"] = scope["path"] = None
        dicts = [scope["asgi"], scope["extensions"], *scope["extensions"].values()]
        for each in KEPT:
            each["kept"] = 1
        for number, each in enumerate(dicts):
            match scope["query_string"]:
                case b"adds":
                    each["added"] = 1
                case b"adds-within" if number == len(dicts) - 1:
                    each["added"] = 1
                case b"replaces":
                    for key in each:
                        each[key] = {}
                case b"moves" if each:
                    key = next(iter(each))
                    each[key] = each.pop(key)
                case b"moves-on" if len(each) > 1:
                    each.popitem()
                case b"empties":
                    each.clear()
                case b"keeps":
                    KEPT.append(each)
        await send(start())
        await send(body(before.encode()))

    async def nothing_sent(scope, receive, send):
        await send(start())

    async def empty(scope, receive, send):
        await send(start())
        await send({"type": "http.response.body"})

    async def empty_pieces(scope, receive, send):
        await send(start())
        for data in (b"", b"a", b"", b"b", b""):
            await send(body(data, True))
        await send(body(b""))

    async def kinds_of_bytes(scope, receive, send):
        class Mine(bytes):
            def __len__(self):
                return 99

        await send({"type": "http.response.start", "status": 200,
                    "headers": ((bytearray(b"x-a"), memoryview(b"1")), [Mine(b"x-b"), b"2"])})
        for data in (bytearray(b"array "), memoryview(b"view "), Mine(b"mine")):
            await send(body(data, True))
        await send(body(b""))

    async def read_twice(scope, receive, send):
        messages = [await receive(), await receive() if scope["method"] == "HEAD" else None]
        await send(start())
        await send(body(b""))

    async def cancelled_send(scope, receive, send):
        \"\"\"A wait that is cancelled leaves what it was to send, in its place.\"\"\"
        await send(start())
        for number in range(2000):
            task = asyncio.ensure_future(send(body(b"%06d" % number * 20, True)))
            await asyncio.sleep(0)
            task.cancel()
        await send(body(b"end"))

    async def app(scope_, receive, send):
        if scope_["type"] == "lifespan":
            await receive()
            scope_["state"]["shared"] = SHARED
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        name = scope_["path"].split("/")[1].replace("-", "_")
        await globals()[name](scope_, receive, send)
"""


@pytest.fixture(scope="module", params=["--native", "--no-native"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    service = Daemon(tmp_path_factory.mktemp("edges"))
    service.write_app(APP)
    service.expected_errors = [*FAILURES, "the application (failed on|returned without)", "RuntimeError"]
    service.start("-w", "1", "--limit-request-body", "100000", request.param)
    yield service
    service.finish()


def ask(
    service: Daemon, path: str, *fields: str, method: str = "GET", body: bytes = b"", version: str = "1.1"
) -> tuple[bytes, bytes]:
    with dial(service) as client:
        lines = [f"{method} {path} HTTP/{version}", "Host: a", *fields, "Connection: close", "", ""]
        client.sendall("\r\n".join(lines).encode() + body)
        head, _, rest = read_all(client).partition(b"\r\n\r\n")
        return head, rest


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_length_that_does_not_hold_breaks_off_what_has_begun(site: Daemon, version: str) -> None:
    for path in ("longer", "shorter"):
        head, body = ask(site, f"/{path}", version=version)
        assert b"Content-Length: 5" in head and body == b"four"
    assert ask(site, "/longer-goes-on", version=version)[1] == b"four!"


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [("GET", 204, False), ("GET", 304, True), ("HEAD", 200, True), ("HEAD", 204, False)],
)
def test_what_has_no_body_has_none_whatever_is_sent(
    site: Daemon, method: str, status: int, length: bool
) -> None:
    with dial(site) as client:
        head = f"{method} /no-body/{status} HTTP/1.1\r\nHost: a\r\n"
        client.sendall((head + "\r\n" + head + "Connection: close\r\n\r\n").encode())
        read = read_all(client)
    answers = read.split(b"\r\n\r\n")
    assert len(answers) == 3 and not answers[2]
    assert all(each.startswith(f"HTTP/1.1 {status} ".encode()) for each in answers[:2])
    assert (b"Content-Length: 5" in answers[0]) is length
    assert b"chunked" not in read
    until(lambda: f"no body: {status}" in site.log(), "all of its messages were taken")


@pytest.mark.parametrize(
    ("name", "fields", "body", "status", "seen"),
    [
        ("long", ["Transfer-Encoding: chunked"], b"%x\r\n%b\r\n" % (99000, bytes(99000)) + b"fffff\r\n",
         b"413", "http.disconnect"),
        ("broken", ["Transfer-Encoding: chunked"], b"3\r\nabc\r\nzz\r\n", b"400", "http.disconnect"),
    ],
)  # fmt: skip
def test_a_body_that_is_refused_is_a_disconnect(
    site: Daemon, name: str, fields: list[str], body: bytes, status: bytes, seen: str
) -> None:
    with dial(site) as client:
        lines = [f"POST /sees/{name} HTTP/1.1", "Host: a", *fields, "", ""]
        client.sendall("\r\n".join(lines).encode() + body)
        assert client.recv(65536).startswith(b"HTTP/1.1 " + status)
    until(lambda: f"sees /sees/{name}: {seen} and then http.disconnect" in site.log(), "it has seen it")


def test_several_may_wait_in_receive(site: Daemon) -> None:
    before = site.log().count("together: http.disconnect http.disconnect")
    with dial(site) as client:
        client.sendall(b"POST /together HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
        client.sendall(b"body")
        assert client.recv(65536).endswith(b"body")
        until(lambda: site.log().count("together: http.disconnect http.disconnect") > before, "both return")


def test_send_from_elsewhere(site: Daemon) -> None:
    assert ask(site, "/elsewhere")[1] == b"7\r\nthread \r\n8\r\ncallback\r\n0\r\n\r\n"


def test_state_is_a_shallow_copy(site: Daemon) -> None:
    first = json.loads(ask(site, "/state")[1])
    second = json.loads(ask(site, "/state")[1])
    assert second["shared"] == [*first["shared"], len(first["shared"])]
    assert "mine" not in second


def test_a_scope_is_of_one_request(site: Daemon) -> None:
    ways = ["adds", "adds-within", "replaces", "moves", "moves-on", "empties", "keeps", "keeps", ""]
    client = http.client.HTTPConnection(*site.address)
    bodies = []
    for way in ["", *ways, *ways[::-1]]:
        client.request("GET", f"/scope?{way}", headers={"X-Way": way})
        bodies.append(client.getresponse().read())
    client.close()
    assert set(bodies) == {bodies[0]} and b"forkd" in bodies[0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/empty", b""), ("/empty-pieces", b"ab"), ("/kinds-of-bytes", b"array view mine"),
        ("/cancelled-send", b"".join(b"%06d" % n * 20 for n in range(2000)) + b"end"),
    ],
)  # fmt: skip
def test_a_body(site: Daemon, path: str, body: bytes) -> None:
    assert ask(site, path, version="1.0")[1] == body


def test_a_start_alone_is_no_answer(site: Daemon) -> None:
    head, body = ask(site, "/nothing-sent")
    assert head.startswith(b"HTTP/1.1 500 ") and b"the application failed" in body
    said = "GET /nothing-sent HTTP/1.1: the application returned without the last http.response.body"
    until(lambda: said in site.log(), "it is in the log")


def test_headers_of_other_kinds_of_bytes(site: Daemon) -> None:
    head, _ = ask(site, "/kinds-of-bytes")
    assert b"x-a: 1\r\nx-b: 2" in head


@pytest.mark.parametrize("flag", ["--native", "--no-native"])
def test_debug_mode_of_asyncio(service: Daemon, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    service.write_app(APP)
    service.expected_errors = [*FAILURES, "the application failed on", "RuntimeError", "Executing <"]
    service.start("-w", "1", flag)
    assert ask(service, "/elsewhere")[1] == b"7\r\nthread \r\n8\r\ncallback\r\n0\r\n\r\n"
    assert ask(service, "/longer")[1] == b"four"
    assert ask(service, "/cancelled-send", version="1.0")[1].endswith(b"001999end")
    assert ask(service, "/state")[1] == b'{"shared": []}'
