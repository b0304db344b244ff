"""One semantics: what each verb does, whichever engine does it. docs/storage.md has what differs."""

from __future__ import annotations

import asyncio
import json
import select
import threading
from collections import Counter
from typing import Any

import pytest

from forkd import storage
from forkd.storage import Storage
from tests.process.conftest import until
from tests.storage.conftest import Opens

VALUES = [
    b"", b"v", bytes(range(256)), b"x" * 4096, b"y" * (1 << 20), "", "é€😀", "z" * 70_000, "a\0b",
    0, 1, -1, 2**63 - 1, -(2**63),
]  # fmt: skip
ODD_KEYS = ["a b", "ключ", "a\nb", "{tag}", "*", "[a]", "a:b", "\0", "é" * 125, "k" * 250]

# ---- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__}-{str(value)[:8]!r}")
def test_a_value_comes_back_with_its_type(s: Storage, value: bytes | str | int) -> None:
    s["k"] = value
    for found in (s["k"], s.get("k"), s.gets("k")[0], s.get_many(["k"])["k"]):
        assert found == value
        assert type(found) is type(value)


def test_what_is_not_there(s: Storage) -> None:
    assert s.get("k") is None
    assert s.get("k", 5) == 5
    assert s.gets("k") == (None, None)
    assert "k" not in s
    assert not s.delete("k")
    assert not s.touch("k", 5)
    assert not s.replace("k", b"v")
    for fails in (lambda: s["k"], lambda: s.__delitem__("k"), lambda: s.ttl("k")):
        with pytest.raises(KeyError):
            fails()


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_text_is_a_key(s: Storage, key: str) -> None:
    s[key] = b"v"
    assert s[key] == b"v"
    assert s[key.encode()] == b"v"
    assert list(s.keys()) == [key]
    assert s.incr(key + "n" if len(key.encode()) < 250 else key[:-1]) == 1
    with s.lock(key, lease=5):
        assert s.lock(key).acquire(0) is None
    s.queue(key).put(b"i")
    job = s.queue(key).get()
    assert job is not None
    assert job.ack()
    assert s.limit(key, "1/day").allowed
    del s[key]
    assert key not in s


@pytest.mark.parametrize("key", ["k" * 251, "é" * 126])
def test_a_key_that_is_too_long(s: Storage, key: str) -> None:
    for call in (s.get, s.delete, s.incr, s.lock, s.queue):
        with pytest.raises(storage.TooLarge):
            call(key)
    with pytest.raises(ValueError, match="empty"):
        s.get("")


def test_a_value_that_is_too_large(s: Storage) -> None:
    s["k"] = b"old"
    with pytest.raises(storage.TooLarge):
        s["k"] = b"x" * ((1 << 20) + 1)
    with pytest.raises(storage.TooLarge):
        s["k"] = "é" * (1 << 19) + "x"
    with pytest.raises(OverflowError):
        s["k"] = 2**63
    assert s["k"] == b"old"


def test_other_types_need_a_serializer(s: Storage, opens: Opens) -> None:
    for value in (None, 1.5, [1], {"a": 1}, object()):
        with pytest.raises(TypeError):
            s["k"] = value
    with_json = opens(serializer=json)
    with_json["k"] = {"a": [1, None]}
    assert with_json["k"] == {"a": [1, None]}
    with_json.queue("q").put([1])
    job = with_json.queue("q").get()
    assert job is not None
    assert job.data == [1]
    with_json["b"] = b"bytes"
    assert s["b"] == b"bytes"
    with pytest.raises(TypeError):  # nothing is unpickled that was not asked for
        s["k"]


# ---- conditions -----------------------------------------------------------------------------


def test_add_and_replace(s: Storage) -> None:
    assert not s.replace("k", b"1")
    assert s.add("k", b"1")
    assert not s.add("k", b"2")
    assert s["k"] == b"1"
    assert s.replace("k", b"3")
    assert s["k"] == b"3"


