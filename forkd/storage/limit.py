"""Rate limits: what `100/minute` means, and the generic cell rate algorithm (GCRA).

GCRA keeps one number for each key: the theoretical arrival time (TAT), at which all that has passed so far
would have passed if it had come evenly. One more passes where that is not further ahead than a full burst.
So a limit needs a word of memory and no window, and is never exceeded at the border of two windows.
"""

from __future__ import annotations

import re
from functools import lru_cache

from forkd.storage.engine import Limit, Verdict

__all__ = ["interval_us", "judge", "parse_limit"]

_SECONDS = {
    "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hour": 3600,
    "d": 86400, "day": 86400, "w": 604800, "week": 604800,
}  # fmt: skip
_FORM = re.compile(r"(\d{1,9}) *(?:/| per ) *(\d{1,6})? *([a-z]+?)s?", re.IGNORECASE)


@lru_cache(1024)
def parse_limit(text: str, burst: int | None = None) -> Limit:
    """The limit that a text names: `100/minute`, `5/10s`, `20 per hour`. `burst`: how many may pass at once,
    the amount where none is given. Raises ValueError."""
    found = _FORM.fullmatch(text.strip())
    unit = found[3].lower() if found else ""
    seconds = _SECONDS.get(unit) or _SECONDS.get(unit + "s", 0)
    if found is None or not seconds:
        raise ValueError(f"{text!r} is no limit; one is 100/minute, 5/10s, 20 per hour")
    amount, period = int(found[1]), int(found[2] or 1) * seconds
    burst = amount if burst is None else burst
    if not 0 < amount <= 1_000_000 * period or burst < 1 or not period:
        raise ValueError(f"{text!r}: a limit is at least 1, and at most 1000000 a second")
    limit = Limit(amount, float(period), burst)
    if interval_us(limit) * burst > 1 << 51:
        raise ValueError(f"{text!r} with a burst of {burst}: the burst is over after 71 years")
    return limit


def interval_us(limit: Limit) -> int:
    """Microseconds between two that pass. Rounded up, so that no more pass than the limit says. Engines
    reckon in whole numbers, so that a burst is exact."""
    return -(-round(limit.period * 1_000_000) // limit.amount)


def judge(arrival_us: int, now_us: int, limit: Limit, cost: int) -> tuple[int | None, Verdict]:
    """One step of GCRA: the new TAT (None: it stays), and the verdict. `arrival_us` is the TAT that is kept,
    0 for none."""
    interval = interval_us(limit)
    burst = interval * limit.burst
    # A clock that went back must not make anybody wait for longer than an empty burst takes.
    arrival = min(max(arrival_us, now_us), now_us + burst)
    ahead = arrival + interval * cost - now_us - burst
    if ahead > 0:
        return None, Verdict(False, (now_us + burst - arrival) // interval, ahead / 1_000_000)
    return arrival + interval * cost, Verdict(True, -ahead // interval, 0.0)
