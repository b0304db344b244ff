"""Native code against its twins in Python: whatever it accepts, they accept, and make the same of it.

The heads, answers and lines are made from usual ones by mutation, by a seed that a failure prints.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import re
import struct
from collections.abc import Iterator
from time import monotonic_ns
from typing import Any

import pytest
from httptools import HttpParserError, HttpRequestParser

from forkd.app.wsgi.environ import environ_of
from forkd.http.guard import Request
from forkd.http.limits import Limits, Refused
from forkd.http.request import RequestParser
from forkd.http.response import SERVER, BadResponse, Head, bodiless, check_headers, encode
from forkd.log.lines import CombinedLines
from forkd.native import native
from forkd.session.ends import Ends
from forkd.system import cells, log_ring
from forkd.system.cells import CELLS, DURATION_CELLS
from forkd.system.left import left_by
from forkd.system.scoreboard import scratch_row
from tests.access import MemoryAccess

pytestmark = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")

#: scripts/check --native asks for more.
ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "20000"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
ENDS = Ends(server="127.0.0.1", port="8000", client="10.0.0.1", client_port="40000")
TEMPLATE: dict[str, Any] = {
    "SCRIPT_NAME": "",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.version": (1, 0),
}
LIMITS = Limits()
STAMP = re.compile(rb"[0-9:]{8} [+0-9]{5}")

HEADS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a/b%20c%zz?x=1&y=%41 HTTP/1.1\r\nHost: example.org:8080\r\nAccept: */*\r\n\r\n",
    b"POST /form HTTP/1.1\r\nHost: a.b\r\nContent-Type: text/plain\r\nX-Id:  1 \t\r\n\r\n",
    b"PUT /form HTTP/1.1\r\nHost: a.b\r\nContent-Length: 120\r\nContent-Type: text/plain\r\n\r\n",
    b"HEAD /x HTTP/1.1\r\nhost: [::1]:80\r\nConnection: close\r\nCookie: a=b; c=d\r\n\r\n",
    b"DELETE /x HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\nX_Y: 1\r\nX-Y: 2\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nAccept: a\r\nAccept: b\r\n\r\n",
    b"GET http://b/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    b"GET / HTTP/1.1\r\nProxy: http://x/\r\nReferer: /\r\nHost: a\r\nUser-Agent: b\r\nproxy:\r\n\r\n",
    b"GET / HTTP/1.1\r\nCookie: a=1\r\nHost: a\r\ncookie: b=2\r\nReferer: a\r\nX-Y: 1\r\n"
    b"referer: b\r\nx-y:\r\n\r\n",
    b"PUT /\xc3\xa9 HTTP/1.1\r\nHost: a%41\r\nUser-Agent: \xe9t\xe9\r\nUpgrade: h2c\r\n\r\n",
]
PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\x7f", b"\xff", b"_", b"-", b"%", b"%4", b"?",
    b"#", b"/", b"Host: b\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: upgrade\r\n", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"GET ", b"x" * 70, b"x" * 9000,
]  # fmt: skip


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data[at:at] = rng.choice(PIECES)
            case 1:
                del data[at : at + rng.randrange(1, 4)]
            case 2:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 3:
                data[at : at + 1] = data[at : at + 1].swapcase()
            case 4:
                lines = bytes(data).split(b"\r\n")
                lines.insert(rng.randrange(len(lines)), rng.choice(lines))
                data = bytearray(b"\r\n".join(lines))
    return bytes(data)


@pytest.fixture
def rng() -> Iterator[random.Random]:
    print("seed", SEED)
    yield random.Random(SEED)


def read_head(data: bytes, head: int, fields: int, body: int) -> Any:
    assert native is not None
    limits = native.HeadLimits(
        head=head, fields=fields, body=body, template=TEMPLATE, fronts=None, hosts=None, ids=False
    )
    return native.read_head(data, limits, ENDS)


def twin_of_read_head(data: bytes) -> tuple[Request, bytes]:
    parser = RequestParser(LIMITS)
    request = parser.feed(data)
    assert request is not None
    return request, parser.leftover


def test_a_head_that_native_code_reads_is_read_alike(rng: random.Random) -> None:
    usual = 0
    short = min(LIMITS.line, LIMITS.field, LIMITS.head)
    for _ in range(ROUNDS):
        data = mutated(rng, HEADS)
        found = read_head(data, short, LIMITS.fields, LIMITS.body)
        if found is None:
            continue
        usual += 1
        try:
            request, rest = twin_of_read_head(data)
        except Refused as refused:
            pytest.fail(f"{data!r}: taken, and refused by the twin: {refused.reason}")
        assert data[found.end :] == rest, data
        for name in (
            "method",
            "line",
            "keep_alive",
            "version",
            "length",
            "chunked",
            "expect_continue",
        ):
            assert getattr(found, name) == getattr(request, name), (name, data)
        assert found.environ == environ_of(request, TEMPLATE, ENDS), data
        assert found.referer == found.environ.get("HTTP_REFERER"), data
        assert found.agent == found.environ.get("HTTP_USER_AGENT"), data
        llhttp = HttpRequestParser(object())
        try:
            llhttp.feed_data(data[: found.end])
        except HttpParserError as error:
            pytest.fail(f"{data!r}: taken, and refused by llhttp: {error}")
    assert usual > ROUNDS / 20  # it is worth having


@pytest.mark.parametrize(
    "head",
    [b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n" + b"x" * 5, HEADS[1], HEADS[2], HEADS[3], HEADS[9]],
)
def test_usual_heads_are_read(head: bytes) -> None:
    assert read_head(head, 8190, 100, 120) is not None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "field",
    [b"Content-Length: 1", b"Content-Type: a/b", b"Connection: close", b"Host: a"],
)
def test_a_repeated_field_that_is_no_list_or_decides_is_for_the_twin(field: bytes) -> None:
    fields = {line.partition(b":")[0]: line for line in (b"Host: a", field)}
    for count, usual in ((1, True), (2, False)):
        lines = [*fields.values(), *[field] * (count - 1)]
        head = b"POST / HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
        found = read_head(head, 8190, 100, 120)
        assert (found is not None) is usual


@pytest.mark.parametrize("name", [b"Proxy", b"proxy", b"PROXY", b"pRoXy"])
@pytest.mark.parametrize("value", [b"http://evil/", b"", b" \t", b"\t x \t", b"\xff"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_proxy_is_dropped(name: bytes, value: bytes, count: int, first: bool) -> None:
    """httpoxy: HTTP_PROXY would name the proxy of an HTTP client that the application uses."""
    fields = [
        b"Host: a",
        b"Proxy-Authorization: kept",
        b"X-Proxy: kept",
        *[name + b":" + value] * count,
    ]
    if first:
        fields.reverse()
    data = b"GET / HTTP/1.1\r\n" + b"".join(field + b"\r\n" for field in fields) + b"\r\n"
    found = read_head(data, 8190, 100, 0)
    request, _ = twin_of_read_head(data)
    assert found is not None
    for environ in (found.environ, environ_of(request, TEMPLATE, ENDS)):
        assert {name: text for name, text in environ.items() if name.startswith("HTTP_")} == {
            "HTTP_HOST": "a",
            "HTTP_PROXY_AUTHORIZATION": "kept",
            "HTTP_X_PROXY": "kept",
        }


@pytest.mark.parametrize("most, fields", [(20, 100), (8190, 1), (8190, 0), (0, 100), (-5, 100)])
def test_limits_leave_a_head_to_the_twin(most: int, fields: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"
    assert read_head(head, most, fields, 0) is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "length",
    [
        "121",
        "0120",
        "+12",
        "12 0",
        "1" * 19,
        "",
        "12\r\nContent-Length: 12",
        "12\r\nContent_Length: 12",
    ],
)
def test_a_length_that_is_not_plain_is_for_the_twin(length: str) -> None:
    head = HEADS[3].replace(b"120", length.encode())
    assert read_head(head, 8190, 100, 120) is None  # type: ignore[union-attr]


def test_every_prefix_of_a_head_is_incomplete() -> None:
    for end in range(len(HEADS[1])):
        assert read_head(HEADS[1][:end], 8190, 100, 0) is None  # type: ignore[union-attr]


STATUSES = [
    "200 OK",
    "404 Not Found",
    "204 No Content",
    "304 Not Modified",
    "101 Switching",
    "99 x",
    "200",
    "200 \n",
]
NAMES = [
    "Content-Type",
    "content-length",
    "Date",
    "Server",
    "Set-Cookie",
    "Connection",
    "TE",
    "X Y",
    "",
    "Keep-Alive",
]
VALUES = [
    "text/plain",
    "5",
    "05",
    "-1",
    " x ",
    "\t",
    "a\r\nb",
    "é",
    "€",
    "",
    "close",
    "9" * 20,
    "x" * 5000,
]


def test_an_answer_that_native_code_makes_is_made_alike(rng: random.Random) -> None:
    usual = 0
    for _ in range(ROUNDS):
        status = rng.choice(STATUSES[: rng.choice((2, 8))])
        bad = rng.random() < 0.3
        headers: Any = [
            (rng.choice(NAMES[: 10 if bad else 5]), rng.choice(VALUES[: 13 if bad else 2]))
            for _ in range(rng.randrange(4))
        ]
        if rng.random() < 0.05:
            headers = rng.choice(
                [tuple(headers), [*headers, ("a",)], [*headers, (b"a", "b")], None]
            )
        found = native.block(status, headers)  # type: ignore[union-attr]
        if found is None:
            continue
        usual += 1
        try:
            head = check_headers(status, headers)
        except BadResponse as error:
            pytest.fail(f"{status!r}, {headers!r}: taken, and refused by the twin: {error}")
        for name in Head.__slots__:
            assert getattr(found, name) == getattr(head, name), (status, headers)
        body, close = b"x" * rng.choice((0, 5, 5, 200)), rng.random() < 0.5
        answer = native.answer(found, b"Mon, 01 Jan 2024 00:00:00 GMT", SERVER, "", body, close)  # type: ignore[union-attr]
        if answer is None:
            assert bodiless(head.code, "GET") or head.length not in (None, len(body))
        else:
            keep = False if close else None
            assert answer == encode(head, 1704067200, length=len(body), keep_alive=keep) + body
    assert usual > ROUNDS / 20


def test_a_line_that_native_code_makes_is_made_alike(rng: random.Random) -> None:
    general, lines = CombinedLines(), MemoryAccess().lines
    usual = 0
    for _ in range(ROUNDS):
        request = mutated(rng, [b"GET / HTTP/1.1", b"POST /%22?a=b HTTP/1.0"])
        agent = mutated(rng, [b"-", b"curl/8", b"Mozilla/5.0 (X11)"]).decode("latin-1")
        values = (
            rng.choice(["", "127.0.0.1", "fe80::1"]), request, rng.choice((200, 404, 0, 999)),
            rng.choice((0, 14, 2**40)), rng.choice(["-", "http://a/", 'a"b', "\\", "é"]), agent,
            rng.choice((0, 499, 500, 1500, 999_999_499, 999_999_500, 3 * 10**12)), "",
            rng.choice(["", "", "0190-a.b_c", "x" * 128]), "10.0.0.9",
        )  # fmt: skip
        made = lines.make(*values)
        if made is not None:
            usual += 1
            twin = general.make(*values)
            assert STAMP.sub(b"", made) == STAMP.sub(b"", twin)
    assert usual > ROUNDS / 20


@pytest.mark.parametrize("call", ["read_head", "block", "answer"])
def test_wrong_arguments_are_errors(call: str) -> None:
    function = getattr(native, call)
    for values in (
        (),
        (1,),
        ("a",) * 4,
        (None,) * 6,
        (b"", "", "", "", "", "", "", ""),
        ((1, 2), b"", b"", 1),
    ):
        with pytest.raises((TypeError, OverflowError, SystemError)):
            function(*values)


def test_blank_bytes_are_as_many_as_asked_for() -> None:
    assert native is not None
    assert [len(native.blank(size)) for size in (0, 1, 1 << 20)] == [0, 1, 1 << 20]
    for size, error in ((-1, ValueError), ("a", TypeError), (1 << 80, OverflowError)):
        with pytest.raises(error):
            native.blank(size)


def test_a_lane_counts_as_its_twin_does(
    rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [scratch_row(), scratch_row()]
    writers = [rows[0].recorder(True), rows[1].recorder(False)]
    assert type(writers[0]) is not type(writers[1])
    logs = [MemoryAccess(), MemoryAccess(native=False)]
    tickets: list[list[int]] = []  # of both
    for _ in range(ROUNDS // 10):
        line = b"GET /" + b"x" * rng.choice((0, 10, 158, 159, 160, 300))
        client = rng.choice(("", "127.0.0.1", "f" * 100))
        status = rng.choice((-1, 0, 99, 100, 199, 200, 302, 404, 599, 600, 10**6))
        count = rng.choice((0, 1, 65536, 1 << 40))
        match rng.randrange(7):
            case 0:
                tickets.append([writer.begin(line, client, 7) for writer in writers])
            case 1:
                for writer in writers:
                    writer.pause()
            case 2 if tickets:
                pair = rng.choice(tickets)
                for writer, ticket in zip(writers, pair, strict=True):
                    writer.resume(ticket)
            case 6 if tickets:
                name = rng.choice(("", "abc", "x" * 128, "y" * 200))
                for writer, ticket in zip(writers, rng.choice(tickets), strict=True):
                    writer.identify(ticket, name)
            case 3 if tickets:
                pair = tickets.pop(rng.randrange(len(tickets)))
                took = rng.choice((0, 10**6, 10**9, 10**11))
                logged = rng.random() < 0.5
                for writer, log, ticket in zip(writers, logs, pair, strict=True):
                    assert writer.took(ticket) >= 0
                    if logged:
                        log.end(writer, ticket, client, line, 200, 1, "-", "-", took)
                    else:
                        assert writer.end(ticket, status, took)
            case 4:
                cell = rng.choice(cells.COUNTERS)
                for writer in writers:
                    writer.add(cell)
            case 5:
                cell = rng.choice(cells.COUNTERS)
                for writer in writers:
                    writer.add(cell, count)
        assert rows[0].line() == rows[1].line()
        assert bool(rows[0].cells[cells.REQUEST]) == bool(rows[1].cells[cells.REQUEST])
        texts = [STAMP.sub(b"", log.take()) for log in logs]
        assert texts[0] == texts[1]
    lefts = [left_by([row], [1 << 40], True, monotonic_ns()) for row in rows]
    assert [len(left.requests) for left in lefts] == [len(tickets)] * 2
    for first, second in zip(lefts[0].requests, lefts[1].requests, strict=True):
        assert (first.line, first.client, first.place, first.id) == (
            second.line, second.client, second.place, second.id,
        )  # fmt: skip
    blocks = [range(first, first + DURATION_CELLS) for first in cells.DURATION_BLOCKS]
    for cell in set(range(CELLS)).difference({cells.REQUEST}, *blocks):
        assert rows[0].cells[cell] == rows[1].cells[cell], cell
    counts = [[sum(row.cells[b] for b in block[1:]) for block in blocks] for row in rows]
    assert counts[0] == counts[1]
    assert all(counts[0])
    for cell in (-1, CELLS, 1 << 40):
        with pytest.raises(IndexError):
            writers[0].add(cell)


def test_lines_come_out_in_order_whoever_made_them() -> None:
    log = MemoryAccess()
    for agent in ("a", 'b"', "c" * 5000, "d", "\u20ac"):
        log.add("", b"GET / HTTP/1.1", 200, 1, "-", agent, 1)
    lines = log.take().decode().splitlines()
    assert [line.split('"')[-2] for line in lines] == ["a", "b\\x22", "c" * 5000, "d", "\\u20ac"]


def test_a_stamp_that_is_none_is_an_error() -> None:
    sink = MemoryAccess().sink
    for stamp_of in (lambda now: "x" * 100, lambda now: 7, lambda now: 1 / 0):
        lines = native.Lines(stamp_of=stamp_of, ring=sink.ring, log=1)  # type: ignore[union-attr]
        with pytest.raises((ValueError, TypeError, ZeroDivisionError)):
            lines.make("", b"", 200, 1, "-", "-", 1, "", "", "")


def test_an_object_of_the_access_log_is_never_native() -> None:
    log = MemoryAccess("json")
    log.add("127.0.0.1", b"GET / HTTP/1.1", 200, 5, "-", "-", 1500)
    assert json.loads(log.take())["status"] == 200


def test_records_are_read_alike_whatever_is_in_the_ring(rng: random.Random) -> None:
    for _ in range(ROUNDS // 10):
        ring = bytearray(rng.randbytes(256))
        at, end = rng.randrange(1 << 20), 0
        for _ in range(rng.randrange(6)):  # records, the last of which may make no sense
            text = rng.randbytes(rng.randrange(1, 40))
            size = rng.choice((len(text),) * 9 + (0, 1 << 20))
            for byte in struct.pack("=II", size, rng.choice((1, 1, 1, 2))) + text:
                ring[(at + end) % 256] = byte
                end += 1
        view, pending = memoryview(ring), rng.choice((end, end, end, rng.randrange(300), 1 << 63))
        most = rng.choice((1, 30, 1 << 16))
        assert native.records(view, at, pending, most) == log_ring.records(view, at, pending, most)  # type: ignore[union-attr]


def test_memory_that_is_too_small_for_entries_or_lines_is_an_error() -> None:
    assert native is not None
    entries = memoryview(bytearray(512))
    fields: dict[str, Any] = {"memory": entries, "entry": 256, "client": 16, "client_room": 48, "line": 64,
                              "id": 192, "id_room": 64}  # fmt: skip
    for first, count in ((0, 1), (1, 2), (3, 0), (1, 1 << 40), (-1, 1)):
        with pytest.raises(ValueError, match="no entries"):
            native.Places(**fields, line_room=120, first=first, count=count)
    with pytest.raises(ValueError, match="no entries"):
        native.Places(**fields, line_room=250, first=1, count=1)
    for index, start, room in ((2, 64, 64), (-1, 64, 64), (0, 480, 64), (0, 64, 100), (0, -8, 64)):
        with pytest.raises(ValueError, match="no ring"):
            native.RingWriter(memory=entries, count=2, index=index, start=start, room=room)
    recorder = scratch_row().recorder(True)
    for ticket in (0, 1 << 40):
        with pytest.raises(ValueError, match="no ticket"):
            recorder.end(ticket, 200, 1)


def test_cells_that_are_not_known_or_not_in_the_lane_are_an_error() -> None:
    assert native is not None
    row = scratch_row()
    memory, places = memoryview(bytearray(CELLS * 8)), row.entries.places(True)
    native.Recorder(memory=memory, numbers=cells.NUMBERS, bounds=(1, 2), places=places, own=1)
    few = {name: number for name, number in cells.NUMBERS.items() if name != "SENT"}
    for numbers in (few, *({**few, "SENT": number} for number in (-1, CELLS, "7", 1 << 80))):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            native.Recorder(memory=memory, numbers=numbers, bounds=(1, 2), places=places, own=1)
    for name in ("CODES", "CLASSES", "DURATION"):  # they have several cells
        with pytest.raises(ValueError, match="no lane"):
            numbers = {**cells.NUMBERS, name: CELLS - 1}
            native.Recorder(memory=memory, numbers=numbers, bounds=(1, 2), places=places, own=1)


def test_memory_that_is_too_small_for_a_ring_is_an_error() -> None:
    assert native is not None
    memory = mmap.mmap(-1, 4096)
    whole: dict[str, Any] = {
        "fd": -1, "rings": memory, "sqes": memory, "sq_tail": 0, "sq_entries": 1, "cq_head": 0, "cq_tail": 0,
        "cqes": 0, "cq_entries": 1,
    }  # fmt: skip
    for arguments in (
        {"sq_tail": 4096}, {"sq_entries": 65}, {"cq_entries": 257}, {"cqes": 4090},
    ):
        with pytest.raises(ValueError, match="no queues"):
            native.Queues(**(whole | arguments))
    for size, count in ((1024, 8), (1, 512)):
        with pytest.raises(ValueError, match="no buffers"):
            native.Buffers(memory=memory, ring=memory, size=size, count=count)
    buffers = native.Buffers(memory=memory, ring=mmap.mmap(-1, 4096), size=1024, count=4)
    assert buffers.take(3 << 16, 1024) == bytes(1024)
    for flags, count in ((4 << 16, 1), (0, 1025)):
        with pytest.raises(ValueError, match="no such buffer"):
            buffers.take(flags, count)
    queues = native.Queues(**whole)
    with pytest.raises(OSError, match="Bad file descriptor"):
        queues.enter(0, 0.0)
    with pytest.raises(TypeError):
        queues.put(1, 2)
