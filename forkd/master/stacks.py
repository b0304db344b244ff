"""The stacks that a child wrote, by thread, as faulthandler writes them. In the master.

Each thread's part begins with a line that names it, "Thread 0x00007f0123456789 (most recent call first):" or
"Current thread 0x...", and ends with an empty line or the next one. What comes before the first belongs to
none: the signal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_HEADING = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]{1,16})\b.*:$", re.MULTILINE)


def by_thread(text: str) -> dict[int, str]:
    """The frames of each thread, by what threading.get_ident() is there. The last dump counts, where a
    child was asked more than once."""
    return {thread: part.partition("\n")[2].rstrip() for thread, part in _parts(text) if thread}


def without(text: str, threads: set[int]) -> str:
    """`text` less the parts of those threads."""
    return "".join(part for thread, part in _parts(text) if thread not in threads).strip()


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Each thread's part; 0 for what belongs to none."""
    at = thread = 0
    for heading in _HEADING.finditer(text):
        yield thread, text[at : heading.start()]
        at, thread = heading.start(), int(heading[1], 16)
    frames, empty, rest = text[at:].partition("\n\n")  # which a C stack may follow, of modules
    yield thread, frames + empty
    yield 0, rest