def test_cas(s: Storage) -> None:
    s["k"] = b"1"
    value, token = s.gets("k")
    assert value == b"1"
    assert s.cas("k", b"2", token)
    assert not s.cas("k", b"3", token)
    assert s["k"] == b"2"


def test_cas_sees_a_write_of_the_same_value(s: Storage) -> None:
    s["k"] = b"1"
    token = s.gets("k")[1]
    s["k"] = b"1"
    assert not s.cas("k", b"2", token)


def test_cas_sees_that_it_was_deleted_meanwhile(s: Storage) -> None:
    s["k"] = b"1"
    token = s.gets("k")[1]
    del s["k"]
    assert not s.cas("k", b"2", token)
    s["k"] = b"1"
    assert not s.cas("k", b"2", token)
    assert s["k"] == b"1"


def test_cas_of_what_is_not_there(s: Storage) -> None:
    assert s.cas("k", b"1", s.gets("k")[1])
    assert not s.cas("k", b"2", None)


def test_cas_sees_a_counter(s: Storage) -> None:
    s.incr("n")
    token = s.gets("n")[1]
    s.incr("n")
    assert not s.cas("n", 9, token)
    assert s["n"] == 2


# ---- times ----------------------------------------------------------------------------------


def test_an_end(s: Storage) -> None:
    s.set("k", b"v", ttl=0.05)
    s.set("long", b"v", ttl=100)
    until(lambda: "k" not in s, "it is over")
    assert s.get_many(["k", "long"]) == {"long": b"v"}
    assert list(s.keys()) == ["long"]
    assert not s.touch("k", 5)
    assert not s.delete("k")
    assert s.add("k", b"new")
    left = s.ttl("long")
    assert left is not None
    assert 0 < left <= 100
    assert s.ttl("k") is None


def test_an_end_that_is_over_at_once(s: Storage) -> None:
    s["k"] = b"v"
    s.set("k", b"w", ttl=0)
    assert "k" not in s
    s.set("k", b"w", ttl=-1)
    assert "k" not in s
    assert s.add("k", b"w", ttl=0)
    assert "k" not in s
    assert not s.replace("k", b"w", ttl=0)
    s["k"] = b"v"
    assert not s.add("k", b"w", ttl=0)
    assert s.replace("k", b"w", ttl=0)
    assert "k" not in s


def test_set_without_an_end_takes_the_end_away(s: Storage) -> None:
    s.set("k", b"v", ttl=100)
    s["k"] = b"w"
    assert s.ttl("k") is None


def test_touch(s: Storage) -> None:
    s.set("k", b"v", ttl=100)
    assert s.touch("k")
    assert s.ttl("k") is None
    assert s.expire("k", 0.05)
    until(lambda: "k" not in s, "it is over")


# ---- counters -------------------------------------------------------------------------------


def test_incr(s: Storage) -> None:
    assert s.incr("n") == 1
    assert s.incr("n", 5) == 6
    assert s.decr("n", 10) == -4
    assert s["n"] == -4
    s["n"] = 100
    assert s.incr("n") == 101
    assert s.incr("n", 0) == 101
    assert s.incr("m", 0) == 0
    assert s["m"] == 0


def test_incr_begins_anew_after_its_end(s: Storage) -> None:
    assert s.incr("n", ttl=100) == 1
    left = s.ttl("n")
    assert left is not None
    assert s.incr("n", ttl=1000) == 2
    later = s.ttl("n")
    assert later is not None
    assert later <= left
    s.touch("n", 0.05)
    until(lambda: "n" not in s, "it is over")
    assert s.incr("n", 7) == 7
    assert s.ttl("n") is None


def test_incr_of_what_is_no_int(s: Storage) -> None:
    for value in (b"1", "1", b""):
        s["k"] = value
        with pytest.raises(TypeError):
            s.incr("k")
        assert s["k"] == value


