"""The table in shared memory: what its verbs do, by either twin."""

from __future__ import annotations

import os
from typing import Any

import pytest

from forkd.storage.engine import Packed
from forkd.storage.errors import Damaged, Fenced, Full, TooLarge
from forkd.storage.shm_layout import Cell, layout_of
from forkd.system.shared_memory import LAYOUT, MAGIC, new_header, read_header, statistics
from tests.storage.tables import SMALL, TWINS, Memory, until

ANY, ABSENT, PRESENT = 0, 1, 2


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture(params=TWINS, ids=lambda native: "native" if native else "twin")
def table(memory: Memory, request: pytest.FixtureRequest) -> Any:
    return memory.open(request.param)


def cell(table: Any, name: Cell) -> int:
    return int.from_bytes(table.cells(0)[8 * name : 8 * name + 8], "little")


@pytest.mark.parametrize(
    "value",
    [
        b"", b"x", b"y" * 63, b"\xff" * 64, bytes(range(256)) * 20, "", "héllo", 0, -1, 2**63 - 1, -(2**63),
    ],
)  # fmt: skip
def test_a_value_comes_back_as_it_was(table: Any, value: Any) -> None:
    for key in ("k", b"\xff\0", "é" * 125):
        table.set(key, value)
        found = table.read(key)
        assert (type(found), found) == (type(value), value)


def test_what_a_serializer_made_is_told_apart(table: Any) -> None:
    table.put("k", Packed(b"x"), None, ANY, None, None)
    assert type(table.read("k")) is Packed and table.read("k") == b"x"


def test_a_buffer_is_kept_as_bytes(table: Any) -> None:
    for buffer in (bytearray(b"x"), memoryview(b"x")):
        table.set("k", buffer)
        assert table.read("k") == b"x"


def test_none_and_defaults(table: Any) -> None:
    assert table.get("k") is None and table.read("k") is None
    assert table.read("k", 5) == table.read("k", default=5) == 5
    assert not table.delete("k") and not table.touch("k", 5)


def test_conditions(table: Any) -> None:
    assert not table.put("k", b"1", None, PRESENT, None, None)
    assert table.put("k", b"1", None, ABSENT, None, None)
    assert not table.put("k", b"2", None, ABSENT, None, None)
    token = table.get("k")[1]
    assert table.put("k", b"2", None, PRESENT, None, None)
    assert not table.put("k", b"3", None, ANY, token, None)
    assert table.put("k", b"3", None, ANY, table.get("k")[1], None)
    assert table.delete("k") and not table.put("k", b"4", None, ANY, token, None)


def test_each_write_has_a_token_of_its_own(table: Any) -> None:
    seen = set()
    for change in (lambda: table.set("k", 1), lambda: table.incr("k"), lambda: table.delete("k")) * 3:
        change()
        found = table.get("k")
        assert found is None or found[1] not in seen
        seen |= {found[1]} if found else set()


def test_a_counter(table: Any) -> None:
    assert [table.incr("n"), table.incr("n", 5), table.incr("n", by=-10)] == [1, 6, -4]
    table.set("s", "x")
    with pytest.raises(TypeError):
        table.incr("s")
    table.set("n", 2**63 - 1)
    with pytest.raises(OverflowError):
        table.incr("n")
    assert table.read("n") == 2**63 - 1


def test_ends(table: Any) -> None:
    table.set("k", b"x", 0.02)
    table.set("long", b"x", ttl=1000)
    assert 990 < table.get("long")[2] <= 1000
    until(lambda: table.read("k") is None, "the end of k")
    assert table.incr("n", 1, 0.02) == 1
    until(lambda: table.read("n") is None, "the end of n")
    assert table.touch("long", None) and table.get("long")[2] is None
    table.set("long", b"y", ttl=0)
    assert table.read("long") is None


def test_fences(table: Any) -> None:
    table.set("k", b"1", fence=10)
    for token in (10, 11):
        table.set("k", b"2", fence=token)
    with pytest.raises(Fenced):
        table.set("k", b"3", fence=10)
    assert table.delete("k")
    with pytest.raises(Fenced):
        table.set("k", b"3", fence=10)
    table.set("k", b"4")


def test_what_is_too_large(table: Any) -> None:
    with pytest.raises(TooLarge):
        table.set("k", bytes((1 << 20) + 1))
    with pytest.raises(TooLarge):
        table.set("k" * 251, b"")
    with pytest.raises(ValueError):
        table.set("", b"")
    for nothing in (1.5, None, [b"x"]):
        with pytest.raises(TypeError):
            table.set("k", nothing)
    with pytest.raises(OverflowError):
        table.set("k", 1 << 63)
    assert table.read("k") is None


@pytest.mark.parametrize("native", TWINS)
def test_a_megabyte(native: bool) -> None:
    table, data = Memory(8 << 20).open(native), os.urandom(1 << 20)
    for key in ("a", "b", "a"):
        table.set(key, data)
    assert table.read("a") == table.read("b") == data


