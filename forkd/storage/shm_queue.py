"""Queues and channels on a shard of a table, for the holder of its lock.

A queue and its items are in one shard, and so are its dead letters. An item is an entry by itself, found
by its number; when it is due and how often it was taken are its own fields. A queue has two lists of
items: those that are due, the oldest first, and the others, by when they will be. They follow from the items,
and are made anew in a repair.

A message is an entry that is evicted like a value, and ends after a minute. Its channel has the number of
the last one, from which each subscription goes on by itself. A channel ends once it has no subscription, or
none that has looked for two minutes.

In a process of the application's; native/storage_queue.c is the twin.
"""

from __future__ import annotations

from typing import NamedTuple

from forkd.storage.errors import Full
from forkd.storage.shm_heap import Broken, Key, Shard, boot_ns
from forkd.storage.shm_layout import ENTRY_BYTES, MAX_DATA_BYTES, MAX_NAME_BYTES, Cell, Field, Kind

_LATER, _TAKEN = 1, 2  # bits of USED
_CHANNEL_NS = 120_000_000_000
_MESSAGE_NS = 60_000_000_000
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Popped(NamedTuple):
    id: int
    data: bytes
    tries: int


# ---- the lists of a queue


def _checked(shard: Shard, place: int, kind: Kind) -> int:
    if shard.kind(shard.check(place)) != kind:
        raise Broken
    return place


def _item(shard: Shard, place: int) -> int:
    return _checked(shard, place, Kind.ITEM) if place else 0


def _list(later: int) -> int:
    """The field of a queue with the first item of the list; the last is behind it."""
    return Field.OWNER if later else Field.NUMBER


def _count(shard: Shard, queue: int, later: int, by: int) -> None:
    field = Field.AFTER if later else Field.PREV
    shard.set_word(queue, field, shard.word(queue, field) + by & 0xFFFFFFFF)


def _find_due(shard: Shard, queue: int, place: int) -> int:
    """What an item comes behind that is due later: those that are due before it."""
    due = shard.signed(place, Field.NUMBER)
    before = _item(shard, shard.word(queue, _list(1) + 4))
    for _ in range(shard.count):
        if not before or shard.signed(before, Field.NUMBER) <= due:
            return before
        before = _item(shard, shard.word(before, Field.PREV))
    raise Broken


def _find_turn(shard: Shard, queue: int, place: int) -> int:
    """What an item that is due comes behind: those that are older. It is the youngest, or it was taken or
    delayed, and is among the oldest."""
    version = shard.long(place, Field.VERSION)
    last = _item(shard, shard.word(queue, _list(0) + 4))
    if not last or shard.long(last, Field.VERSION) < version:
        return last
    before, behind = 0, _item(shard, shard.word(queue, _list(0)))
    for _ in range(shard.count):
        if not behind or shard.long(behind, Field.VERSION) > version:
            return before
        before, behind = behind, _item(shard, shard.word(behind, Field.AFTER))
    raise Broken


def enlist(shard: Shard, queue: int, place: int, now: int) -> None:
    """Put an item into the list where it belongs. Raises Broken."""
    _checked(shard, queue, Kind.QUEUE), _checked(shard, place, Kind.ITEM)
    due = shard.signed(place, Field.NUMBER)
    later = int(due > now)
    first = _list(later)
    before = (_find_due if later else _find_turn)(shard, queue, place)
    behind = _item(shard, shard.word(before, Field.AFTER) if before else shard.word(queue, first))
    shard.set_word(place, Field.USED, shard.word(place, Field.USED) & _TAKEN | _LATER if later else 0)
    shard.set_word(place, Field.PREV, before)
    shard.set_word(place, Field.AFTER, behind)
    if before:
        shard.set_word(before, Field.AFTER, place)
    else:
        shard.set_word(queue, first, place)
    if behind:
        shard.set_word(behind, Field.PREV, place)
    else:
        shard.set_word(queue, first + 4, place)
    _count(shard, queue, later, 1)


def _unlist(shard: Shard, queue: int, place: int) -> None:
    _checked(shard, queue, Kind.QUEUE), _checked(shard, place, Kind.ITEM)
    later = shard.word(place, Field.USED) & _LATER
    before, behind = (_item(shard, shard.word(place, f)) for f in (Field.PREV, Field.AFTER))
    if before:
        shard.set_word(before, Field.AFTER, behind)
    else:
        shard.set_word(queue, _list(later), behind)
    if behind:
        shard.set_word(behind, Field.PREV, before)
    else:
        shard.set_word(queue, _list(later) + 4, before)
    _count(shard, queue, later, -1)


