"""Waiting where the kernel has no memory to wait with, or to watch a descriptor: by looking again and again.
For the handle sets.
"""

from __future__ import annotations

import errno

from forkd.system.originals import time

#: How often what cannot be watched is looked at.
LOOK_SECONDS = 0.05


def wait_for_memory(error: OSError) -> list[tuple[int, int]]:
    """A wait has failed. Where the kernel has no memory for it (poll(2), select(2): ENOMEM, and EAGAIN),
    nothing is ready, and the next one comes a little later."""
    if error.errno not in (errno.ENOMEM, errno.EAGAIN):
        raise error
    time.sleep(LOOK_SECONDS)
    return []
