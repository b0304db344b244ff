"""Exchanges on their way to threads and back: each is closed, or its session is resumed with it, once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from forkd.engine.multiplexing import Multiplexing
from forkd.session.seam import Multiplexed


class Connections:
    """Those of a loop, as far as they matter here."""

    def __init__(self) -> None:
        self.by_fd: dict[int, Any] = {}
        self.reported: list[Multiplexed] = []

    def resumable(self, conn: Any) -> bool:
        return bool(conn.kept)

    def report(self, exchange: Multiplexed) -> None:
        self.reported.append(exchange)


class Loop:
    def __init__(self) -> None:
        self.connections: Any = Connections()
        self.run: list[Multiplexed] = []
        self.resumed: list[Multiplexed] = []
        self.multiplexing = Multiplexing(
            self.connections, self.run.append, lambda conn, exchange: self.resumed.append(exchange)
        )
        self.apart = False
        self.peer: Any = SimpleNamespace(fd=5, kept=True, ended=False, run_apart=self._run_apart)
        self.connections.by_fd[5] = self.peer
        self.events: list[str] = []

    def _run_apart(self, exchange: Multiplexed) -> bool:
        if self.apart:
            self.multiplexing.begin(exchange)
        return self.apart

    def exchange(self) -> Multiplexed:
        return Multiplexed(self.peer, self._steps(), b"GET / HTTP/1.1")

    def _steps(self) -> Iterator[bytes]:  # type: ignore[override]
        try:
            yield b"a"
        finally:
            self.events.append("closed")


def test_a_step_runs_and_the_session_is_resumed_once() -> None:
    loop = Loop()
    exchange = loop.exchange()
    loop.multiplexing.begin(exchange)
    assert loop.multiplexing.waits and not loop.multiplexing.attend() and loop.run == [exchange]
    assert not loop.multiplexing.waits
    assert exchange.step().result == b"a" and not exchange.done
    loop.multiplexing.returned.append(exchange)
    assert exchange.given and not loop.multiplexing.attend()
    assert loop.resumed == [exchange] and not exchange.given
    assert exchange.step().done and exchange.result is None and exchange.failure is None


def test_it_waits_while_its_connection_is_elsewhere_and_others_go_on() -> None:
    loop = Loop()
    other: Any = SimpleNamespace(fd=6, kept=True, ended=False)
    loop.connections.by_fd[6] = other
    loop.peer.kept = False
    waiting, ready = loop.exchange(), Multiplexed(other, loop._steps(), b"")  # type: ignore[arg-type]
    loop.multiplexing.returned.extend([waiting, ready])
    assert loop.multiplexing.attend() and loop.resumed == [ready]
    assert loop.multiplexing.attend() and loop.resumed == [ready]
    loop.peer.kept = True
    assert not loop.multiplexing.attend() and loop.resumed == [ready, waiting]


@pytest.mark.parametrize("how", ["its session has closed it", "its connection is gone", "another came"])
@pytest.mark.parametrize("begun", [False, True])
def test_what_has_no_session_any_more_is_closed_where_its_steps_run(how: str, begun: bool) -> None:
    loop = Loop()
    exchange = loop.exchange()
    loop.multiplexing.begin(exchange)
    if begun:
        loop.multiplexing.attend()
        exchange.step()
        loop.multiplexing.returned.append(exchange)
        loop.run.clear()
    if how == "its session has closed it":
        exchange.close()
    elif how == "its connection is gone":
        del loop.connections.by_fd[5]
    else:
        loop.connections.by_fd[5] = object()
    assert not loop.multiplexing.attend() and not loop.multiplexing.attend()
    assert exchange.over and loop.run == [exchange] and loop.events == []
    exchange.step()
    assert exchange.done and exchange.steps.gi_frame is None  # type: ignore[attr-defined]
    assert loop.events == (["closed"] if begun else [])
    loop.multiplexing.returned.append(exchange)
    assert not loop.multiplexing.attend()
    assert not loop.resumed and not exchange.given and loop.connections.reported == [exchange]


def test_one_whose_session_has_ended_waits_until_that_has_closed_it() -> None:
    """By another thread, maybe at this moment."""
    loop = Loop()
    exchange = loop.exchange()
    loop.multiplexing.begin(exchange)
    loop.multiplexing.attend()
    loop.multiplexing.returned.append(exchange.step())
    loop.run.clear()
    loop.peer.ended = True
    assert loop.multiplexing.attend() and not loop.run and not loop.resumed
    exchange.close()
    assert loop.events == [] and not loop.multiplexing.attend() and loop.run == [exchange]
    assert exchange.step().done and loop.events == ["closed"]


def test_one_at_rest_is_closed_where_its_steps_run() -> None:
    loop = Loop()
    exchange = loop.exchange()
    exchange.step()
    loop.apart = True
    exchange.close()
    assert exchange.given and loop.events == []
    loop.multiplexing.attend()
    assert loop.run == [exchange] and exchange.step().done and loop.events == ["closed"]


def test_one_at_rest_is_closed_at_once_where_no_other_thread_runs_it() -> None:
    loop = Loop()
    exchange = loop.exchange()
    exchange.step()
    exchange.close()
    assert exchange.done and loop.events == ["closed"]


def test_what_a_step_raises_is_kept() -> None:
    def steps() -> Iterator[bytes]:
        yield b"a"
        raise SystemExit(3)

    loop = Loop()
    exchange = Multiplexed(loop.peer, steps(), b"")  # type: ignore[arg-type]
    exchange.step()
    assert exchange.failure is None
    exchange.step()
    assert exchange.done and isinstance(exchange.failure, SystemExit) and exchange.result is None
