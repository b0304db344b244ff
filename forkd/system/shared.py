"""Where this process finds the storage units of its service: their places, and the memory of those that are
in shared memory. In a child of the master, which enters what it has inherited; empty in all others.

Called by the worker and by storage/. A process that the application has forked has what its parent had, but
not its slot.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from typing import NamedTuple

from forkd.system.cells import STORAGE, STORAGE_COUNTS
from forkd.system.originals import os


class Units(NamedTuple):
    """What the master passes on. The default is a service without units."""

    places: Mapping[str, str] = {}  # URL by name
    tables: Mapping[str, int] = {}  # memfd by name
    page: int | None = None  # memfd of the incarnations (system/shared_memory.py)
    native: bool = True  # whether native code is wanted
    #: By name: what the master has written there, or found before any of its children could write.
    headers: Mapping[str, bytes] = {}


class Mapped(NamedTuple):
    """A table, as this process has it mapped."""

    memory: mmap.mmap
    page: mmap.mmap | None
    slot: int  # of this process in the page; 0: it has none
    fd: int
    native: bool
    header: bytes | None  # None: that in the memory


class _Entered:
    units = Units()
    slot = 0
    count: Callable[[int, int], None] | None = None  # a cell of the scoreboard grows by so many
    pid = 0  # of the process that has the slot


_mapped: dict[str, tuple[mmap.mmap, mmap.mmap]] = {}


def enter(units: Units, slot: int, count: Callable[[int, int], None] | None = None) -> None:
    """This process is the child of the master in `slot`; 0: a template. `count` adds to a cell of its row of
    the scoreboard, in any thread."""
    _Entered.units, _Entered.slot, _Entered.pid = units, slot, os.getpid()
    _Entered.count = count


def counter_of(name: str) -> Callable[[str, int], None] | None:
    """What adds to one of STORAGE_COUNTS of a unit; None where nobody reads that: in a process that is no
    worker, or is one's child."""
    count, names = _Entered.count, list(places())
    if count is None or name not in names or os.getpid() != _Entered.pid:
        return None
    first = STORAGE + names.index(name) * len(STORAGE_COUNTS)
    cells = {word: first + place for place, word in enumerate(STORAGE_COUNTS)}
    return lambda word, n: count(cells[word], n)


def places() -> Mapping[str, str]:
    """The URL of each unit, by its name."""
    return _Entered.units.places


def table_of(name: str) -> Mapped | None:
    """The table of a unit; None where there is none of that name. Raises OSError."""
    fd, page = _Entered.units.tables.get(name), _Entered.units.page
    if fd is None or page is None:
        return None
    if name not in _mapped:
        # For reading alone: the kernel lets nobody map the page for more.
        _mapped[name] = (
            mmap.mmap(fd, os.fstat(fd).st_size),
            mmap.mmap(page, os.fstat(page).st_size, prot=mmap.PROT_READ),
        )
    slot = _Entered.slot if os.getpid() == _Entered.pid else 0
    units = _Entered.units
    return Mapped(*_mapped[name], slot, fd, units.native, units.headers.get(name))