@pytest.mark.parametrize(("value", "by"), [(2**63 - 1, 1), (-(2**63), -1), (1, 2**63 - 1), (-2, -(2**63))])
def test_incr_beyond_64_bits(s: Storage, value: int, by: int) -> None:
    s["n"] = value
    with pytest.raises(OverflowError):
        s.incr("n", by)
    assert s["n"] == value


def test_incr_up_to_64_bits(s: Storage) -> None:
    assert s.incr("n", 2**63 - 1) == 2**63 - 1
    assert s.incr("n", -(2**63)) == -1
    assert s.incr("n", -(2**63) + 1) == -(2**63)


# ---- many -----------------------------------------------------------------------------------


def test_many(s: Storage) -> None:
    s.set_many({f"k{i}": i for i in range(300)})
    s.set_many({})
    assert s.get_many([]) == {}
    assert s.get_many([f"k{i}" for i in range(0, 600, 2)]) == {f"k{i}": i for i in range(0, 300, 2)}
    s.set_many({"a": b"1", "b": "2"}, ttl=0.05)
    until(lambda: s.get_many(["a", "b"]) == {}, "both are over")


def test_keys(s: Storage) -> None:
    names = {f"user:{i}" for i in range(700)} | {"user", "userz", "other", "us*er:1"}
    s.set_many(dict.fromkeys(names, b""))
    with s.lock("user:lock", lease=5):
        s.queue("user:queue").put(b"")
        s.limit("user:limit", "1/day")
        assert sorted(s.keys()) == sorted(names)
        assert sorted(s) == sorted(names)
        assert sorted(s.keys("user:")) == sorted(n for n in names if n.startswith("user:"))
    assert list(s.keys("us*")) == ["us*er:1"]
    assert list(s.keys("none")) == []


def test_clear_leaves_all_but_the_cache(s: Storage) -> None:
    s["k"] = b"v"
    s.incr("n")
    s.queue("q").put(b"item")
    s.limit("l", "1/day")
    lock = s.lock("lock", lease=60)
    assert lock.acquire(0)
    s.clear()
    assert list(s.keys()) == []
    assert s.lock("lock").acquire(0) is None
    assert lock.release()
    assert not s.limit("l", "1/day").allowed
    assert len(s.queue("q")) == 1


# ---- locks ----------------------------------------------------------------------------------


def test_a_lock_has_one_holder(s: Storage) -> None:
    with s.lock("l", lease=60) as token:
        assert isinstance(token, int)
        assert s.lock("l").acquire(0) is None
        with pytest.raises(TimeoutError, match="'l'"), s.lock("l", wait=0.02):
            pass
        with s.lock("other", lease=5, wait=0):
            pass
    with s.lock("l", wait=0) as later:
        assert later > token


def test_a_lock_is_not_taken_twice_by_one_object(s: Storage) -> None:
    lock = s.lock("l")
    assert lock.acquire()
    with pytest.raises(RuntimeError):
        lock.acquire()
    assert lock.release()
    assert not lock.release()


def test_a_lease_ends(s: Storage) -> None:
    lock = s.lock("l", lease=0.05)
    first = lock.acquire(0)
    assert first
    second = s.lock("l", lease=60).acquire(wait=10)
    assert second
    assert second > first
    assert not lock.renew()
    assert not lock.release()
    assert s.lock("l").acquire(0) is None  # a release that is too late frees nothing


def test_a_lease_is_renewed(s: Storage) -> None:
    lock = s.lock("l", lease=0.3)
    assert lock.acquire(0)
    assert lock.renew(60)
    assert s.lock("l").acquire(0.5) is None
    assert lock.release()
    with pytest.raises(ValueError, match="lease"):
        s.lock("l", lease=0)


def test_one_that_waits_gets_it(s: Storage) -> None:
    lock = s.lock("l", lease=60)
    assert lock.acquire()
    tokens: list[int | None] = []
    thread = threading.Thread(target=lambda: tokens.append(s.lock("l").acquire(wait=30)))
    thread.start()
    lock.release()
    thread.join(30)
    assert tokens
    assert tokens[0]