def _ripen(shard: Shard, queue: int, now: int) -> None:
    """Those that have become due take their places among the items that are due."""
    for _ in range(shard.count):
        place = _item(shard, shard.word(_checked(shard, queue, Kind.QUEUE), _list(1)))
        if not place or shard.signed(place, Field.NUMBER) > now:
            return
        _unlist(shard, queue, place)
        enlist(shard, queue, place, now)
    raise Broken


# ---- the verbs of a queue


def _find_queue(shard: Shard, name: Key) -> int:
    found = shard.find(Kind.QUEUE, name)
    return 0 if found is None else found[0]


def _find_or_make(shard: Shard, name: Key) -> int:
    queue = _find_queue(shard, name)
    if not queue:
        queue = shard.new_entry(Kind.QUEUE, name)
        shard.publish(queue)
    return queue


def _end_if_empty(shard: Shard, queue: int) -> None:
    if not shard.long(queue, Field.NUMBER) and not shard.long(queue, Field.OWNER):
        shard.remove(queue)


def _key_of_id(number: int) -> Key:
    return Key((number & _MASK).to_bytes(8, "little"), number * _GOLDEN & _MASK, 0)


def push(shard: Shard, name: Key, data: bytes, delay: int, limit: int | None) -> int:
    queue = _find_queue(shard, name)
    count = shard.word(queue, Field.PREV) + shard.word(queue, Field.AFTER) if queue else 0
    if limit is not None and count >= limit:
        raise Full(f"the queue has {count} items")
    number = shard.next_token()
    place = shard.new_entry(Kind.ITEM, _key_of_id(number), data)
    try:
        queue = _find_or_make(shard, name)
    except Full:
        shard.drop(place)
        raise
    now = boot_ns()
    shard.set_long(place, Field.OWNER, queue)
    shard.set_long(place, Field.NUMBER, now + delay)
    shard.publish(place)
    try:
        enlist(shard, queue, place, now)
    except Broken:
        shard.cells[Cell.DIRTY] = 1  # it is there; the next holder's repair lists it
    return number


def _read(shard: Shard, place: int) -> bytes:
    size, key = shard.word(place, Field.SIZE), shard.key_size(place)
    if size > MAX_DATA_BYTES or key > MAX_NAME_BYTES:
        raise Broken
    return shard.read(place, ENTRY_BYTES + key, size)


def pop(shard: Shard, name: Key, dead: Key, visible: int, tries: int) -> Popped | None:
    queue, now = _find_queue(shard, name), boot_ns()
    if not queue:
        return None
    _ripen(shard, queue, now)
    for _ in range(shard.count):
        place = _item(shard, shard.word(queue, _list(0)))
        if not place:
            _end_if_empty(shard, queue)
            return None
        owner = shard.long(place, Field.OWNER)
        taken = owner >> 32
        if tries and taken >= tries:
            grave = _find_or_make(shard, dead)
            _unlist(shard, queue, place)
            shard.set_word(place, Field.USED, 0)
            shard.set_long(place, Field.OWNER, grave)
            shard.set_long(place, Field.NUMBER, now)
            enlist(shard, grave, place, now)
            continue
        data = _read(shard, place)
        _unlist(shard, queue, place)
        shard.set_word(place, Field.USED, _TAKEN)
        shard.set_long(place, Field.OWNER, owner & 0xFFFFFFFF | taken + 1 << 32)
        shard.set_long(place, Field.NUMBER, now + visible)
        enlist(shard, queue, place, now)
        number = int.from_bytes(shard.read(place, ENTRY_BYTES, 8), "little", signed=True)
        return Popped(number, data, taken + 1)
    raise Broken


def _find_taken(shard: Shard, name: Key, number: int, tries: int) -> tuple[int, int] | None:
    queue = _find_queue(shard, name)
    found = shard.find(Kind.ITEM, _key_of_id(number)) if queue else None
    if found is None:
        return None
    place = found[0]
    is_receipt = (
        shard.long(place, Field.OWNER) == tries << 32 | queue
        and shard.word(place, Field.USED) & _TAKEN
        and shard.signed(place, Field.NUMBER) > boot_ns()
    )
    return (queue, place) if is_receipt else None


def ack(shard: Shard, name: Key, number: int, tries: int) -> bool:
    found = _find_taken(shard, name, number, tries)
    if found is None:
        return False
    queue, place = found
    _unlist(shard, queue, place)
    shard.remove(place)
    _end_if_empty(shard, queue)
    return True


