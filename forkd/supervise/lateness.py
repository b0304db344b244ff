"""Boots that end otherwise than by being ready: how the master words it. In the master."""

from __future__ import annotations

import signal

#: What a process gets to write its stacks before it is killed, seconds.
LAST_WORDS = 0.4
#: Signals that no application dies of by itself, unlike SIGSEGV or SIGABRT.
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)


def not_booted(who: str, seconds: float) -> str:
    return f"{who} has not loaded the application within {seconds:g} s (--boot-timeout)"


def killed_at_boot(who: str, number: int) -> str:
    return (
        f"{who} was killed by {signal.Signals(number).name} from outside while it booted: by somebody, or "
        "for want of memory (see the kernel's log, and memory.max of its cgroup)"
    )
