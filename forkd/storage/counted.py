"""Counts the calls of an engine for the metrics: how many, how long, how many found a value, how many failed.

Around engines that wait for a disk or a server. A table in shared memory has counters of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forkd.storage.engine import Engine
from forkd.storage.errors import Error, Fenced, Stalled
from forkd.system.originals import monotonic_ns

__all__ = ["counted"]

_VERBS = (
    "get", "get_many", "put", "put_many", "touch", "delete", "incr", "clear", "acquire", "renew", "release",
    "push", "pop", "ack", "hold", "defer", "size", "allow", "publish",
)  # fmt: skip


def counted(engine: Engine, count: Callable[[str, int], None] | None) -> Engine:
    """The same engine. `count` adds to one of STORAGE_COUNTS (system/cells.py); None: nothing is counted."""
    if count is not None:
        engine.verbs = {}  # which count nothing
        for name in _VERBS:
            setattr(engine, name, _timed(getattr(engine, name), count, _FOUND.get(name)))
    return engine


def _timed(
    call: Callable[..., Any], count: Callable[[str, int], None], found: Callable[..., tuple[int, int]] | None
) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        began = monotonic_ns()
        try:
            result = call(*arguments, **options)
        except Error as error:
            if not isinstance(error, Fenced):
                count("errors", 1)
            if isinstance(error, Stalled):
                count("stalls", 1)
            raise
        finally:
            count("calls", 1)
            count("ns", monotonic_ns() - began)
        if found is not None:
            hits, misses = found(result, *arguments)
            count("hits", hits)
            count("misses", misses)
        return result

    return timed


#: How many values a result has, and how many it lacks.
_FOUND: dict[str, Callable[..., tuple[int, int]]] = {
    "get": lambda entry, key: (0, 1) if entry is None else (1, 0),
    "get_many": lambda values, keys: (len(values), len(keys) - len(values)),
}
