"""The two twins of the table: the same calls, by a seed that a failure prints, on a table of each and on one
of both, come to the same."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from forkd.native import native
from forkd.storage.errors import Error
from forkd.storage.shm_layout import layout_of
from tests.storage.tables import SMALL, Memory

pytestmark = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "6000"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
FOREVER = 10_000.0


Call = tuple[str, tuple[Any, ...]]


def a_call(rng: random.Random, tokens: list[int], receipts: list[tuple[str, int, int]]) -> Call:
    key = rng.choice(["a", "b" * 64, "c" * 65, "d" * 250, *map(str, range(40))])
    size = rng.choice([0, 1, 40, 60, 64, 128, 300, 3000, 60_000])
    value = rng.choice([bytes(size), "é" * (size // 2), rng.randrange(-5, 5), 2**63 - 1])
    ttl = rng.choice([None, None, FOREVER, 0])
    token, queue = rng.choice([*tokens[-20:], 1]), rng.choice(["q", "q.dead", "r"])
    receipt = rng.choice([*receipts[-20:], ("q", 1, 1)])
    match rng.randrange(19):
        case 0 | 1:
            return "put", (key, value, ttl, rng.randrange(3), rng.choice([None, None, token]), None)
        case 2:
            return "put", (key, value, None, 0, None, rng.randrange(10))
        case 3 | 4:
            return "get", (key,)
        case 5:
            return "delete", (key,)
        case 6:
            return "touch", (key, ttl)
        case 7:
            return "incr", (key, rng.randrange(-3, 3), ttl)
        case 8:
            return "acquire", (key, FOREVER)
        case 9:
            return rng.choice([("release", (key, token)), ("renew", (key, token, FOREVER))])
        case 10:
            return "allow", (key, FOREVER, 3, rng.randrange(4))
        case 11 | 12:
            return "push", (queue, bytes(size), rng.choice([0, 0, FOREVER]), rng.choice([None, 5]))
        case 13:
            return "pop", (queue, rng.choice([0, FOREVER]), rng.randrange(3))
        case 14:
            held = rng.random() < 0.5
            return rng.choice([("ack", receipt), ("defer", (*receipt, rng.choice([0, FOREVER]), held))])
        case 15:
            return rng.choice([("size", (queue,)), ("repair", (0,))])
        case 16:
            return "publish", (rng.choice("xy"), bytes(size))
        case 17:
            return "join", (rng.choice("xy"), rng.choice([1, -1]))
        case _:
            return "message", (rng.choice("xy"), token)


def outcome(table: Any, name: str, args: tuple[Any, ...]) -> Any:
    try:
        found = getattr(table, name)(*args)
    except (Error, TypeError, OverflowError, ValueError) as error:
        return type(error).__name__
    if name == "get" and found is not None:
        return found[:2], found[2] is None
    if name == "allow":
        return found[:2]
    return tuple(found) if isinstance(found, tuple) else found


def take_note(name: str, args: tuple[Any, ...], found: Any, tokens: list[int], receipts: list[Any]) -> None:
    if name in ("acquire", "push", "join") and isinstance(found, int):
        tokens.append(found)
    if name == "get" and isinstance(found, tuple):
        tokens.append(found[0][1])
    if name == "pop" and isinstance(found, tuple):
        receipts.append((args[0], found[0], found[2]))


@pytest.mark.parametrize("size", [SMALL, 24 << 20], ids=["one shard", "three shards"])
def test_they_do_the_same(size: int) -> None:
    rng = random.Random(SEED)
    one = Memory(size)
    tables = one.open(True), Memory(size, one.header).open(False)
    tokens: list[int] = []
    receipts: list[tuple[str, int, int]] = []
    for step in range(ROUNDS):
        name, args = a_call(rng, tokens, receipts)
        left, right = (outcome(table, name, args) for table in tables)
        assert left == right, f"FUZZ_SEED={SEED}, step {step}: {name}{args!r:.200}"
        take_note(name, args, left, tokens, receipts)
    for shard in range(layout_of(size).shards):
        left, right = (table.cells(shard)[8:48] for table in tables)
        assert left == right, f"FUZZ_SEED={SEED}"


def test_they_share_a_table() -> None:
    """Either, by turns; what that comes to is what native code alone comes to."""
    rng = random.Random(SEED)
    one = Memory()
    alone, shared = one.open(True), Memory(header=one.header)
    both = shared.open(True), shared.open(False)
    tokens: list[int] = []
    receipts: list[tuple[str, int, int]] = []
    for step in range(ROUNDS):
        name, args = a_call(rng, tokens, receipts)
        left, right = outcome(alone, name, args), outcome(rng.choice(both), name, args)
        assert left == right, f"FUZZ_SEED={SEED}, step {step}: {name}{args!r:.200}"
        take_note(name, args, left, tokens, receipts)
