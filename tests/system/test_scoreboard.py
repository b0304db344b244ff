"""The scoreboard: totals survive children, never go back, and believe no child."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from forkd import native
from forkd.system import cells
from forkd.system.cells import (
    ACCEPTED,
    CELLS,
    CODES,
    CONNECTIONS,
    GAUGES,
    IN_FLIGHT,
    OCCUPIED,
    RECEIVED,
    REFUSED,
    REFUSED_CELLS,
    REQUEST,
    REQUESTS,
    SENT,
    WORKING,
)
from forkd.system.in_flight import POOL_ENTRIES
from forkd.system.lanes import Lanes
from forkd.system.left import left_by
from forkd.system.log_ring import ACCESS, Reader, Rings, Writer
from forkd.system.recorder import Recorder
from forkd.system.scoreboard import Scoreboard


@pytest.fixture(params=["native", "python"], autouse=True)
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test with each of the twins as the writer of rows."""
    if request.param == "python":
        monkeypatch.setattr(native, "native", None)
    elif native.native is None:
        pytest.skip("forkd was installed without a compiler")


def durations(board: Scoreboard) -> tuple[list[tuple[str, float]], float]:
    """Of all classes of status together."""
    found = list(board.durations().values())
    bounds = [name for name, _ in found[0][0]]
    counts = [sum(n for _, n in same) for same in zip(*(c for c, _ in found), strict=True)]
    return list(zip(bounds, counts, strict=True)), sum(seconds for _, seconds in found)


def serve(board: Scoreboard, slot: int, status: int = 200) -> None:
    recorder = board.lanes[slot][0].recorder(True)
    recorder.end(recorder.begin(b"GET / HTTP/1.1"), status, 1000)


def test_a_request_is_counted_once_everywhere() -> None:
    board = Scoreboard(2)
    serve(board, 1)
    serve(board, 2, 404)
    assert board.total(REQUESTS) == 2
    assert board.codes() == {200: 1, 404: 1}
    counts, seconds = durations(board)
    assert counts[-1] == ("+Inf", 2.0)
    assert [n for _, n in counts] == sorted(n for _, n in counts)
    assert 0 <= seconds < 1


def test_another_process_writes_and_this_one_reads() -> None:
    board = Scoreboard(2)
    pid = os.fork()
    if pid == 0:
        try:
            serve(board, 2, 503)
            os._exit(0)
        finally:
            os._exit(1)  # never on into the test runner
    assert os.waitpid(pid, 0)[1] == 0
    assert board.codes() == {503: 1}


def test_folding_keeps_totals_and_clears_the_row() -> None:
    board = Scoreboard(2)
    serve(board, 1)
    row = board.lanes[1][0]
    row.cells[ACCEPTED] = 5
    row.cells[CONNECTIONS] = 3
    row.recorder(False).begin(b"GET /stuck HTTP/1.1")
    board.fold(1)
    assert board.total(REQUESTS) == 1
    assert board.accepted(1) == 5
    assert board.accepted(2) == 0
    assert [row.cells[cell] for cell in (WORKING, REQUEST, CONNECTIONS, IN_FLIGHT)] == [0] * 4
    serve(board, 1)
    assert board.total(REQUESTS) == 2
    assert board.codes() == {200: 2}


def test_a_refusal_outlives_its_child_and_its_master() -> None:
    board = Scoreboard(2)
    for kind in (0, 3, 3, REFUSED_CELLS - 1):
        board.lanes[1][0].recorder(True).add(REFUSED + kind)
    board.fold(1)
    board.lanes[2][0].recorder(True).add(REFUSED + 3)
    later = Scoreboard(1)
    later.absorb(board.export())
    for seen in (board, later):
        found = [seen.total(REFUSED + kind) for kind in range(REFUSED_CELLS)]
        assert found == [1, 0, 0, 3, *[0] * (REFUSED_CELLS - 5), 1]
        assert seen.total(REQUESTS) == 0  # its status is counted by itself


def test_totals_never_decrease() -> None:
    board, chance = Scoreboard(3), random.Random(1)
    before = 0.0
    for _ in range(500):
        slot = chance.randint(1, 3)
        if chance.random() < 0.2:
            board.fold(slot)
        else:
            serve(board, slot, chance.choice([200, 404, 500]))
        now = board.total(REQUESTS)
        assert now >= before
        assert sum(board.codes().values()) == now == durations(board)[0][-1][1]
        before = now


def test_gauges_are_not_folded() -> None:
    board = Scoreboard(1)
    for cell in GAUGES:
        board.lanes[1][0].cells[cell] = 7
    board.fold(1)
    assert [board.total(cell) for cell in GAUGES] == [0] * len(GAUGES)