def test_a_lock(table: Any) -> None:
    first = table.acquire("l", 10)
    assert table.acquire("l", 10) is None and 9 < table.held_for("l") <= 10
    assert table.renew("l", first, 20) and table.held_for("l") > 10
    assert not table.release("l", first + 1) and table.release("l", first) and not table.release("l", first)
    second = table.acquire("l", 0.02)
    assert second > first
    until(lambda: table.held_for("l") is None, "the end of the lease")
    assert not table.renew("l", second, 10)
    assert table.acquire("l", 10) > second


def test_a_limit(table: Any) -> None:
    allowed = [table.allow("k", 1000, 3, 1) for _ in range(4)]
    assert [(passed, left) for passed, left, _ in allowed] == [(True, 2), (True, 1), (True, 0), (False, 0)]
    assert 990 < allowed[3][2] <= 1000
    assert not table.allow("j", 1000, 3, 4)[0] and table.allow("j", 1000, 3, 3)[0]
    assert table.allow("f", 0.01, 1, 1)[0]
    until(lambda: table.allow("f", 0.01, 1, 1)[0], "the next one passes")


def test_a_queue(table: Any) -> None:
    ids = [table.push("q", b"%d" % i, 0, None) for i in range(3)]
    assert ids == sorted(set(ids))
    popped = [table.pop("q", 100, 0) for _ in range(4)]
    assert [(p[1], p[2]) for p in popped[:3]] == [(b"0", 1), (b"1", 1), (b"2", 1)] and popped[3] is None
    assert table.size("q") == (0, 0, 3, 0) and 90 < table.due_in("q") <= 100
    assert not table.ack("q", ids[0], 2) and table.ack("q", ids[0], 1) and not table.ack("q", ids[0], 1)
    assert table.defer("q", ids[1], 1, 200, True) and table.defer("q", ids[2], 1, 0, False)
    assert table.size("q") == (1, 0, 1, 0)
    assert not table.ack("q", ids[2], 1) and table.pop("q", 100, 0)[2] == 2
    assert table.ack("q", ids[2], 2) and table.ack("q", ids[1], 1)
    assert table.size("q") == (0, 0, 0, 0) and table.due_in("q") is None


def test_delays(table: Any) -> None:
    for delay in (0.9, 0.3, 0, 0.6, 1000):
        table.push("q", b"%g" % delay, delay, None)
    found: list[bytes] = []

    def all_due() -> bool:
        item = table.pop("q", 1000, 0)
        found.extend([item[1]] if item else [])
        return len(found) == 4

    until(all_due, "four are due")
    assert sorted(found) == [b"0", b"0.3", b"0.6", b"0.9"] and found[0] == b"0"
    assert table.size("q") == (0, 1, 4, 0)


def test_dead_letters(table: Any) -> None:
    table.push("q", b"x", 0, None)
    for tries in (1, 2):
        item = until(lambda: table.pop("q", 0.01, 2), "it is due")
        assert item[2] == tries
    until(lambda: table.pop("q", 0.01, 2) is None and table.size("q")[3], "it is dead")
    assert table.size("q") == (0, 0, 0, 1)
    item = table.pop("q.dead", 100, 0)
    assert item[1:] == (b"x", 1) and table.ack("q.dead", item[0], 1)


def test_a_queue_has_a_limit(table: Any) -> None:
    table.push("q", b"x", 0, 2)
    table.push("q", b"x", 100, 2)
    with pytest.raises(Full):
        table.push("q", b"x", 0, 2)


def test_a_channel(table: Any) -> None:
    assert table.publish("c", b"lost") == 0
    one, two = table.join("c", 1), table.join("c", 1)
    assert table.publish("c", b"1") == table.publish("c", b"2") == 2
    one, data = table.message("c", one)
    assert data == b"1"
    one, data = table.message("c", one)
    assert data == b"2" and table.message("c", one) == (one, None)
    assert table.message("c", two)[1] == b"1"
    table.join("c", -1), table.join("c", -1)
    assert table.publish("c", b"3") == 0


def test_a_bell_changes(table: Any) -> None:
    for change in (
        lambda: table.push("n", b"", 0, None), lambda: table.release("n", table.acquire("n", 9)),
        lambda: (table.join("n", 1), table.publish("n", b"")),
    ):  # fmt: skip
        seen = table.bell("n")
        change()
        assert table.bell("n") != seen
        table.sleep("n", seen, 100)  # returns at once
    table.sleep("n", table.bell("n"), 100)  # and this soon


