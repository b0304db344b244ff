"""Tables for a terminal: their width, the side of their numbers, and what may be in them."""

from __future__ import annotations

from typing import Any

import pytest

from forkd.command import render as table


def test_numbers_are_on_the_right() -> None:
    assert table.grid(("PID", "ROLE", "N"), [(7, "leader", 12), (12345, "x", 3)], {"PID", "N"}) == [
        "  PID  ROLE     N",
        "    7  leader  12",
        "12345  x        3",
    ]


def test_the_last_column_is_cut_where_the_line_ends() -> None:
    head, row = table.grid(("PID", "REQUEST"), [(7, "GET /" + "a" * 300)], {"PID"}, 30)
    assert (head, row) == ("PID  REQUEST", "  7  GET /aaaaaaaaaaaaaaaaaaa…")
    assert len(row) == 30


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /\x1b[2J HTTP/1.1", "GET /\\x1b[2J HTTP/1.1"), ("a\nb\tc", "a\\nb\\tc"), ("\x9b1m", "\\x9b1m"),
        ("\u202eabc", "\\u202eabc"), ("/srv/größe", "/srv/größe"), ("", ""), (5, "5"),
    ],
)  # fmt: skip
def test_what_moves_a_cursor_is_shown_as_text(text: object, shown: str) -> None:
    assert table.clean(text) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.1234, "0.12s"), (9.96, "10s"), (59.9, "59s"), (119, "119s"), (120, "2m"),
        (7199, "119m"), (7200, "2h"), (172_799, "47h"), (172_800, "2d"), (1e9, "11574d"),
    ],
)  # fmt: skip
def test_a_time_is_short(seconds: float, text: str) -> None:
    assert table.span(seconds) == text


WORKER = {
    "slot": 3, "number": 1, "generation": 2, "pid": 4711, "state": "ready", "role": "leader", "age": 7300.0,
    "requests": 1_234_567, "connections": 4096, "rss_bytes": 45 << 20, "busy_for": 0.5,
    "request": "GET /" + "x" * 150 + " HTTP/1.1",
}  # fmt: skip
STATUS = {
    "master": {
        "version": "1.0", "name": "web", "state": "running", "why": "", "last_error": "", "pid": 4700,
        "uptime": 90_000.0, "generation": 2, "templates": [4701], "model": "leader-followers", "io": "epoll",
        "accept": "lock", "app": "mysite.wsgi", "interface": "wsgi", "workers_wanted": 2,
        "reloads": {"success": 3, "failure": 1, "superseded": 0}, "config": "/etc/forkd.toml",
        "pidfile": "/run/forkd/web.pid", "control": "/run/forkd/web.sock", "error_log": "/var/log/e.log",
        "access_log": None,
    },
    "totals": {
        "requests": 2_000_000, "codes": {"200": 1_999_988, "404": 2, "500": 7, "503": 3}, "accepted": 12_000,
        "exits": {"SIGKILL": 5, "max-age": 4, "reload": 3, "timeout": 1},
        "untimely": {"SIGKILL": 5, "timeout": 1},
    },
    "departures": [
        {"time": "2026-01-01T00:00:00.000Z", "slot": n, "pid": 100 + n, "reason": "SIGKILL",
         "signal": "SIGKILL", "exit_code": None, "age": 3.0, "fault": None, "error": None,
         "request": None}
        for n in range(5)
    ],
    "workers": [WORKER, {**WORKER, "slot": 12, "request": None, "busy_for": 0, "requests": 1}],
    "listeners": [{"address": "127.0.0.1:8000", "accept_queue": 1, "backlog": 2048, "broken": ""}],
    "logger": {"pid": 4702, "why": ""}, "admin": "127.0.0.1:9464",
}  # fmt: skip