@pytest.mark.parametrize("nonsense", [-1, -(1 << 63), 1 << 52])
def test_what_a_mad_child_wrote_is_bounded(nonsense: int) -> None:
    board = Scoreboard(2)
    serve(board, 2)
    for cell in range(CELLS):
        board.lanes[1][0].cells[cell] = nonsense
    board.lanes[1][0].entries.memory[:] = b"\xff" * len(board.lanes[1][0].entries.memory)
    used = board.used(1)
    assert left_by(used, [nonsense] * len(used), True, 1 << 60) == ([], 0)
    for cell in range(CELLS):
        board.lanes[1][0].cells[cell] = nonsense
    assert board.total(REQUESTS) >= 1
    assert board.total(REQUESTS) < 1 << 53
    assert board.gauge(1, CONNECTIONS) == 0
    assert board.lanes[1][0].since(REQUEST, 1000) is None
    assert len(board.lanes[1][0].line()) <= 160
    assert all(0 < count < 1 << 53 for count in board.codes().values())
    board.durations()
    board.fold(1)
    assert board.total(REQUESTS) >= 1
    assert board.gauge(1, CONNECTIONS) == 0


@pytest.mark.parametrize("status", [0, 99, 100, 599, 600, 999, -1])
def test_any_status_is_counted_and_none_is_an_index(status: int) -> None:
    board = Scoreboard(1)
    serve(board, 1, status)
    assert board.total(REQUESTS) == 1
    assert board.codes() == ({status: 1} if 0 < status < 600 else {})


def test_a_request_that_changes_threads_leaves_no_gauge() -> None:
    board = Scoreboard(1, threads=2)
    lanes = Lanes(board.lanes[1], True)
    first, second = lanes.take(), lanes.take()
    assert first and second
    one, other = first.recorder(False), second.recorder(False)
    ticket = one.begin(b"GET / HTTP/1.1")
    assert board.gauge(1, IN_FLIGHT) == 1
    one.pause()
    other.end(ticket, 200, other.took(ticket))
    assert board.gauge(1, IN_FLIGHT) == 0
    assert board.total(REQUESTS) == board.counter(1, REQUESTS) == 1
    board.fold(1)
    assert board.total(REQUESTS) == 1


@pytest.mark.parametrize("line", [b"", b"G" * 159, b"G" * 160, b"G" * 100_000])
def test_a_long_request_line_is_cut(line: bytes) -> None:
    board = Scoreboard(2)
    serve(board, 2)
    board.lanes[1][0].recorder(False).begin(line)
    assert board.lanes[1][0].line() == line[:159]
    assert board.lanes[2][0].line() == b"GET / HTTP/1.1"
    assert board.lanes[2][0].cells[REQUESTS] == 1


def test_time_in_the_application_is_told_and_paused() -> None:
    row = Scoreboard(1).lanes[1][0]
    recorder = row.recorder(False)
    ticket = recorder.begin(b"GET / HTTP/1.1")
    began = row.cells[REQUEST]
    assert row.since(REQUEST, began + 2_000_000_000) == pytest.approx(2.0)
    recorder.pause()
    assert row.since(REQUEST, began + 2_000_000_000) is None
    recorder.resume(ticket)
    assert row.cells[REQUEST] >= began


def test_a_duration_on_a_bound_is_in_its_bucket() -> None:
    board = Scoreboard(1)
    recorder = board.lanes[1][0].recorder(False)
    for bound in cells.BOUNDS:
        recorder.end(recorder.begin(b""), 200, int(bound * 1e9))
    counts, _ = durations(board)
    assert counts[-1][1] == len(cells.BOUNDS)


def test_a_successor_goes_on_from_what_was_exported() -> None:
    old, new = Scoreboard(2), Scoreboard(2)
    serve(old, 1)
    first = old.export()
    new.absorb(first)
    serve(old, 1)
    serve(new, 1)
    new.absorb(old.export(), first)
    assert new.total(REQUESTS) == 3
    assert new.codes() == {200: 3}


def test_only_lanes_that_were_used_are_read() -> None:
    """A worker of process-per-connection has 256 of them, and most are never needed."""
    board = Scoreboard(1, threads=256)
    lanes = Lanes(board.lanes[1], True)
    first, second = lanes.take(), lanes.take()
    assert first and second
    for row in (first, second):
        recorder = row.recorder(False)
        recorder.end(recorder.begin(b"GET / HTTP/1.1"), 200, 1000)
        lanes.give_back(row)
    again = lanes.take()
    assert again in (first, second)
    assert len(board.used(1)) == 3
    assert board.total(REQUESTS) == sum(board.codes().values()) == 2
    board.fold(1)
    assert len(board.used(1)) == 1
    assert board.total(REQUESTS) == sum(board.codes().values()) == 2
    assert [row.cells[REQUESTS] for row in board.lanes[1]] == [0] * 257


