"""When the loop has to take a turn for lines of the access log that another thread has added."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from forkd.log.lines import AccessLog


def made() -> tuple[AccessLog, Any]:
    sink: Any = SimpleNamespace(ring=SimpleNamespace(head=0), heard=0, many_bytes=100, log=1, waiting=0)
    sink.retry = lambda: setattr(sink, "heard", sink.ring.head)
    return AccessLog(sink, "text", native=False), sink


def test_a_first_line_is_news_until_the_loop_has_looked() -> None:
    access, sink = made()
    assert not access.news
    sink.ring.head = 10
    assert access.news
    assert access.due(1.0) == 1.0  # the last time is long ago
    access.flush()
    assert not access.news
    sink.ring.head = 20
    assert access.news
    assert access.due(1.002) == 1.01
    assert not access.news  # the loop wakes up at 1.01, whatever comes
    sink.ring.head = 30
    assert not access.news
    assert access.due(1.01) == 1.01
    access.flush()
    assert not access.news
    sink.ring.head = 40
    assert access.news


def test_many_are_news_at_any_time() -> None:
    access, sink = made()
    sink.ring.head = 10
    access.due(1.0)
    sink.ring.head = 100
    assert access.news
    assert access.due(1.001) == 1.001


def test_what_comes_while_the_loop_finds_nothing_is_no_less() -> None:
    """A line that is added between the two looks of `due`."""

    class Ring:
        looks = 0

        @property
        def head(self) -> int:
            self.looks += 1
            return 10 if self.looks > 3 else 0

    access, sink = made()
    sink.ring = Ring()
    sink.ring.looks = 2
    assert access.due(0.001) == 0.01
