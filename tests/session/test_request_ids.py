"""The names of requests, as the application, the client, the access log and the entries have them; with and
without native code."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import pytest

from forkd.http.request_id import make_id
from forkd.native import native as built
from forkd.system.hosts import Hosts
from tests.session.fronts import Row, Served

WAYS = [False] if built is None else [False, True]
MADE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
LONG = "a" * 128

#: The peer, its fields, the PROXY header's unique id, and the name; "": it is made here.
ROWS = [
    ("127.0.0.1", ["abc-1.2_X"], None, "abc-1.2_X"),
    ("127.0.0.1", [LONG], b"other", LONG),
    ("", ["over-unix"], None, "over-unix"),
    ("192.0.2.1", ["abc"], None, ""),
    ("127.0.0.1", [LONG + "a"], None, ""),
    ("127.0.0.1", [""], None, ""),
    ("127.0.0.1", ["a b"], None, ""),
    ("127.0.0.1", ["a:b"], None, ""),
    ("127.0.0.1", ["a\xe9"], None, ""),
    ("127.0.0.1", ["a", "b"], None, ""),
    ("127.0.0.1", [], None, ""),
    ("127.0.0.1", [], b"7F000001:8296_7F00001E:1F90", "7F000001:8296_7F00001E:1F90"),
    ("192.0.2.1", ["abc"], b"\x00\xff", "00ff"),
    ("127.0.0.1", ["a b"], b"fine", "fine"),
    ("127.0.0.1", [], b"", ""),
]  # fmt: skip


def served_with(peer: str, unique: bytes | None, native: bool, **options: Any) -> Served:
    served = Served(Row("", [], {}, peer=peer), native, request_ids=True, **options)
    if unique is not None:
        served.restart({"unique_id": unique, "peer": ("10.0.0.1", 1)})
    return served


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize(("peer", "values", "unique", "wanted"), ROWS)
def test_who_names_a_request(
    peer: str, values: list[str], unique: bytes | None, wanted: str, native: bool
) -> None:
    served = served_with(peer, unique, native)
    fields = "".join(f"x-request-id: {value}\r\n" for value in values)
    answer = served.send(f"GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode("latin-1")).decode()
    environ = served.environs.pop()
    found = environ["forkd.request_id"]
    assert found == environ["HTTP_X_REQUEST_ID"]
    assert found == wanted if wanted else MADE.fullmatch(found)
    assert re.findall(r"X-Request-ID: (.*)\r\n", answer) == [found]
    assert served.access.take().decode().endswith(f" {found}\n")


@pytest.mark.parametrize("native", WAYS)
def test_answers_of_each_kind_have_it(native: bool) -> None:
    served = served_with("127.0.0.1", None, native, allowed_hosts=Hosts.parse(["a"]))
    for line, status in (("GET / HTTP/1.1", 200), ("HEAD / HTTP/1.1", 200), ("GET / HTTP/1.0", 200)):
        answer = served.send(
            f"{line}\r\nHost: a\r\nX-Request-ID: x1\r\nConnection: keep-alive\r\n\r\n".encode()
        )
        assert f" {status} ".encode() in answer and answer.count(b"\r\nX-Request-ID: x1\r\n") == 1
    # The application's own is left alone.
    served.fields.append(("X-Request-Id", "own"))
    answer = served.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: x1\r\n\r\n")
    assert re.findall(rb"(?i)x-request-id: (.*)\r\n", answer) == [b"own"]
    served.fields.clear()
    served.status = None
    answer = served.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: x2\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ") and b"\r\nX-Request-ID: x2\r\n" in answer
    served = served_with("127.0.0.1", None, native, allowed_hosts=Hosts.parse(["a"]))
    answer = served.send(b"GET / HTTP/1.1\r\nHost: b\r\nX-Request-ID: x3\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 421 ") and b"\r\nX-Request-ID: x3\r\n" in answer
    assert served.access.take().endswith(b" x3\n")


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize(("field", "status"), [("Content-Length: 99999999999", 413), ("Expect: tea", 417)])
def test_so_has_what_is_refused_for_its_head(field: str, status: int, native: bool) -> None:
    served = served_with("127.0.0.1", None, native)
    data = f"POST / HTTP/1.1\r\nHost: a\r\nX-Request-ID: x4\r\nUser-Agent: t\r\n{field}\r\n\r\n"
    answer = served.send(data.encode())
    assert answer.startswith(b"HTTP/1.1 %d " % status) and answer.count(b"\r\nX-Request-ID: x4\r\n") == 1
    line = served.access.take()
    assert b' "t" ' in line and line.endswith(b" x4\n") and not served.environs


@pytest.mark.parametrize("native", WAYS)
def test_the_wait_in_queues_is_in_server_timing(native: bool) -> None:
    for more in ({}, {"request_ids": True}):
        served = Served(Row("", [], {}), native, server_timing=True, **more)
        served.peer.age = 0.2504
        for line in ("GET / HTTP/1.1", "HEAD / HTTP/1.1", "GET / HTTP/1.0"):
            answer = served.send(f"{line}\r\nHost: a\r\nConnection: keep-alive\r\n\r\n".encode())
            assert answer.count(b"\r\nServer-Timing: queue;dur=250.4\r\n") == 1
            assert answer.count(b"X-Request-ID") == len(more)
        served.fields.append(("X-Strange", "\xe9"))  # what native code leaves to the session
        answer = served.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.count(b"\r\nServer-Timing: queue;dur=250.4\r\n") == 1


@pytest.mark.parametrize("native", WAYS)
def test_without_the_option_requests_have_none(native: bool) -> None:
    served = Served(Row("", [], {}, peer="192.0.2.1"), native)
    answer = served.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: a b\r\n\r\n")
    environ = served.environs.pop()
    assert environ["HTTP_X_REQUEST_ID"] == "a b" and "forkd.request_id" not in environ
    assert b"X-Request-ID" not in answer


@pytest.mark.parametrize("native", WAYS)
def test_while_the_application_has_it_its_entry_has_the_name(native: bool) -> None:
    served = served_with("127.0.0.1", None, native)
    served.during = lambda: found.append(served.row.entries.id(1))
    found: list[str] = []
    for name in ("first", "second", LONG):
        served.send(f"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: {name}\r\n\r\n".encode())
    assert found == ["first", "second", LONG]


def _names(native: bool, count: int) -> list[str]:
    served = served_with("192.0.2.1", None, native)
    for _ in range(count):
        served.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    return [environ["forkd.request_id"] for environ in served.environs]


@pytest.mark.parametrize("native", WAYS)
def test_names_differ_also_in_forked_processes_and_are_of_now(native: bool) -> None:
    before = time.time_ns() // 1_000_000
    mine = _names(native, 500)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, "\n".join(_names(native, 500)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = pipe.read().split("\n")
    assert os.waitpid(pid, 0)[1] == 0
    assert len({*mine, *theirs, *_names(native, 500)}) == 1500
    times = [int(name[:8] + name[9:13], 16) for name in (*mine, *theirs)]
    assert before <= min(times) and max(times) <= time.time_ns() // 1_000_000


def test_names_are_in_the_order_of_their_times() -> None:
    first = make_id()
    while make_id()[:13] == first[:13]:
        pass
    assert make_id() > first and MADE.fullmatch(first)