def test_a_fence(s: Storage) -> None:
    with s.lock("l") as old:
        pass
    with s.lock("l") as new:
        s.set("k", b"new", fence=new)
        s.set("k", b"again", fence=new)
    with pytest.raises(storage.Fenced):
        s.set("k", b"old", fence=old)
    assert s["k"] == b"again"
    s.set("k", b"unfenced")
    del s["k"]
    s.clear()
    with pytest.raises(storage.Fenced):  # it is remembered without the value
        s.set("k", b"old", fence=old)
    s.set("other", b"old", fence=old)


# ---- queues ---------------------------------------------------------------------------------


def test_a_queue_keeps_the_order(s: Storage) -> None:
    q = s.queue("q")
    assert q.get() is None
    for i in range(20):
        q.put(i)
    assert len(q) == 20
    for i in range(20):
        job = q.get(wait=5)
        assert job is not None
        assert (job.data, job.tries) == (i, 1)
        assert job.ack()
        assert not job.ack()
    assert q.get() is None
    assert q.size() == (0, 0, 0, 0)


@pytest.mark.parametrize("data", [b"", b"job", "é", 7, b"x" * (1 << 20)], ids=str)
def test_what_an_item_may_be(s: Storage, data: bytes | str | int) -> None:
    s.queue("q").put(data)
    job = s.queue("q").get()
    assert job is not None
    assert job.data == data


def test_an_item_that_is_not_acknowledged_comes_again(s: Storage) -> None:
    q = s.queue("q")
    q.put(b"job")
    first = q.get(visible=0.05)
    assert first is not None
    assert q.size() == (0, 0, 1, 0) or q.size() == (1, 0, 0, 0)
    again = q.get(wait=10)
    assert again is not None
    assert (again.id, again.data, again.tries) == (first.id, b"job", 2)
    assert not first.ack()
    assert not first.extend(5)
    assert not first.retry()
    assert again.ack()
    assert q.get() is None


def test_a_hold_is_extended(s: Storage) -> None:
    q = s.queue("q")
    q.put(b"job")
    job = q.get(visible=0.3)
    assert job is not None
    assert job.extend(60)
    assert q.get(wait=0.5) is None
    assert job.ack()


def test_a_delay(s: Storage) -> None:
    q = s.queue("q")
    q.put(b"never", delay=1000)
    q.put(b"now")
    assert q.size() == (1, 1, 0, 0)
    q.put(b"late", delay=0.1)
    found = {job.data for job in (q.get(wait=10), q.get(wait=10)) if job is not None}
    assert found == {b"now", b"late"}
    assert q.get() is None
    assert q.size() == (0, 1, 2, 0)


def test_another_try(s: Storage) -> None:
    q = s.queue("q")
    q.put(b"1")
    q.put(b"2")
    job = q.get()
    assert job is not None
    assert job.retry()
    assert not job.ack()
    again = q.get()
    assert again is not None
    assert (again.data, again.tries) == (b"1", 2)  # it has its place again
    assert again.retry(delay=0.05)
    job = q.get()
    assert job is not None
    assert job.data == b"2"
    job = q.get(wait=10)
    assert job is not None
    assert job.tries == 3


def test_dead_letters(s: Storage) -> None:
    q = s.queue("q", tries=2)
    q.put(b"bad")
    q.put(b"good")
    for _ in range(2):
        job = q.get()
        assert job is not None
        assert job.data == b"bad"
        job.retry()
    job = q.get()
    assert job is not None
    assert job.data == b"good"
    assert q.size() == (0, 0, 1, 1)
    dead = q.dead.get()
    assert dead is not None
    assert (dead.data, dead.tries) == (b"bad", 1)
    assert dead.ack()
    assert q.size() == (0, 0, 1, 0)


