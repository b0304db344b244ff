"""What is said of a head that was refused: the reason that is counted, and its line for the log."""

from __future__ import annotations

import re

import pytest

from forkd.http.limits import Refusal
from forkd.http.request import Refused, RequestParser
from forkd.metrics.names import METRICS
from forkd.system.cells import REFUSED_CELLS

H = b"Host: a\r\n"


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"GET /a HTTP/1.1\r\n\r\n", b"GET /a HTTP/1.1"),  # no Host
        (b"GET /a HTTP/1.1\r\nX Y: z\r\n\r\n", b"GET /a HTTP/1.1"),
        (b"GET /a HTTP/1.1\n", b"GET /a HTTP/1.1"),
        (b"\r\n\r\nGET /a HTTP/9.9\r\n", b"GET /a HTTP/9.9"),
        (b"\x16\x03\x01", b"\x16\x03\x01"),
        (b"GET\r/a\n", b"GET\r/a"),
        (b"\r\n" * 9, b""),
        (b"GET /" + b"a" * 9000, b"GET /" + b"a" * 9000),
    ],
)
def test_the_line_of_a_head_that_was_refused(raw: bytes, line: bytes) -> None:
    for before in (b"", b"GET /before HTTP/1.1\r\n" + H + b"\r\n"):
        parser = RequestParser()
        if before:
            assert parser.feed(before) is not None
        with pytest.raises(Refused):
            parser.feed(raw)
        assert parser.line == line
        assert not parser.started


def test_the_line_of_a_head_that_is_not_complete() -> None:
    parser = RequestParser()
    assert parser.line == b""
    for piece, line in (
        (b"\r\n", b""),
        (b"GET /a", b"GET /a"),
        (b" HTTP/1.1\r", b"GET /a HTTP/1.1"),
        (b"\nHost: a\r\nX", b"GET /a HTTP/1.1"),
    ):
        assert parser.feed(piece) is None
        assert parser.line == line
    assert parser.feed(b": y\r\n\r\n") is not None
    assert parser.line == b""


def test_each_refusal_has_a_reason_of_its_own() -> None:
    """The labels and their places, which an upgrade relies on; and there is room for them."""
    assert [(int(kind), kind.label) for kind in Refusal] == [
        (0, "malformed"),
        (1, "head-timeout"),
        (2, "body-timeout"),
        (3, "body-too-large"),
        (4, "line-too-long"),
        (5, "expectation"),
        (6, "head-too-large"),
        (7, "not-implemented"),
        (8, "http-version"),
        (9, "no-room"),
        (10, "overload"),
        (11, "application-failed"),
        (12, "broken-off"),
        (13, "host"),
        (14, "request-timeout"),
        (15, "concurrency"),
    ]
    assert len(Refusal) <= REFUSED_CELLS
    (metric,) = (m for m in METRICS if m.name == "forkd_requests_refused_total")
    named = re.findall(r"[a-z-]+", metric.help)
    assert {kind.label for kind in Refusal} <= set(named)
