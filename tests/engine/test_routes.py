"""What is learned of routes, and who enters: decisions, in no process."""

from __future__ import annotations

from typing import Any

import pytest

from forkd.engine.bulkhead import Bulkhead, Work
from forkd.engine.routes import MAX_ROUTES, SLOW_SECONDS, Routes, route_of
from forkd.session.seam import Exchange

HELLO = b"GET / HTTP/1.1"
REPORT = b"GET /reports HTTP/1.1"


def taught(*lessons: tuple[bytes, float, int]) -> Routes:
    routes = Routes()
    for line, seconds, times in lessons:
        for _ in range(times):
            routes.judge(route_of(line), seconds)
    return routes


@pytest.mark.parametrize(
    ("line", "route"),
    [
        (HELLO, b"GET /"),
        (b"GET /?page=2 HTTP/1.1", b"GET /"),
        (b"POST /orders/17/items HTTP/1.1", b"POST /orders/*/items"),
        (b"GET /orders/3f2a-9c?all HTTP/1.0", b"GET /orders/*"),
        (b"GET /v2/a//7/ HTTP/1.1", b"GET /*/a//*/"),
        (b"OPTIONS * HTTP/1.1", b"OPTIONS *"),
        (b"GET /" + 5000 * b"a" + b" HTTP/1.1", b"GET /" + 123 * b"a"),
        (b"", b""),
    ],
)
def test_one_of_many_things_is_no_route_of_its_own(line: bytes, route: bytes) -> None:
    assert route_of(line) == route


def test_nothing_is_expected_of_what_is_new() -> None:
    routes = Routes()
    assert not routes.wary
    assert not routes.blocks(route_of(REPORT))
    assert not routes.long(route_of(REPORT))


def test_a_route_that_blocks_is_known_after_two_requests() -> None:
    routes = taught((HELLO, 1e-5, 100), (REPORT, 0.1, 2))
    assert routes.wary
    assert routes.blocks(route_of(REPORT))
    assert routes.long(route_of(REPORT))
    assert not routes.blocks(route_of(HELLO))


def test_one_that_was_held_up_for_once_makes_no_slow_route() -> None:
    routes = taught((HELLO, 1e-5, 100), (HELLO, 2 * SLOW_SECONDS, 1))
    assert not routes.blocks(route_of(HELLO))
    routes.judge(route_of(HELLO), 1e-5)
    assert not routes.wary


def test_a_route_that_has_become_fast_is_forgotten() -> None:
    routes = taught((REPORT, 0.1, 50), (REPORT, 1e-5, 20))
    assert not routes.blocks(route_of(REPORT))
    assert not routes.wary


def test_where_most_requests_take_long_none_does() -> None:
    assert not taught((REPORT, 0.1, 200), (HELLO, 1e-5, 20)).long(route_of(REPORT))


def test_what_is_typical_may_be_slow_itself() -> None:
    page, export = b"GET /page HTTP/1.1", b"GET /export HTTP/1.1"
    routes = taught((page, 0.002, 200), (export, 0.2, 5), (page, 0.002, 10))
    assert routes.blocks(route_of(page))
    assert not routes.long(route_of(page))
    assert routes.long(route_of(export))


def test_where_each_route_is_new_and_blocks_any_may() -> None:
    routes = Routes()
    for name in "abcdefgh":
        routes.judge(route_of(f"GET /{name} HTTP/1.1".encode()), 0.01)
    assert routes.blocks(route_of(HELLO))
    assert not routes.long(route_of(HELLO))
    for _ in range(50):
        routes.judge(route_of(HELLO), 1e-5)
    assert not routes.blocks(route_of(HELLO))


def test_routes_are_bounded() -> None:
    routes = Routes()
    letters = "abcdefghij"
    names = [a + b + c + d for a in letters for b in letters for c in letters for d in letters]
    for name in names:
        routes.judge(route_of(f"GET /{name} HTTP/1.1".encode()), 0.01)
    assert len(routes._takes) <= MAX_ROUTES
    taught_again = route_of(f"GET /{names[0]} HTTP/1.1".encode())
    for _ in range(3):
        routes.judge(taught_again, 0.01)
    assert routes.blocks(taught_again)


# ---- the bulkhead ---------------------------------------------------------------------------


def work(lent: float, long: bool = False) -> Work:
    conn: Any = None
    exchange = Exchange()
    exchange.lent = lent
    return Work(conn, exchange, None, b"", long)


def test_as_many_enter_as_there_is_room_for() -> None:
    bulkhead = Bulkhead(2)
    assert [bulkhead.enter(work(n)) for n in range(3)] == [True, True, False]
    assert bulkhead.full


def test_long_ones_leave_room_for_one() -> None:
    bulkhead = Bulkhead(3)
    assert [bulkhead.enter(work(n, long=True)) for n in range(4)] == [True, True, False, False]
    assert not bulkhead.full
    assert bulkhead.enter(work(9))
    assert bulkhead.full


def test_who_leaves_takes_the_place_of_nobody_else() -> None:
    bulkhead = Bulkhead(2)
    bulkhead.enter(work(0))
    assert bulkhead.leave(False) is None
    bulkhead.enter(work(1, long=True))
    bulkhead.enter(second := work(2, long=True))
    bulkhead.enter(work(3))
    assert bulkhead.leave(False) is None  # the one that waits is long, and there is one inside
    assert bulkhead.leave(True) is second


def test_first_come_first_served() -> None:
    bulkhead = Bulkhead(3)
    for n in range(3):
        bulkhead.enter(work(n))
    waiting = [work(4), work(5, long=True), work(6), work(7, long=True)]
    for each in waiting:
        assert not bulkhead.enter(each)
    assert [bulkhead.leave(False) for _ in range(3)] == waiting[:3]


def test_a_leader_that_was_overtaken_counts() -> None:
    bulkhead = Bulkhead(2)
    bulkhead.entered()
    bulkhead.entered()
    assert bulkhead.full
    bulkhead.enter(waiting := work(1))
    assert bulkhead.leave(False) is waiting
    assert bulkhead.full
