"""The verbs of the cache on a shard of a table, for the holder of its lock.

In a process of the application's; native/storage_cache.c is the twin.
"""

from __future__ import annotations

from typing import NamedTuple

from forkd.storage.engine import MAX_INT, MAX_VALUE_BYTES, MIN_INT, Only
from forkd.storage.engine import Kind as Type
from forkd.storage.errors import Fenced
from forkd.storage.shm_heap import Broken, Key, Link, Shard, boot_ns
from forkd.storage.shm_layout import ENTRY_BYTES, MAX_NAME_BYTES, Cell, Field, Kind

#: When something ends that ends at once.
AT_ONCE = -1


class Plain(NamedTuple):
    """A value as a table keeps it."""

    type: int
    number: int
    data: bytes


class Terms(NamedTuple):
    """Of a put."""

    expires: int  # ns; 0: never
    only: int = Only.ANY
    token: int | None = None
    fence: int | None = None


def _find_living(shard: Shard, key: Key) -> tuple[int, Link] | None:
    """What has ended is not there, and is removed."""
    found = shard.find(Kind.CACHE, key)
    if found is not None and shard.signed(found[0], Field.EXPIRES) and shard.has_expired(found[0], boot_ns()):
        shard.unlink(found[1], found[0])
        return None
    return found


def get(shard: Shard, key: Key) -> tuple[Plain, int, int] | None:
    """The value, its token, and when it ends."""
    found = _find_living(shard, key)
    if found is None:
        shard.add(Cell.MISSES, 1)
        return None
    place = found[0]
    type, number, data = shard.type(place), 0, b""
    if type == Type.INT:
        number = shard.signed(place, Field.NUMBER)
    else:
        size, key_size = shard.word(place, Field.SIZE), shard.key_size(place)
        if size > MAX_VALUE_BYTES or key_size > MAX_NAME_BYTES or type > max(Type):
            raise Broken
        data = shard.read(place, ENTRY_BYTES + key_size, size)
    shard.set_word(place, Field.USED, 1)
    shard.add(Cell.HITS, 1)
    return (
        Plain(type, number, data), shard.signed(place, Field.VERSION), shard.signed(place, Field.EXPIRES)
    )  # fmt: skip


def _pass_fence(shard: Shard, key: Key, token: int, spare: int) -> None:
    """Let a write with this token pass, and remember it. Raises Fenced, Full."""
    found = shard.find(Kind.FENCE, key)
    if found is None:
        place = shard.new_entry(Kind.FENCE, key, spare=spare)
        shard.set_long(place, Field.NUMBER, token)
        shard.publish(place)
    elif shard.signed(found[0], Field.NUMBER) > token:
        raise Fenced("the key was written with a greater fencing token")
    else:
        shard.set_long(found[0], Field.NUMBER, token)


def put(shard: Shard, key: Key, value: Plain, terms: Terms) -> bool:
    found = _find_living(shard, key)
    if (terms.only == Only.ABSENT and found is not None) or (terms.only == Only.PRESENT and found is None):
        return False
    if terms.token is not None and (
        found is None or shard.signed(found[0], Field.VERSION) != terms.token
    ):
        return False
    old = 0 if found is None else found[0]
    if terms.fence is not None:
        _pass_fence(shard, key, terms.fence, old)
    made = 0
    if terms.expires != AT_ONCE:
        made = shard.new_entry(Kind.CACHE, key, value.data, old)
        shard.set_type(made, value.type)
        shard.set_long(made, Field.NUMBER, value.number)
        shard.expire_at(made, terms.expires)
    if found is not None:
        # What made room may have moved the link, but has spared the entry.
        found = shard.find(Kind.CACHE, key)
        if found is None:
            raise Broken
        if made:
            shard.replace(found[1], found[0], made)
        else:
            shard.unlink(found[1], found[0])
    elif made:
        shard.publish(made)
    return True


def touch(shard: Shard, key: Key, expires: int) -> bool:
    found = _find_living(shard, key)
    if found is None:
        return False
    if expires == AT_ONCE:
        shard.unlink(found[1], found[0])
    else:
        shard.expire_at(found[0], expires)
    return True


def incr(shard: Shard, key: Key, by: int, expires: int) -> int:
    found = _find_living(shard, key)
    if found is not None:
        place = found[0]
        if shard.type(place) != Type.INT:
            raise TypeError("the value is not an int")
        value = shard.signed(place, Field.NUMBER) + by
        if not MIN_INT <= value <= MAX_INT:
            raise OverflowError("an int of more than 64 bits")
        shard.set_long(place, Field.VERSION, shard.next_token())  # first: a cas must not miss what follows
        shard.set_long(place, Field.NUMBER, value)
        shard.set_word(place, Field.USED, 1)
        return value
    if expires != AT_ONCE:
        place = shard.new_entry(Kind.CACHE, key)
        shard.set_type(place, Type.INT)
        shard.set_long(place, Field.NUMBER, by)
        shard.expire_at(place, expires)
        shard.publish(place)
    return by


def scan(shard: Shard, bucket: int, clear: bool) -> list[bytes]:
    """The keys of a bucket; with `clear` they go, and are not returned."""
    keys, now = [], boot_ns()
    for link, place in shard.links(bucket):
        if shard.kind(place) != Kind.CACHE:
            continue
        if clear:
            shard.unlink(link, place)
        elif not shard.has_expired(place, now):
            size = shard.key_size(place)
            if size > MAX_NAME_BYTES:
                raise Broken
            keys.append(shard.read(place, ENTRY_BYTES, size))
    return keys
