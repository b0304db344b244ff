"""The scoreboard: totals survive children, never go back, and believe no child."""

from __future__ import annotations

import os
import random

import pytest

from forkd.system import scoreboard
from forkd.system.scoreboard import (
    ACCEPTED,
    CELLS,
    CONNECTIONS,
    GAUGES,
    IN_FLIGHT,
    REQUEST,
    REQUESTS,
    WORKING,
    Scoreboard,
)


def serve(board: Scoreboard, slot: int, status: int = 200) -> None:
    row = board.rows[slot]
    row.end(row.begin(b"GET / HTTP/1.1"), status)


def test_a_request_is_counted_once_everywhere() -> None:
    board = Scoreboard(2)
    serve(board, 1)
    serve(board, 2, 404)
    assert board.total(REQUESTS) == 2
    assert board.codes() == {200: 1, 404: 1}
    counts, seconds = board.durations()
    assert counts[-1] == ("+Inf", 2.0)
    assert [n for _, n in counts] == sorted(n for _, n in counts)
    assert 0 <= seconds < 1


def test_another_process_writes_and_this_one_reads() -> None:
    board = Scoreboard(2)
    pid = os.fork()
    if pid == 0:
        serve(board, 2, 503)
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.codes() == {503: 1}


def test_folding_keeps_totals_and_clears_the_row() -> None:
    board = Scoreboard(2)
    serve(board, 1)
    row = board.rows[1]
    row.cells[ACCEPTED] = 5
    row.cells[CONNECTIONS] = 3
    row.begin(b"GET /stuck HTTP/1.1")
    board.fold(1)
    assert board.total(REQUESTS) == 1
    assert board.accepted(1) == 5
    assert board.accepted(2) == 0
    assert [row.cells[cell] for cell in (WORKING, REQUEST, CONNECTIONS, IN_FLIGHT)] == [0] * 4
    serve(board, 1)
    assert board.total(REQUESTS) == 2
    assert board.codes() == {200: 2}


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
        assert sum(board.codes().values()) == now == board.durations()[0][-1][1]
        before = now


def test_gauges_are_not_folded() -> None:
    board = Scoreboard(1)
    for cell in range(GAUGES):
        board.rows[1].cells[cell] = 7
    board.fold(1)
    assert [board.total(cell) for cell in range(GAUGES)] == [0] * GAUGES


@pytest.mark.parametrize("nonsense", [(1 << 64) - 1, 1 << 63, 1 << 52])
def test_what_a_mad_child_wrote_is_bounded(nonsense: int) -> None:
    board = Scoreboard(2)
    serve(board, 2)
    for cell in range(CELLS):
        board.rows[1].cells[cell] = nonsense
    board.rows[1]._line[0] = 255
    assert board.total(REQUESTS) >= 1
    assert board.total(REQUESTS) < 1 << 53
    assert board.rows[1].gauge(CONNECTIONS) == 0
    assert board.rows[1].since(REQUEST, 1000) is None
    assert len(board.rows[1].line()) <= 160
    board.codes()
    board.durations()
    board.fold(1)
    assert board.total(REQUESTS) >= 1
    assert board.rows[1].gauge(CONNECTIONS) == 0


@pytest.mark.parametrize("status", [0, 99, 100, 599, 600, 999, -1])
def test_any_status_has_a_cell(status: int) -> None:
    board = Scoreboard(1)
    serve(board, 1, status)
    assert sum(board.codes().values()) == 1
    assert all(0 <= code < 600 for code in board.codes())


@pytest.mark.parametrize("line", [b"", b"G" * 159, b"G" * 160, b"G" * 100_000])
def test_a_long_request_line_is_cut(line: bytes) -> None:
    board = Scoreboard(2)
    serve(board, 2)
    board.rows[1].begin(line)
    assert board.rows[1].line() == line[:159]
    assert board.rows[2].line() == b"GET / HTTP/1.1"
    assert board.rows[2].cells[REQUESTS] == 1


def test_time_in_the_application_is_told_and_paused() -> None:
    row = Scoreboard(1).rows[1]
    began = row.begin(b"GET / HTTP/1.1")
    assert row.since(REQUEST, began + 2_000_000_000) == pytest.approx(2.0)
    row.pause()
    assert row.since(REQUEST, began + 2_000_000_000) is None
    row.resume()
    assert row.cells[REQUEST] >= began


def test_a_duration_on_a_bound_is_in_its_bucket() -> None:
    board = Scoreboard(1)
    row = board.rows[1]
    for bound in scoreboard.BOUNDS:
        row.end(row.begin(b"") - int(bound * 1e9), 200)
    counts, _ = board.durations()
    assert counts[-1][1] == len(scoreboard.BOUNDS)


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
