"""Signals of processes, told from the kernel's; those of a terminal are in tests/process/test_terminal.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from forkd.native import native

pytestmark = pytest.mark.skipif(native is None, reason="there is no native code here")


@pytest.fixture
def usr1() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_process_is_heard_and_the_handler_is_pythons(usr1: None) -> None:
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    native.only_from_processes(signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1, signal.SIGUSR1]
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # takes its place
    os.kill(os.getpid(), signal.SIGUSR1)
    assert len(heard) == 2


@pytest.mark.parametrize("number", [0, -1, 65, 1 << 40, signal.SIGUSR1, "USR1"])
def test_what_has_no_handler_of_pythons(usr1: None, number: object) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    with pytest.raises((ValueError, TypeError)):
        native.only_from_processes(number)


def test_twice_is_once(usr1: None) -> None:
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    native.only_from_processes(signal.SIGUSR1)
    with pytest.raises(ValueError):
        native.only_from_processes(signal.SIGUSR1)