def test_threads_bind_at_once_and_all_are_counted() -> None:
    board = Scoreboard(1, threads=8)
    lanes = Lanes(board.lanes[1], True)

    def run() -> None:
        lanes.bind()
        lanes.recorder.add(REQUESTS)
        lanes.recorder.add(CODES + 200)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert board.codes() == {200: 8}
    assert [row.cells[REQUESTS] for row in board.lanes[1]] == [0] + [1] * 8


def test_failures_of_accept_are_counted_by_reason() -> None:
    board = Scoreboard(2)
    for number in (errno.EMFILE, errno.EMFILE, errno.ECONNABORTED, errno.EPROTO, 4711):
        board.lanes[1][0].failed(number)
    board.fold(1)
    board.lanes[2][0].failed(errno.ENFILE)
    found = {reason: count for reason, count in board.failures().items() if count}
    assert found == {"EMFILE": 2, "ENFILE": 1, "ECONNABORTED": 1, "other": 2}


def test_durations_are_apart_by_class_of_status() -> None:
    board = Scoreboard(1)
    for status in (0, 100, 200, 204, 304, 404, 499, 503, 599, 600, -1):
        serve(board, 1, status)
    board.fold(1)
    serve(board, 1, 201)
    counts = {name: found[0][-1] for name, found in board.durations().items()}
    assert counts == {
        "none": ("+Inf", 3.0), "1xx": ("+Inf", 1.0), "2xx": ("+Inf", 3.0), "3xx": ("+Inf", 1.0),
        "4xx": ("+Inf", 2.0), "5xx": ("+Inf", 2.0),
    }  # fmt: skip
    assert durations(board)[0][-1] == ("+Inf", 12.0)


def test_waits_are_told_by_queue() -> None:
    board = Scoreboard(2)
    for ns in (-5, 0, 1_000_000, 1_000_001, 20_000_000, 11_000_000_000):
        board.lanes[1][0].waited(cells.THREAD_QUEUE, ns)
    board.fold(1)
    board.lanes[2][0].waited(cells.WORKER_QUEUE, 20_000_000)
    found = board.waits()
    assert found["accept"] == ([(name, 0.0) for name, _ in found["accept"][0]], 0.0)
    counts = dict(found["thread"][0])
    assert (counts["0.001"], counts["0.005"], counts["0.025"]) == (3, 4, 5)
    assert (counts["10.0"], counts["+Inf"]) == (5, 6)
    assert found["thread"][1] == pytest.approx(11.022000001)
    assert dict(found["worker"][0])["+Inf"] == 1


def test_bytes_that_a_thread_of_the_application_moves_are_counted_too() -> None:
    board = Scoreboard(1, threads=2)
    lanes = Lanes(board.lanes[1], True)
    lanes.bind()

    def run() -> None:
        lanes.recorder.add(RECEIVED, 5)
        lanes.recorder.add(SENT, 7)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    lanes.recorder.add(RECEIVED, 100)
    assert (board.total(RECEIVED), board.total(SENT)) == (105, 7)


def test_a_thread_of_a_pool_says_since_when_it_has_its_task() -> None:
    board = Scoreboard(1, threads=1)
    row = board.lanes[1][0]
    row.occupy(None)
    assert row.cells[OCCUPIED] > 0
    row.vacate()
    row.occupy(0.0)
    assert dict(board.waits()["thread"][0])["+Inf"] == 1
    board.fold(1)
    assert row.cells[OCCUPIED] == 0
    assert board.total(OCCUPIED) == 0


def test_processor_time_goes_to_the_next_master_as_far_as_it_is_known() -> None:
    old, new = Scoreboard(2), Scoreboard(2)
    old.spend(1, 500)
    new.spend(1, 7)
    first = old.export({1: 30, 2: 40})
    new.absorb(first)
    assert [new.cpu_ns(slot) for slot in (0, 1, 2)] == [0, 537, 40]
    old.spend(1, 35)
    old.spend(2, 41)
    new.absorb(old.export(), first)
    assert [new.cpu_ns(slot) for slot in (0, 1, 2)] == [0, 542, 41]