def test_a_queue_has_a_limit(s: Storage) -> None:
    q = s.queue("q", limit=3)
    for i in range(3):
        q.put(i, delay=i)
    job = q.get()
    assert job is not None
    with pytest.raises(storage.Full):
        q.put(b"")
    job.ack()
    q.put(b"")
    s.queue("other", limit=1).put(b"")


def test_one_that_waits_gets_an_item(s: Storage) -> None:
    found: list[object] = []

    def wait() -> None:
        job = s.queue("q").get(wait=30)
        found.append(job and job.data)

    thread = threading.Thread(target=wait)
    thread.start()
    s.queue("q").put(b"job")
    thread.join(30)
    assert found == [b"job"]


# ---- limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "burst"), [("1/day", 1), ("3/hour", 3), ("7 per day", 7), ("100/week", 100), ("2/5h", 2)]
)
def test_a_limit_is_exact(s: Storage, rate: str, burst: int) -> None:
    for left in reversed(range(burst)):
        assert s.limit("ip:1", rate) == (True, left, 0.0)
    for _ in range(3):
        allowed, remaining, retry_after = s.limit("ip:1", rate)
        assert (allowed, remaining) == (False, 0)
        assert retry_after > 0
    assert s.limit("ip:2", rate).allowed


def test_a_limit_lets_one_pass_after_its_time(s: Storage) -> None:
    assert s.limit("k", "1/s").allowed
    retry_after = s.limit("k", "1/s").retry_after
    assert 0 < retry_after <= 1
    until(lambda: s.limit("k", "1/s").allowed, "its time is over")


def test_a_limit_has_a_cost(s: Storage) -> None:
    assert s.limit("k", "10/day", cost=7) == (True, 3, 0.0)
    allowed, remaining, retry_after = s.limit("k", "10/day", cost=4)
    assert (allowed, remaining) == (False, 3)
    assert 0 < retry_after <= 8640
    assert s.limit("k", "10/day", cost=3) == (True, 0, 0.0)
    with pytest.raises(ValueError, match="burst"):
        s.limit("k", "10/day", cost=11)


@pytest.mark.parametrize(
    "rate", ["", "5", "5/", "/s", "0/s", "5/0s", "-1/s", "5/fortnight", "2000000/s", "5 / s / s"]
)
def test_what_is_no_limit(s: Storage, rate: str) -> None:
    with pytest.raises(ValueError, match="limit"):
        s.limit("k", rate)


# ---- channels -------------------------------------------------------------------------------


def test_a_message_comes_to_all_who_subscribe(s: Storage, opens: Opens) -> None:
    s.publish("news", b"nobody hears it")
    with s.subscribe("news") as first, opens().subscribe("news") as second, s.subscribe("other") as other:
        assert first.get(0) is None
        assert s.publish("news", b"1") >= 1
        s.publish("news", "2")
        for reader in (first, second):
            assert [reader.get(10), reader.get(10), reader.get(0)] == [b"1", "2", None]
        assert other.get(0) is None


def test_a_subscription_wakes_a_loop(s: Storage) -> None:
    with s.subscribe("news") as reader:
        assert reader.get(0) is None
        s.publish("news", b"1")
        assert select.select([reader.fileno()], [], [], 30)[0]
        assert reader.get(0) == b"1"


def test_a_reader_that_waits_is_woken(s: Storage) -> None:
    with s.subscribe("news") as reader:
        timer = threading.Timer(0.05, s.publish, ("news", b"1"))
        timer.start()
        assert reader.get(wait=30) == b"1"
        timer.join()


# ---- threads, and loops ---------------------------------------------------------------------


