"""Boots that take long, or end otherwise than by being ready: how it is worded. In the master, and in
`forkd check`."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from forkd.config import Config
from forkd.ipc.control import ANNOUNCE_SECONDS

#: What a process gets to write its stacks before it is killed, seconds.
LAST_WORDS_SECONDS = 0.4
#: Signals that no application dies of by itself, unlike SIGSEGV or SIGABRT.
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)


def loading(config: Config, pids: Sequence[int]) -> str:
    """What to say of an import that takes that long."""
    by = f" (pid {', '.join(map(str, pids[:4]))}{', ...' if len(pids) > 4 else ''})" if pids else ""
    limit = f", at most {config.boot_timeout:g} s (--boot-timeout)" if config.boot_timeout else ""
    return (
        f"{config.app or 'the welcome app'} is still being loaded after {ANNOUNCE_SECONDS:g} s{by}; "
        f"waiting{limit}"
    )


def not_booted(who: str, seconds: float) -> str:
    return f"{who} has not loaded the application within {seconds:g} s (--boot-timeout)"


def killed_at_boot(who: str, number: int) -> str:
    return (
        f"{who} was killed by {signal.Signals(number).name} from outside while it booted: by somebody, or "
        "since there was no memory (see the kernel's log, and memory.max of its cgroup)"
    )