@pytest.mark.parametrize(("terminal", "most"), [("40", 80), ("80", 80), ("100", 100), ("250", 100)])
def test_status_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, terminal: str, most: int) -> None:
    monkeypatch.setenv("COLUMNS", terminal)
    lines = table.render(STATUS).splitlines()
    assert max(map(len, lines)) <= most
    assert len(lines[-2]) == most  # what there is of the request uses the room


def test_status_says_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = table.render(STATUS).splitlines()
    for line in (
        "forkd 1.0 [web] running",
        "master       pid 4700, up 25h, generation 2, template pid 4701",
        "workers      2 ready, 2 wanted",
        "answered     2000000 requests, 10 of them 5xx; 12000 connections",
        "died         6 workers: 5 SIGKILL, 1 timeout; the last:",
        "replaced     4 max-age, 3 reload",
        "reloads      3 success, 1 failure",
        "files        config     /etc/forkd.toml",
        "             pid file   /run/forkd/web.pid",
        "             control    /run/forkd/web.sock",
        "             error log  /var/log/e.log",
        "SLOT  NO  GEN   PID  ROLE    AGE  REQUESTS  CONNS  RSS  BUSY  REQUEST",
        "  12   1    2  4711  leader   2h         1   4096  45M     -  -",
    ):
        assert line in lines, "\n".join(lines)
    assert sum("(pid 10" in line for line in lines) == 3


def test_deaths_whose_reports_are_not_there_announce_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade the new master has the numbers; the reports are in the error log."""
    monkeypatch.setenv("COLUMNS", "100")
    lines = table.render({**STATUS, "departures": []}).splitlines()
    at = lines.index("died         6 workers: 5 SIGKILL, 1 timeout; before an upgrade: see the error log")
    assert lines[at + 1] == "replaced     4 max-age, 3 reload"


#: What a master of the commit 3bf9a38 says, with one worker.
OLD: dict[str, Any] = {
    "master": {
        "pid": 6842, "name": "forkd", "version": "0.1.0", "generation": 1, "state": "running", "why": "",
        "model": "leader-followers", "io": "epoll", "io_fallback": "", "accept": "lock", "app": "app:app",
        "interface": "wsgi", "uptime": 200.0, "templates": [], "workers_wanted": 2,
        "reloads": {"success": 0, "failure": 0}, "last_error": "", "pidfile": "/run/forkd/o.pid",
        "control": "/run/forkd/o.sock", "error_log": "/run/forkd/o.log",
    },
    "workers": [
        {"slot": 1, "pid": 6864, "generation": 1, "state": "ready", "role": "leader", "requests": 7,
         "connections": 0, "in_flight": 0, "rss_bytes": 27262976, "busy_for": 0.0, "request": None,
         "age": 200.0},
    ],
    "listeners": [{"address": "127.0.0.1:8000", "accept_queue": 0, "backlog": 2048, "deferring": True}],
    "admin": "127.0.0.1:9464", "doorbell": {"rings": 0, "looks": 1, "grants": 0}, "departures": [],
}  # fmt: skip


def test_a_master_that_is_still_to_be_upgraded_is_shown_as_far_as_it_says() -> None:
    """The command is new as soon as it is installed, and status is what one looks at before an upgrade."""
    assert table.render(OLD).splitlines() == [
        "forkd 0.1.0 [forkd] running",
        "",
        "master       pid 6842, up 3m, generation 1",
        "model        leader-followers, io epoll, accept lock",
        "app          app:app (wsgi)",
        "workers      1 ready, 2 wanted",
        "metrics      http://127.0.0.1:9464/metrics",
        "listening    127.0.0.1:8000, 0 of 2048 waiting",
        "files        pid file   /run/forkd/o.pid",
        "             control    /run/forkd/o.sock",
        "             error log  /run/forkd/o.log",
        "",
        "SLOT  NO  GEN   PID  ROLE    AGE  REQUESTS  CONNS  RSS  BUSY  REQUEST",
        "   1   -    1  6864  leader   3m         7      0  26M     -  -",
    ]