def test_what_is_evicted(table: Any) -> None:
    """What has ended goes first, then what was not read; and never what is no value of the cache."""
    for i in range(50):
        table.incr(f"count{i}")
        table.push("q", b"item", 0, None)
        table.set(f"fenced{i}", b"", fence=i)
        assert table.acquire(f"lock{i}", 1000) and table.allow(f"limit{i}", 1000, 1, 1)[0]
        table.set(f"short{i}", bytes(2000), 0.02)
    until(lambda: all(table.read(f"short{i}") is None for i in range(50)), "their end")
    size, i = layout_of(SMALL).blocks * 128, 0
    while cell(table, Cell.EVICTED) == 0:
        table.set(f"k{i}", bytes(2000))
        i += 1
        assert i < 2 * size // 2000
    assert i * 2000 > size * 0.8  # those that had ended went first
    for j in range(i, 3 * i):
        table.set(f"k{j}", bytes(2000))
        assert table.read("k0") is not None  # read all the time
    for i in range(50):
        assert table.incr(f"count{i}") == 2
        assert table.acquire(f"lock{i}", 1000) is None and not table.allow(f"limit{i}", 1000, 1, 1)[0]
        with pytest.raises(Fenced):
            table.set(f"fenced{i}", b"", fence=i - 1)
        assert table.pop("q", 1000, 0)[1] == b"item"


def test_full(table: Any) -> None:
    table.set("evicted", b"x")
    with pytest.raises(Full):
        for _ in range(1000):
            table.push("q", bytes(5000), 0, None)
    with pytest.raises(Full):
        for i in range(10000):
            table.acquire(f"{i}", 1000)
    assert table.read("evicted") is None and table.pop("q", 1000, 0)[1] == bytes(5000)
    with pytest.raises(Full):
        table.set("k", bytes(5000))


def test_the_keys(table: Any) -> None:
    buckets = layout_of(SMALL).buckets
    for i in range(1000):
        table.set(f"k{i}", b"")
    table.acquire("lock", 1000)
    assert sorted(table.scan(0, 0, buckets, False)) == sorted(b"k%d" % i for i in range(1000))
    assert cell(table, Cell.KEYS) == 1000
    table.scan(0, 0, buckets, True)
    assert table.scan(0, 0, buckets, False) == [] and cell(table, Cell.KEYS) == 0
    assert table.acquire("lock", 1000) is None
    with pytest.raises(ValueError):
        table.scan(0, 1, buckets, False)


def test_the_statistics(memory: Memory, table: Any) -> None:
    assert set(statistics(memory.fd).values()) == {0}
    table.set("k", bytes(1000)), table.read("k"), table.read("k"), table.read("none")
    found = statistics(memory.fd)
    assert (found["keys"], found["hits"], found["misses"], found["evictions"]) == (1, 2, 1, 0)
    assert found["bytes"] == 9 * 128


def test_a_repair_changes_nothing(table: Any) -> None:
    for i in range(100):
        table.set(f"k{i}", os.urandom(i * 10))
        table.push("q", b"%d" % i, (i * 7919 % 100) / 100, None)
    before = [table.read(f"k{i}") for i in range(100)], table.size("q")[0] + table.size("q")[1]
    high, free = cell(table, Cell.HIGH), cell(table, Cell.FREE_COUNT)
    assert table.repair(0)
    assert ([table.read(f"k{i}") for i in range(100)], sum(table.size("q")[:2])) == before
    assert cell(table, Cell.HIGH) - cell(table, Cell.FREE_COUNT) == high - free
    found: list[int] = []

    def all_due() -> bool:
        item = table.pop("q", 1000, 0)
        found.extend([int(item[1])] if item else [])
        return len(found) == 100

    until(all_due, "all are due")
    assert sorted(found) == list(range(100))


# ---- the header


def test_a_header_is_read_again() -> None:
    header = new_header(SMALL)
    born, seed = read_header(header, SMALL)
    assert born > 1.7e15 and len(seed) == 16


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda h: b"X" + h[1:], "does not begin"), (lambda h: h[:8] + bytes([LAYOUT + 1]) + h[9:], "layout"),
        (lambda h: h[:-1] + bytes([h[-1] ^ 1]), "checksum"), (lambda h: h[:20], "short"),
        (lambda h: new_header(2 * SMALL), "bytes"), (lambda h: bytes(len(h)), "does not begin"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_told(change: Any, why: str) -> None:
    header = new_header(SMALL)
    assert header.startswith(MAGIC)
    with pytest.raises(ValueError, match=why):
        read_header(change(header), SMALL)
    with pytest.raises(Damaged, match=why.replace("short", "checksum")):
        Memory(SMALL, change(header)).open(True)


@pytest.mark.parametrize("size", [1 << 20, (4 << 20) + 4096, 5_000_000, 64 << 20, 1 << 30, 1 << 36])
def test_a_layout_fits(size: int) -> None:
    found = layout_of(size)
    assert 4096 + found.shards * found.shard_bytes <= size
    assert found.buckets_at + 4 * found.buckets <= found.blocks_at and found.blocks_at % 128 == 0
    assert found.blocks_at + 128 * found.blocks == found.shard_bytes
    assert size < 2 << 20 or found.blocks * 128 > (1 << 20) + 1000
