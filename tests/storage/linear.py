"""Whether a recorded history of one key is linearizable: the search of Wing and Gong, with Lowe's memory.

An operation took effect at one instant between its call and its return. One whose process was killed before
its return took effect at one between its call and the end of that process, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple


class Operation(NamedTuple):
    name: str
    argument: Any
    result: Any  # of no meaning where it was killed
    called: float
    returned: float  # where it was killed: by when it can have no effect any more
    killed: bool = False


#: From a state and an operation to the new state and the result. None is the state of a missing key.
Model = Callable[[Any, str, Any], tuple[Hashable, Any]]


def is_linearizable(history: list[Operation], model: Model, first: Hashable = None) -> bool:
    operations = sorted(history, key=lambda operation: operation.called)
    everything = (1 << len(operations)) - 1
    # What is done, as a bit for each operation, and the state after it.
    stack: list[tuple[int, Hashable]] = [(0, first)]
    seen = set(stack)
    while stack:
        done, state = stack.pop()
        if done == everything:
            return True
        for i in _next(operations, done):
            operation = operations[i]
            after, result = model(state, operation.name, operation.argument)
            steps = [(done | 1 << i, state)] if operation.killed else []
            if operation.killed or result == operation.result:
                steps.append((done | 1 << i, after))
            for step in steps:
                if step not in seen:
                    seen.add(step)
                    stack.append(step)
    return False


def _next(operations: list[Operation], done: int) -> list[int]:
    """Those that may be the next: called before any other of those that are left had returned."""
    low = (~done & (done + 1)).bit_length() - 1
    until = float("inf")
    found = []
    for i in range(low, len(operations)):
        if operations[i].called > until:
            break
        if not done >> i & 1:
            found.append(i)
            until = min(until, operations[i].returned)
    return [i for i in found if operations[i].called <= until]


def register(state: Any, name: str, argument: Any) -> tuple[Hashable, Any]:
    """One key of a cache. A `cas` has the value that its token was read with: values do not come again."""
    if name == "get":
        return state, state
    if name == "set":
        return argument, None
    if name == "add":
        return (argument, True) if state is None else (state, False)
    if name == "delete":
        return None, state is not None
    if name == "cas":
        old, new = argument
        return (new, True) if state == old else (state, False)
    assert name == "incr"
    value = (state or 0) + argument
    return value, value
