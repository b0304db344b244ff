"""The table of cells: its numbers cross an upgrade between versions, so they never change."""

from __future__ import annotations

from forkd.metrics.names import COUNTERS, METRICS
from forkd.system import cells
from forkd.system.cells import TABLE, Kind

#: By name: the number of the first cell, and how many there are. Only appended to.
NUMBERS = {
    "WORKING": (0, 1),
    "REQUEST": (1, 1),
    "CONNECTIONS": (2, 1),
    "IN_FLIGHT": (3, 1),
    "LANES": (4, 1),
    "ACCEPTED": (5, 1),
    "PROMOTIONS": (6, 1),
    "REQUESTS": (7, 1),
    "DURATION": (8, 17),
    "CODES": (25, 600),
    "FAILURES": (625, 6),
    "SHED": (631, 1),
    "LOST_ACCESS": (632, 1),
    "LOST_ERROR": (633, 1),
    "EVICTED": (634, 1),
    "REFUSED": (635, 16),
    "FULL_SINCE": (651, 1),
    "CLASSES": (652, 85),
    "RECEIVED": (737, 1),
    "SENT": (738, 1),
    "WAITS": (739, 42),
    "OCCUPIED": (781, 1),
    "HELD": (782, 1),
    "THREAD": (783, 1),
    "UNLISTED": (784, 1),
    "ENDING": (785, 1),
    "END_HEAD": (786, 1),
    "END_STATUS": (787, 1),
    "END_TICKET": (788, 1),
    "END_CODE": (789, 1),
    "END_REQUESTS": (790, 1),
    "END_DURATION": (791, 1),
    "END_BUCKET": (792, 1),
    "END_BUCKET_COUNT": (793, 1),
    "END_IN_FLIGHT": (794, 1),
    "END_UNLISTED": (795, 1),
    "DROPPED": (796, 96),
    "PROXY_UNTRUSTED": (892, 1),
    "PROXY_MISSING": (893, 1),
    "PROXY_MALFORMED": (894, 1),
    "PROXY_INCOMPLETE": (895, 1),
    "UWSGI_UNTRUSTED": (896, 1),
}


def test_cells_have_the_numbers_that_an_upgrade_relies_on() -> None:
    known = TABLE[: len(NUMBERS)]
    assert {row.name: (row.number, row.length) for row in known} == NUMBERS
    assert all(row.number >= 896 for row in TABLE[len(NUMBERS) :])


def test_each_constant_is_the_number_of_its_row() -> None:
    assert {row.name: row.number for row in TABLE} == {row.name: vars(cells)[row.name] for row in TABLE}
    assert TABLE[-1].number + TABLE[-1].length == cells.CELLS


def test_each_cell_is_either_kept_or_zeroed() -> None:
    assert sorted((*cells.GAUGES, *cells.COUNTERS)) == list(range(cells.CELLS))
    assert cells.GAUGES[:16] == (0, 1, 2, 3, 4, 651, *range(781, 791))
    assert cells.COUNTERS[:2] == (5, 6)
    assert cells.DURATION_BLOCKS == (8, 652, 669, 686, 703, 720)


def test_the_metrics_of_plain_counters_are_declared_by_their_rows() -> None:
    declared = {row.metric: (row.label[:1], row.help) for row in TABLE if row.metric}
    assert declared == {m.name: (m.labels, m.help) for m in METRICS if m.name in COUNTERS}
    assert len(METRICS) == len({metric.name for metric in METRICS})
    for row in TABLE:
        assert not row.metric or (row.kind is Kind.COUNTER and row.metric.endswith("_total"))
        assert not row.metric or row.help
