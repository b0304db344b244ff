"""The units of shared memory: their tables, and the page that tells which children live. In the master.

Made at the start, taken over from the master before, or from the manager's store. A table stays as it is
until a restart, whatever a reload asks for. The master reads its header when it takes one over, and else
nothing of what is in it (docs/decisions/0073-shared-memory-of-the-master.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from forkd.config import Config
from forkd.errors import StartError
from forkd.log.lines import Log
from forkd.system import process
from forkd.system.shared import Units
from forkd.system.shared_memory import Bells, Incarnations, header_of, make_table, why_no_table


class SharedTables:
    def __init__(
        self, config: Config, slots: int, log: Log, handed: Mapping[str, Any], stored: Mapping[str, int]
    ) -> None:
        """`handed`: from the master before, as `hand_over` of that has said it; `stored`: memfds by name,
        from the manager's store. Those that are not used are closed. Raises StartError."""
        self._log = log
        self.tables: dict[str, int] = {}  # memfds by name of the unit
        self._page: Incarnations | None = None
        before = {**stored, **handed.get("tables", {})}
        wanted = {name: url.limit for name, url in config.storage if url.kind == "shm"}
        try:
            for name, size in wanted.items():
                self.tables[name] = self._take(name, size, before.pop(name, None), bool(handed))
            if wanted:
                # Not that of the master before, whose children may be here still.
                epoch = handed["epoch"] + 1 if "epoch" in handed else os.getpid()
                self._page = Incarnations(slots, epoch)
            self._headers = {name: header_of(fd) for name, fd in self.tables.items()}
            self._bells = [Bells(fd) for fd in self.tables.values()]
        except OSError as error:
            raise StartError(f"storage: {process.why_no_fork(error)}") from error
        for fd in before.values():
            os.close(fd)

    def _take(self, name: str, size: int, fd: int | None, upgrade: bool) -> int:
        if fd is None:
            return make_table(name, size)
        os.set_inheritable(fd, False)
        why = why_no_table(fd)
        has = os.fstat(fd).st_size
        if not why and has != size:
            if upgrade:
                self._log.warning(f"storage {name}: keeps its {has} bytes until a restart")
            else:
                why = f"it has {has} bytes, and {size} are configured"
        if not why:
            return fd
        self._log.warning(f"storage {name}: begins empty; of the table from before: {why}")
        made = make_table(name, size)  # before that number is free again: the manager is told of another
        os.close(fd)
        return made

    def units(self, config: Config) -> Units:
        """What a child is given."""
        places = {name: url.text for name, url in config.storage}
        page = None if self._page is None else self._page.fd
        return Units(places, self.tables, page, config.native, self._headers)

    def died(self, slot: int) -> None:
        """The child in that slot has: what it held is free, and whoever waits for that looks again."""
        if self._page is not None:
            self._page.end(slot)
            for bells in self._bells:
                bells.wake()

    def hand_over(self) -> dict[str, Any]:
        """For a new master: memfds by name, and the epoch of this one."""
        return {} if self._page is None else {"tables": self.tables, "epoch": self._page.epoch}
