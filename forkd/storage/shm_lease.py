"""Locks that are held for a lease, and rate limits, on a shard of a table, for the holder of its lock.

A lock that is free has no entry. Its tokens are the writes of its shard, counted, so that they never
repeat and never go back without one.

In a process of the application's; native/storage_lease.c is the twin.
"""

from __future__ import annotations

from forkd.storage.shm_heap import Key, Link, Shard, boot_ns
from forkd.storage.shm_layout import Field, Kind


def _find_held(shard: Shard, name: Key) -> tuple[int, Link] | None:
    """One that is free is not there, and is removed."""
    found = shard.find(Kind.LOCK, name)
    if found is not None and shard.is_over(found[0], boot_ns()):
        shard.unlink(found[1], found[0])
        return None
    return found


def acquire(shard: Shard, name: Key, lease: int) -> int | None:
    """Its token; None where it has a living holder. `lease` in ns."""
    if _find_held(shard, name) is not None:
        return None
    place = shard.new_entry(Kind.LOCK, name)
    shard.set_long(place, Field.OWNER, shard.who.word())
    shard.expire_at(place, boot_ns() + lease)
    shard.publish(place)
    return shard.signed(place, Field.VERSION)


def _find_own(shard: Shard, name: Key, token: int) -> tuple[int, Link] | None:
    found = _find_held(shard, name)
    return found if found is not None and shard.signed(found[0], Field.VERSION) == token else None


def renew(shard: Shard, name: Key, token: int, lease: int) -> bool:
    found = _find_own(shard, name, token)
    if found is not None:
        shard.expire_at(found[0], boot_ns() + lease)
    return found is not None


def release(shard: Shard, name: Key, token: int) -> bool:
    found = _find_own(shard, name, token)
    if found is not None:
        shard.unlink(found[1], found[0])
    return found is not None


def due(shard: Shard, name: Key) -> int | None:
    """When it ends, if its holder lives; None: it is free."""
    found = _find_held(shard, name)
    return None if found is None else shard.signed(found[0], Field.EXPIRES)


def allow(
    shard: Shard, key: Key, interval: float, burst: float, cost: float
) -> tuple[bool, float, float]:
    """GCRA, with `interval` ns between two and so many in a burst: whether it passes, how many more would,
    and seconds until one may."""
    found, now = shard.find(Kind.LIMIT, key), boot_ns()
    # The theoretical arrival time.
    free = now if found is None else max(now, shard.signed(found[0], Field.NUMBER))
    ahead, room = free - now + interval * cost, interval * burst
    if ahead > room:
        return False, (room - (free - now)) / interval, (ahead - room) / 1e9
    if cost > 0:
        free = now + int(ahead)
        place = shard.new_entry(Kind.LIMIT, key) if found is None else found[0]
        shard.expire_at(place, free)  # first: it must not end before it is free
        shard.set_long(place, Field.NUMBER, free)
        if found is None:
            shard.publish(place)
    return True, (room - ahead) / interval, 0.0
