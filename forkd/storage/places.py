"""Which engine a place has: from a URL, or from the name of a unit of the daemon, to what opens it."""

from __future__ import annotations

from collections.abc import Callable

from forkd.config.storage_url import StorageUnits, StorageURL
from forkd.storage.counted import counted
from forkd.storage.engine import Engine
from forkd.storage.errors import Error
from forkd.system import shared
from forkd.system.originals import os

__all__ = ["connector", "place_of"]

VARIABLE = "FORKD_STORAGE"


def place_of(name: str) -> StorageURL:
    """The place of the unit that is called so: of the service, in a process of one. Raises Error, and
    ValueError for a variable that makes no sense."""
    raw = os.environ.get(VARIABLE, "")
    if places := shared.places():
        units = {unit: StorageURL.parse(text) for unit, text in places.items()}
    else:
        units = dict(StorageUnits().read(raw, os.getcwd())) if raw.strip() else {}
    try:
        return units[name]
    except KeyError:
        there = f"; there is {', '.join(units)}" if units else f"; --storage or {VARIABLE} says where it is"
        raise Error(f"there is no storage unit called {name}{there}") from None


def connector(name: str, place: StorageURL) -> Callable[[], Engine]:
    """What opens its engine in the process that calls it."""
    if place.kind == "sqlite":
        from forkd.storage.sqlite import SqliteEngine

        return lambda: counted(
            SqliteEngine(place.path, place.full_sync, place.limit), shared.counter_of(name)
        )
    if place.kind == "valkey":
        from forkd.storage.valkey import ValkeyEngine

        return lambda: counted(ValkeyEngine(place), shared.counter_of(name))
    if place.kind == "shm" and shared.table_of(name) is not None:
        from forkd.storage.shm import Shm

        return lambda: Shm.open(name)
    raise Error(
        f"{place}: shared memory is the daemon's, and this process is none of its; "
        "give a sqlite: or valkey: place, or use forkd storage"
    )
