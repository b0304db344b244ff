"""The storage unit: what the processes of a service share. In a process of the application's.

A cache, counters, locks, queues, rate limits and channels, with one API over several engines: a table in
shared memory (`shm:64m`), a file (`sqlite:/path`), and Valkey or Redis (`valkey://host`).

    from forkd import storage

    s = storage.open()  # the daemon's own, as --storage says
    hits = s.incr("hits")
"""

from __future__ import annotations

from forkd.config.storage_url import DEFAULT, StorageURL
from forkd.storage.channel import Subscription
from forkd.storage.codec import Codec, Serializer
from forkd.storage.engine import MAX_KEY_BYTES, MAX_VALUE_BYTES, Limit, QueueSize, Stats, Verdict
from forkd.storage.errors import Damaged, Error, Fenced, Full, Stalled, TooLarge, Unavailable
from forkd.storage.lock import Lock
from forkd.storage.places import connector, place_of
from forkd.storage.queue import Job, Queue
from forkd.storage.unit import Storage

__all__ = [
    "MAX_KEY_BYTES", "MAX_VALUE_BYTES", "Damaged", "Error", "Fenced", "Full", "Job", "Limit", "Lock",
    "Queue", "QueueSize", "Serializer", "Stalled", "Stats", "Storage", "Subscription", "TooLarge",
    "Unavailable", "Verdict", "open",
]  # fmt: skip


def open(
    url: str | None = None, *, name: str | None = None, serializer: Serializer | None = None
) -> Storage:
    """A storage unit: the one at `url`; or the daemon's by its name, as `--storage NAME=URL` says, or the one
    without a name.

    Nothing is opened before the first call, so a module may open it at import, before any fork. Outside of a
    daemon of forkd FORKD_STORAGE takes the place of the option. `serializer` is for values that are none of
    bytes, int and str: a module or an object with `dumps` and `loads`, such as json; without it nothing is
    ever unpickled.

    Raises ValueError for a URL that makes no sense, and Error where there is no such unit.
    """
    place = place_of(name or DEFAULT) if url is None else StorageURL.parse(url)
    return Storage(connector(name or DEFAULT, place), str(place), Codec(serializer))