def test_totals_of_a_version_that_knew_fewer_counters_are_taken_as_they_are() -> None:
    """Its list is shorter, and has no processor times; what it has is where it was."""
    old, new = Scoreboard(1), Scoreboard(1)
    serve(old, 1, 404)
    row = old.lanes[1][0]
    row.cells[ACCEPTED] = 3
    totals, accepted, _ = old.export()
    new.absorb([totals[: cells.FULL_SINCE + 1], accepted])
    assert (new.total(REQUESTS), new.codes(), new.accepted(1)) == (1, {404: 1}, 3)
    assert durations(new)[0][-1] == ("+Inf", 0.0)


# ---- what was in flight ---------------------------------------------------------------------


def test_requests_in_flight_are_named_with_their_clients_and_threads() -> None:
    board = Scoreboard(1, threads=2)
    lanes = Lanes(board.lanes[1], True)
    first = lanes.recorder.begin(b"GET /paused HTTP/1.1", "10.0.0.1", 5)
    lanes.recorder.pause()
    second = lanes.recorder.begin(b"GET /held HTTP/1.1", "fe80::1", 6)
    assert first != second
    left = left_by(board.used(1), [0], True, time.monotonic_ns())
    assert [(r.line, r.client, r.thread, r.is_stream) for r in left.requests] == [
        (b"GET /paused HTTP/1.1", "10.0.0.1", 0, False),
        (b"GET /held HTTP/1.1", "fe80::1", threading.get_ident(), False),
    ]
    assert left.more == 0
    board.fold(1)
    assert left_by(board.used(1), [0], True, time.monotonic_ns()) == ([], 0)


def test_entries_are_used_again_and_those_without_one_are_counted() -> None:
    board = Scoreboard(1)
    recorder = board.lanes[1][0].recorder(True)
    for _ in range(3):
        tickets = [recorder.begin(b"GET / HTTP/1.1") for _ in range(POOL_ENTRIES + 5)]
        left = left_by(board.used(1), [0], True, time.monotonic_ns())
        assert (len(left.requests), left.more) == (POOL_ENTRIES + 1, 4)  # the pool's, and the lane's own
        assert [ticket < 0 for ticket in tickets].count(True) == 4
        for ticket in tickets:
            recorder.end(ticket, 200, recorder.took(ticket))
        assert left_by(board.used(1), [0], True, time.monotonic_ns()) == ([], 0)
    assert board.codes() == {200: 3 * (POOL_ENTRIES + 5)}


class Killed(BaseException):
    pass


class Dying:
    """Cells, of a process that is killed before one of its stores."""

    def __init__(self, memory: memoryview, left: list[int]) -> None:
        self._memory, self._left = memory, left

    def __getitem__(self, index: Any) -> Any:
        return self._memory[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if not self._left[0]:
            raise Killed
        self._left[0] -= 1
        self._memory[index] = value


@pytest.mark.parametrize("logged", [True, False])
def test_killed_between_any_two_stores_a_request_is_counted_and_logged_once(logged: bool) -> None:
    """The Python twin, at each of its stores; native code stores in the same order."""
    seen = Counter[tuple[int, int, int]]()
    for stores in range(200):
        board, rings = Scoreboard(1), Rings(2, 1)
        row, left = board.lanes[1][0], [stores]
        recorder: Any = row.recorder(False)
        ring: Any = Writer(rings, rings.index(1, ACCESS))
        serve_python(recorder, ring)  # one that is over
        recorder._cells = Dying(recorder._cells, left)
        recorder._entry_cells = Dying(recorder._entry_cells, left)
        ring._heads = Dying(ring._heads, left)
        try:
            serve_python(recorder, ring if logged else None)
            survived = True
        except Killed:
            survived = False
        head = rings.heads[rings.index(1, ACCESS)]
        found = left_by(board.used(1), [head], True, time.monotonic_ns())
        lines = 0
        reader = Reader(rings)
        while reader.filled():
            taken = reader.take(rings.index(1, ACCESS), 1 << 20)
            reader.advance(taken, len(taken.text))
            lines += taken.text.count(b"\n")
        fate = lines - 1, board.codes()[200] - 1, len(found.requests)
        seen[fate] += 1
        assert board.total(REQUESTS) == board.codes()[200] == durations(board)[0][-1][1]
        if survived:
            break
    assert survived
    #: Not begun yet; in flight; over.
    assert set(seen) == {(0, 0, 0), (0, 0, 1), (int(logged), 1, 0)}


def serve_python(recorder: Recorder, ring: Writer | None) -> None:
    ticket = recorder.begin(b"GET / HTTP/1.1", "127.0.0.1")
    recorder.pause()
    assert recorder.end(ticket, 200, 1000, *((ring, 2, b"a line\n") if ring is not None else ()))
