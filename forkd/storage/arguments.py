"""What a caller may give besides keys and values: times in seconds and whole numbers.

Checked in one place, before an engine has them, so that all engines take and refuse the same.
"""

from __future__ import annotations

import math
import operator

from forkd.storage.engine import MAX_INT, MIN_INT

__all__ = ["LONGEST_SECONDS", "as_bounds", "as_end", "as_int", "as_lease", "as_seconds", "as_wait"]

#: 31 years. What is longer has no end, or is as long as this where there has to be one.
LONGEST_SECONDS = 1e9
MAX_TRIES = (1 << 32) - 1


def as_seconds(what: str, given: float) -> float:
    """LONGEST_SECONDS at most. Raises TypeError for what is no number, ValueError for NaN."""
    seconds = math.ldexp(given, 0)  # unlike float() it takes no text
    if seconds != seconds:
        raise ValueError(f"{what} is a number of seconds, and not NaN")
    return min(seconds, LONGEST_SECONDS)


def as_end(ttl: float | None) -> float | None:
    """Of a value; None for none. Raises as `as_seconds`."""
    if ttl is None:
        return None
    seconds = as_seconds("a ttl", ttl)
    return seconds if seconds < LONGEST_SECONDS else None


def as_wait(wait: float | None) -> float | None:
    """How long to wait; None: for ever. Raises as `as_seconds`."""
    return None if wait is None else as_seconds("wait", wait)


def as_lease(lease: float) -> float:
    """Of a lock. Raises as `as_seconds`, and ValueError where it is over at once."""
    seconds = as_seconds("a lease", lease)
    if seconds <= 0:
        raise ValueError("a lease is longer than 0 seconds")
    return seconds


def as_bounds(tries: int, limit: int | None) -> tuple[int, int | None]:
    """Of a queue. Raises as `as_int`."""
    most = None if limit is None else as_int("a queue's limit", limit, 0)
    return as_int("tries", tries, 0, MAX_TRIES), most


def as_int(what: str, given: int, least: int = MIN_INT, most: int = MAX_INT) -> int:
    """Raises TypeError for what is no int, OverflowError beyond 64 bits, ValueError beyond the bounds."""
    try:
        number = operator.index(given)
    except TypeError:
        raise TypeError(f"{what} is an int, and not a {type(given).__name__}") from None
    if not MIN_INT <= number <= MAX_INT:
        raise OverflowError(f"{what} of more than 64 bits")
    if not least <= number <= most:
        raise ValueError(f"{what} is from {least} to {most}, and not {number}")
    return number