def defer(shard: Shard, name: Key, number: int, tries: int, delay: int, held: bool) -> bool:
    """It is due `delay` later, and until then held as before, or put back."""
    found, now = _find_taken(shard, name, number, tries), boot_ns()
    if found is None:
        return False
    queue, place = found
    _unlist(shard, queue, place)
    shard.set_word(place, Field.USED, _TAKEN if held else 0)
    shard.set_long(place, Field.NUMBER, now + delay)
    enlist(shard, queue, place, now)
    return True


def sizes(shard: Shard, name: Key, dead: Key) -> tuple[int, int, int, int]:
    """How many are waiting, delayed, taken and dead."""
    now, waiting, delayed, taken, letters = boot_ns(), 0, 0, 0, 0
    if queue := _find_queue(shard, name):
        _ripen(shard, queue, now)
        waiting = shard.word(queue, Field.PREV)
        place = _item(shard, shard.word(queue, _list(1)))
        for _ in range(shard.count):
            if not place:
                break
            is_taken = bool(shard.word(place, Field.USED) & _TAKEN)
            taken, delayed = taken + is_taken, delayed + (not is_taken)
            place = _item(shard, shard.word(place, Field.AFTER))
        else:
            raise Broken
    if queue := _find_queue(shard, dead):
        _ripen(shard, queue, now)
        letters = shard.word(queue, Field.PREV)
    return waiting, delayed, taken, letters


def due(shard: Shard, name: Key) -> int | None:
    """When the next item is due; None: never."""
    queue = _find_queue(shard, name)
    for later in range(2 if queue else 0):
        if first := _item(shard, shard.word(queue, _list(later))):
            return shard.signed(first, Field.NUMBER)
    return None


# ---- channels


def _find_channel(shard: Shard, channel: Key) -> int:
    found = shard.find(Kind.CHANNEL, channel)
    if found is None:
        return 0
    if shard.is_over(found[0], boot_ns()):
        shard.unlink(found[1], found[0])
        return 0
    return found[0]


def _key_of_message(channel: Key, number: int) -> Key:
    text = channel.text + (number & _MASK).to_bytes(8, "little")
    return Key(text, channel.hash + number * _GOLDEN & _MASK, 0)


def publish(shard: Shard, channel: Key, data: bytes) -> int:
    """To how many subscriptions."""
    place = _find_channel(shard, channel)
    if not place:
        return 0
    number = _wrapped(shard.signed(place, Field.NUMBER) + 1)
    message = shard.new_entry(Kind.MESSAGE, _key_of_message(channel, number), data, place)
    shard.expire_at(message, boot_ns() + _MESSAGE_NS)
    shard.publish(message)
    shard.set_long(place, Field.NUMBER, number)
    return shard.word(place, Field.AFTER)


def join(shard: Shard, channel: Key, by: int) -> int:
    """One subscription more or less; the number of the last message."""
    place = _find_channel(shard, channel)
    if not place:
        if by < 0:
            return 0
        place = shard.new_entry(Kind.CHANNEL, channel)
        shard.set_long(place, Field.NUMBER, shard.long(place, Field.VERSION))
        shard.expire_at(place, boot_ns() + _CHANNEL_NS)
        shard.publish(place)
    count = shard.word(place, Field.AFTER) + by & 0xFFFFFFFF
    shard.set_word(place, Field.AFTER, count)
    number = shard.signed(place, Field.NUMBER)
    if count:
        shard.expire_at(place, boot_ns() + _CHANNEL_NS)
    else:
        shard.remove(place)
    return number


def next_message(shard: Shard, channel: Key, after: int) -> tuple[int, bytes | None]:
    """The first message that is there after that number, with its number; or the number of the last."""
    place, now = _find_channel(shard, channel), boot_ns()
    if not place:  # it was idle for long
        return join(shard, channel, 1), None
    last = shard.signed(place, Field.NUMBER)
    if shard.signed(place, Field.EXPIRES) < now + _CHANNEL_NS // 2:
        shard.expire_at(place, now + _CHANNEL_NS)
    if last < 0:
        raise Broken
    after = min(max(after, last - shard.count), last)  # no more than so many can be there
    for number in range(after + 1, last + 1):
        found = shard.find(Kind.MESSAGE, _key_of_message(channel, number))
        if found is not None and not shard.is_over(found[0], now):
            return number, _read(shard, found[0])
    return last, None


def _wrapped(number: int) -> int:
    return (number + (1 << 63) & _MASK) - (1 << 63)
