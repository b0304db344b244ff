"""Tables for tests, and processes that use one."""

from __future__ import annotations

import mmap
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from forkd.native import native
from forkd.storage.shm_table import open_table
from forkd.system import shared
from forkd.system.shared_memory import new_header

#: Which twins there are, by whether they are native.
TWINS = [False] if native is None else [True, False]
SMALL = 1 << 20


class Memory:
    """The memory of a table without entries, and a page of incarnations, as the master has them."""

    def __init__(self, size: int = SMALL, header: bytes = b"") -> None:
        self.fd = os.memfd_create("test-table")
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.header = header or new_header(size)
        self.map[: len(self.header)] = self.header
        self.page_fd = os.memfd_create("test-page")
        os.ftruncate(self.page_fd, mmap.PAGESIZE)
        self.page = mmap.mmap(self.page_fd, mmap.PAGESIZE)
        self.incarnations = memoryview(self.page).cast("Q")
        for slot in range(1, len(self.incarnations)):
            self.incarnations[slot] = 1

    def open(self, native: bool, slot: int = 0, instant: bool = False) -> Any:
        return open_table(self.map, self.page, slot, self.fd, instant=instant, native=native)


_served: list[Memory] = []


def serve(memory: Memory | None, native: bool = True) -> None:
    """This process and its children are of a service that has this as its storage unit."""
    shared._mapped.clear()
    _served[:] = [] if memory is None else [memory]
    units = shared.Units()
    if memory is not None:
        units = shared.Units({"default": "shm:8m"}, {"default": memory.fd}, memory.page_fd, native)
    shared.enter(units, 0)


def enter(slot: int) -> None:
    """This process is in that slot."""
    if _served:
        shared.enter(shared._Entered.units, slot)


def died(slot: int) -> None:
    """As the master says it."""
    if _served:
        _served[0].incarnations[slot] += 1


def fork(run: Callable[[], object]) -> int:
    """A child that calls `run`, and exits with 0 unless that raises."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@contextmanager
def running(run: Callable[[], object]) -> Iterator[int]:
    """A child that calls `run` for as long as this lasts."""
    pid = fork(run)
    try:
        yield pid
    finally:
        kill(pid)


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    end = monotonic() + seconds
    while not (found := condition()):
        assert monotonic() < end, f"not within {seconds} s: {what}"
        sleep(0.001)
    return found