def test_threads_lose_no_increment(s: Storage) -> None:
    threads = [threading.Thread(target=lambda: [s.incr("n") for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert s["n"] == 400


def test_threads_get_each_item_once(s: Storage) -> None:
    for i in range(100):
        s.queue("q").put(i)
    found: Counter[int] = Counter()

    def take() -> None:
        while (job := s.queue("q").get()) is not None:
            found[job.data] += 1
            assert job.ack()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(100), 1)


def test_the_awaitable_form(s: Storage) -> None:
    async def main() -> None:
        a = s.aio
        await a.set("k", b"v", ttl=60)
        assert await a.get("k") == b"v"
        assert await a.get("none", 5) == 5
        assert not await a.add("k", b"w")
        assert await a.replace("k", b"w")
        value, token = await a.gets("k")
        assert value == b"w"
        assert await a.cas("k", b"x", token)
        assert await a.incr("n", 5) == 5
        assert await a.decr("n") == 4
        await a.set_many({"a": 1, "b": 2})
        assert await a.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
        assert sorted(await a.keys()) == ["a", "b", "k", "n"]
        assert await a.touch("k")
        assert await a.expire("k", 60)
        assert await a.ttl("a") is None
        assert await a.delete("a")
        with pytest.raises(TypeError):
            await a.incr("k")
        async with a.lock("l", lease=60, wait=5) as held:
            assert await a.lock("l").acquire(0.02) is None
            await a.set("f", 1, fence=held)
            with pytest.raises(TimeoutError):
                async with a.lock("l", wait=0.02):
                    pass
        queue = a.queue("q", tries=1)
        await queue.put(b"job")
        job = await queue.get(wait=5)
        assert job is not None
        assert job.data == b"job"
        assert await job.extend(60)
        assert await job.retry()
        assert await queue.get() is None
        dead = await queue.dead.get()
        assert dead is not None
        assert await dead.ack()
        assert (await a.limit("l", "1/day")).allowed
        async with await a.subscribe("news") as reader:
            assert await reader.get(0.02) is None
            await a.publish("news", b"1")
            assert await reader.get(30) == b"1"
            asyncio.get_running_loop().call_later(0.05, s.publish, "news", b"2")
            async for message in reader:
                assert message == b"2"
                break
        assert (await a.stats()).keys == 4
        await a.clear()
        assert not await a.keys()

    asyncio.run(main())


def test_a_thousand_that_wait_do_not_hold_up_one_that_does_not(s: Storage) -> None:
    async def main() -> None:
        a = s.aio
        waiting = [asyncio.ensure_future(a.queue("q").get(wait=60)) for _ in range(100)]
        await a.set("k", b"v")
        assert await a.get("k") == b"v"
        for i in range(3):
            await a.queue("q").put(i)
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert done
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    asyncio.run(main())


def test_a_wait_that_is_cancelled_takes_nothing(s: Storage) -> None:
    async def main() -> None:
        a = s.aio
        for _ in range(30):
            task = asyncio.ensure_future(a.lock("l", lease=600).acquire())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            found = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(found, int):
                await a.run(lambda unit, token=found: unit.engine.release(b"l", token))
        lock = a.lock("l")
        assert await lock.acquire(30)

    asyncio.run(main())


# ---- what no verb takes ----------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("key", [1, 10**10, None, 1.5, ["k"], bytearray(b"k")], ids=repr)
def test_a_name_is_text(s: Storage, key: Any) -> None:
    calls = [
        s.get, s.gets, s.delete, s.touch, s.ttl, s.incr, s.decr, s.lock, s.queue, s.subscribe, s.__getitem__,
        s.__contains__, s.aio.lock, s.aio.queue, lambda key: list(s.keys(key)), lambda key: s.get_many([key]),
        lambda key: s.set(key, b"v"), lambda key: s.add(key, b"v"), lambda key: s.__setitem__(key, b"v"),
        lambda key: s.limit(key, "1/day"), lambda key: s.publish(key, b"v"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(TypeError):
            call(key)
    assert list(s.keys()) == []


@pytest.mark.parametrize("number", [1.5, 2.0, "1", b"1", NAN], ids=repr)
def test_a_number_is_an_int(s: Storage, number: Any) -> None:
    s["n"] = 1
    for call in (
        lambda: s.incr("n", number),
        lambda: s.incr("m", number),
        lambda: s.decr("n", number),
        lambda: s.set("n", 2, fence=number),
        lambda: s.cas("n", 2, number),
        lambda: s.limit("r", "5/day", cost=number),
        lambda: s.queue("q", tries=number),
        lambda: s.queue("q", limit=number),
        lambda: s.aio.queue("q", tries=number),
    ):
        with pytest.raises(TypeError):
            call()
    assert s["n"] == 1
    assert "m" not in s
    s.set("n", 3, fence=1)  # what was refused has left no token
    assert s["n"] == 3
    for tries, limit in ((-1, None), (1 << 32, None), (0, -1)):
        with pytest.raises(ValueError, match="from 0"):
            s.queue("q", tries, limit)
    with pytest.raises(OverflowError):
        s.set("n", 4, fence=2**63)


@pytest.mark.parametrize(("seconds", "error"), [(NAN, ValueError), ("5", TypeError), (b"5", TypeError)])
def test_a_time_is_a_number(s: Storage, seconds: Any, error: type[Exception]) -> None:
    s["k"] = b"v"
    s.queue("q").put(b"i")
    job = s.queue("q").get()
    assert job is not None
    lock = s.lock("held")
    assert lock.acquire(0)
    for call in (
        lambda: s.set("k", b"w", seconds),
        lambda: s.add("new", b"w", seconds),
        lambda: s.replace("k", b"w", seconds),
        lambda: s.cas("k", b"w", s.gets("k")[1], seconds),
        lambda: s.touch("k", seconds),
        lambda: s.incr("n", 1, seconds),
        lambda: s.set_many({"k": b"w"}, seconds),
        lambda: s.lock("l", seconds),
        lambda: s.lock("l", 5, seconds),
        lambda: s.aio.lock("l", seconds),
        lambda: s.lock("held").acquire(seconds),
        lambda: lock.renew(seconds),
        lambda: s.queue("r").get(seconds),
        lambda: s.queue("r").get(0, seconds),
        lambda: s.queue("r").put(b"", seconds),
        lambda: job.retry(seconds),
        lambda: job.extend(seconds),
    ):
        with pytest.raises(error):
            call()
    assert (s["k"], s.ttl("k")) == (b"v", None)
    assert s.get_many(["new", "n"]) == {}
    assert job.ack()
    assert lock.release()


@pytest.mark.parametrize("seconds", [1e9, 1e300, INF, 10**12])
def test_what_is_longer_than_all_has_no_end(s: Storage, seconds: float) -> None:
    s.set("a", b"v", seconds)
    s.set_many({"b": b"v"}, seconds)
    assert s.add("c", b"v", seconds)
    assert s.incr("d", 1, seconds) == 1
    s.set("e", b"v", 5)
    assert s.touch("e", seconds)
    assert {s.ttl(key) for key in "abcde"} == {None}
    lock = s.lock("l", seconds, wait=seconds)
    with lock:
        assert lock.renew(seconds)
        assert s.lock("l").acquire(0) is None
    queue = s.queue("q")
    queue.put(b"now")
    job = queue.get(seconds, visible=seconds)
    assert job is not None
    assert job.extend(seconds)
    assert job.ack()
    queue.put(b"later", delay=seconds)
    assert queue.size().delayed == 1
    with s.subscribe("c") as reader:
        s.publish("c", b"m")
        assert reader.get(seconds) == b"m"


# ---- the unit -------------------------------------------------------------------------------


def test_another_one_of_the_same_place_has_the_same(s: Storage, opens: Opens) -> None:
    s["k"] = b"v"
    other = opens()
    assert other["k"] == b"v"
    other.close()
    assert other["k"] == b"v"  # it opens anew


def test_stats_and_check(s: Storage) -> None:
    s.set_many({f"k{i}": b"v" for i in range(10)})
    stats = s.stats()
    assert stats.keys == 10
    assert s.check() == []
