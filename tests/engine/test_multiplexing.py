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
        self.failed: list[Multiplexed] = []

    def resumable(self, conn: Any) -> bool:
        return bool(conn.kept)

    def end(self, exchange: Multiplexed) -> None:
        exchange.close()


class Loop:
    def __init__(self) -> None:
        self.connections: Any = Connections()
        self.run: list[Multiplexed] = []
        self.resumed: list[Multiplexed] = []
        self.multiplexing = Multiplexing(
            self.connections, self.run.append, lambda conn, exchange: self.resumed.append(exchange)
        )
        self.peer: Any = SimpleNamespace(fd=5, kept=True, ended=False)
        self.connections.by_fd[5] = self.peer
        self.events: list[str] = []

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


@pytest.mark.parametrize("how", ["its session has closed it", "its connection has ended", "another came"])
@pytest.mark.parametrize("begun", [False, True])
def test_what_has_no_session_any_more_is_closed_once_no_thread_has_it(how: str, begun: bool) -> None:
    loop = Loop()
    exchange = loop.exchange()
    loop.multiplexing.begin(exchange)
    if begun:
        loop.multiplexing.attend()
        exchange.step()
        loop.multiplexing.returned.append(exchange)
    if how == "its session has closed it":
        exchange.close()
    elif how == "its connection has ended":
        loop.peer.ended = True
    else:
        loop.connections.by_fd[5] = object()
    assert loop.events == []
    assert not loop.multiplexing.attend()
    assert exchange.over and not loop.resumed and exchange.steps.gi_frame is None  # type: ignore[attr-defined]
    assert loop.events == (["closed"] if begun else [])
    exchange.step()
    assert loop.events == (["closed"] if begun else []) and not exchange.done


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
